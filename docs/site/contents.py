"""The navigation, from the tables of ``docs/index.md``: a heading is a part, and each link below it a page."""

import re

from reference import PARTS

_LINK = re.compile(r"\]\(([\w./]+)\.md(?:#[\w-]+)?\)")


def add(app, name, source):
    """Append the navigation to the first page, and the reference to what the tables list.

    Args:
        app: Sphinx's application.
        name: name of the page.
        source: list of its one text, which is changed.
    """
    if name != app.config.root_doc:
        return
    parts = {}
    for section in source[0].split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        parts[title] = list(dict.fromkeys(_LINK.findall(body)))
    source[0] += "".join(_tree(title, pages) for title, pages in {**parts, **PARTS}.items())


def _tree(title, pages):
    return "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```\n"])
