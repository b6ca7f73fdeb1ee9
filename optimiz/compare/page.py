"""A report as one file: HTML with its pictures inside, which can be opened or sent on its own."""

import base64
import html
from collections.abc import Collection, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from optimiz.compare.markdown import shown

_PNG = b"\x89PNG\r\n"
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
h1 + p {{ font-size: 1.2rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; white-space: nowrap; }}
td {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; height: auto; }}
</style>
{body}</html>
"""


def self_contained(markdown: str, title: str, directory: Path, pictures: Collection[str]) -> str:
    """Render Markdown as a page of HTML that refers to no other file.

    Args:
        markdown: CommonMark with tables; HTML in it is shown as text.
        title: title of the page.
        directory: directory of the pictures, which are PNG files.
        pictures: names of the pictures that may be shown. Any other, and any that is missing, is replaced by
            its name: Markdown from outside must not put a file of this machine on the page.

    Returns:
        The page as HTML.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for picture in _pictures(tokens):
        name = str(picture.attrs["src"])
        try:
            content = (directory / name).read_bytes() if name in pictures else b""
        except OSError:
            content = b""
        if content.startswith(_PNG):
            picture.attrs["src"] = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        else:
            picture.type, picture.tag, picture.children = "text", "", None
            picture.content = f"[{picture.content}: {name}]"
    body = parser.renderer.render(tokens, parser.options, {})
    return _PAGE.format(title=html.escape(shown(title)), body=body)


def _pictures(tokens: Sequence[Token]) -> list[Token]:
    children = [child for token in tokens for child in token.children or ()]
    return [child for child in children if child.type == "image"]
