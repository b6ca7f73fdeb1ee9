"""The navigation, from the tables of ``docs/index.md``, and what pages show on the site alone.

A heading of the index is a part of the navigation, and each link below it a page. In other pages
``<!-- site: NAME -->`` is where a picture goes that is drawn when the site is built, and links to the code of
optimizers and packages lead to their pages of the reference. ``WORDS`` are entries of the index, which the
search finds first.
"""

import re
from collections.abc import Iterable

import choosing_pictures
from reference import MODULES, PARTS

from optimiz import methods

_LINK = re.compile(r"\]\(([\w./]+)\.md(?:#[\w-]+)?\)")
_CODE = re.compile(r"\]\(\.\./optimiz/(?:optimizers/(\w+)|(\w+)/__init__)\.py\)")
_PLACE = re.compile(r"<!-- site: (\w+) -->")
WORDS = {  # page → what its readers search for, which the index of the site has
    "devices": ("multiple gpus", "sharding", "fsdp"),
    "diagnostics": ("nan", "loss spike", "divergence"),
    "groups": ("weight decay", "freeze layers", "layer-wise learning rate"),
    "language_models": ("lora",),
    "line_search": ("line search", "no learning rate"),
    "memory": ("memory", "8-bit optimizer", "bfloat16"),
    "mup": ("mup", "hyperparameter transfer"),
    "planning": ("out of memory", "does it fit"),
    "pytorch_state": ("pytorch state", "pytorch checkpoint"),
    "resume": ("checkpoint", "resume", "preemption"),
    "schedules": ("learning rate schedule", "warmup", "cosine decay"),
    "which_optimizer": ("best optimizer", "default learning rate"),
}
SHOWN = {
    name: f"![{caption}](reference/{name}.png)\n\n*{caption}.*\n"
    for name, caption in choosing_pictures.CAPTIONS.items()
} | {
    "schedules": "![Every schedule over a run, at its defaults](reference/schedules.png)\n\n"
    "[A page for each](reference/schedules.md).\n"
}


def add(app, name, source):
    """Append the navigation to the first page, and put pictures and words of the index in their places.

    Args:
        app: Sphinx's application.
        name: name of the page.
        source: list of its one text, which is changed.
    """
    source[0] = _PLACE.sub(lambda place: SHOWN[place[1]], source[0])
    if name.startswith("docs/") and name.count("/") == 1:
        source[0] = _CODE.sub(_of_code, source[0])
        source[0] = _indexed(source[0], WORDS.get(name.partition("/")[2], ()))
    if name != app.config.root_doc:
        return
    parts = {}
    for section in source[0].split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        parts[title] = list(dict.fromkeys(_LINK.findall(body)))
    source[0] += "".join(_tree(title, pages) for title, pages in {**parts, **PARTS}.items())


def _indexed(text: str, words: Iterable[str]) -> str:
    """A page with entries of the index below its title."""
    title, _, rest = text.partition("\n")
    entries = "".join(f"\n```{{index}} ! {word}\n```\n" for word in words)
    return f"{title}\n{entries}{rest}"


def _of_code(link: re.Match[str]) -> str:
    page, package = link.groups()
    if page is not None:
        names = [name for name, method in methods.METHODS.items() if method.page == page]
        return f"](reference/methods/{page if page in names else names[0]}.md)"
    if f"optimiz.{package}" in MODULES or package == "primitives":
        return f"](reference/{'primitives' if package == 'primitives' else f'optimiz.{package}'}.md)"
    return link[0]


def _tree(title, pages):
    return "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```\n"])
