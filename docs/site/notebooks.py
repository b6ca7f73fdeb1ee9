"""The tutorials as notebooks, next to their pages: a person opens them in Jupyter or Colab.

They are written from the same text, whose first cell installs what the others need.
"""

import copy
import re
from pathlib import Path

_RELATIVE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://)[^)\s]+\)")
_TITLE = re.compile(r"^# .+$", re.MULTILINE)
_LINK = """

```{raw} html
<p><a href="%s.ipynb" download>This page as a notebook</a>, for Jupyter, or to upload to Colab.</p>
```
"""


def setup():
    """Let myst-nb join what a cell has written: it would break the line wherever the output came in parts."""
    from myst_nb.core import render

    render.coalesce_streams = joined


def joined(outputs):
    r"""The outputs of a cell, with all that it wrote to one stream as one text, in the place of the first part.

    Example:
        >>> joined([{"output_type": "stream", "name": "stdout", "text": part} for part in ("lo", "ss 1\n")])
        [{'output_type': 'stream', 'name': 'stdout', 'text': 'loss 1\n'}]
    """
    found, streams = [], {}
    for output in outputs:
        if output["output_type"] != "stream":
            found.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = copy.copy(output)  # of its own kind, a node of nbformat
            found.append(streams[output["name"]])
    return found


def offer(app, name, source):
    """Put a link to its notebook below the title of a tutorial.

    Args:
        app: Sphinx's application.
        name: name of the page.
        source: list of its one text, which is changed.
    """
    del app
    folder, _, page = name.rpartition("/")
    if folder.endswith("tutorials"):
        source[0] = _TITLE.sub(lambda title: title[0] + _LINK % page, source[0], count=1)


def without_relative_links(text):
    """A text in which links to other pages, which a notebook alone does not have, are their words.

    Example:
        >>> without_relative_links("[a plan](../planning.md) of [JAX](https://jax.dev)")
        'a plan of [JAX](https://jax.dev)'
    """
    return _RELATIVE.sub(r"\1", text)


def write(tutorials: Path, out: Path) -> None:
    """Write every tutorial in a folder as a notebook.

    Args:
        tutorials: folder of the pages.
        out: folder of the notebooks.
    """
    import jupytext
    import nbformat

    for path in sorted(tutorials.glob("*.md")):
        notebook = jupytext.read(path, fmt="md:myst")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = without_relative_links(cell.source)
        nbformat.validate(notebook)
        nbformat.write(notebook, out / f"{path.stem}.ipynb")


def finish(app, error):
    """Write the notebooks next to the pages that offer them, if these are HTML and were built."""
    if error is None and app.builder.format == "html":
        write(Path(app.srcdir, "docs/tutorials"), Path(app.outdir, "docs/tutorials"))
