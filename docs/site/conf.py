"""Sphinx's settings for the site: ``sphinx-build -W --keep-going -c docs/site . build/site``.

The root of the sources is the repository, so that the relative links between pages, records and pictures that
work in a checkout work here. Pages that would repeat the code or a record are written from it, see
``reference.py``.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs/site")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ |= {"PYTHONPATH": str(ROOT), "COLUMNS": "150"}  # of what the tutorials run

import contents
import links
import mathml
import notebooks
import reference

import optimiz

project = html_title = "optimiz"
author = copyright = "The optimiz contributors"
release = version = optimiz.__version__

root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/tutorials/*.md",
    "docs/reference/**.md",
    "examples/**/report.md",
    "tests/records/*.md",
]
exclude_patterns = ["build", "runs", ".*"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
nb_execution_mode = "force"  # of the tutorials, which alone have cells
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "gfm"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Records begin below the heading of the page that shows them, and are reached by links, not by the navigation.
# The last is for builds without running the tutorials, -D nb_execution_mode=off.
suppress_warnings = ["myst.header", "toc.not_included", "myst-nb.lexer"]
# Roles, and names in code, lead somewhere. Types of fields come as the modules that define them call them.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(collections|numpy|jax|optax)\..*|ArrayTree"),
    ("py:exc", "re.error"),
]

intersphinx_mapping = links.MAPPING  # inventories in this folder: no network
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the descriptions of arguments say more
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar = False, True
add_module_names = False
copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. |\$ ", True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "use_fullscreen_button": False, "home_page_in_toc": True}
html_static_path, html_css_files, html_js_files = ["static"], ["site.css"], ["search.js"]
html_math_renderer = "mathml"
html_extra_path = ["extra"]  # index.html, which leads to that of docs
html_search_scorer = str(ROOT / "docs/site/scorer.js")
html_show_sourcelink = False


def setup(app):
    """Connect what is written from the code."""
    mathml.setup(app)
    links.setup(app)
    notebooks.setup()
    app.connect("builder-inited", lambda app: reference.write(ROOT))
    app.connect("source-read", contents.add)
    app.connect("source-read", notebooks.offer)
    app.connect("build-finished", notebooks.finish)
