"""Configuration of the documentation site, whose source is the folder above: its links also work on GitHub."""

import sys
from pathlib import Path

import videomem

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

project, version, copyright = "videomem", videomem.__version__, "The videomem developers"
html_title = f"videomem {version}"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "data/*.md", "benchmarks/*.md", "examples/*.ipynb"]
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!videomem\.).*")]  # names of other libraries, and of type variables

nb_execution_mode = "force"  # Notebooks are committed without outputs.
nb_execution_in_temp = True  # What a notebook writes does not stay beside it.
nb_execution_timeout = 600
nb_execution_raise_on_error = True
myst_enable_extensions = []  # Formulas are code, which needs no scripts from elsewhere.
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_use_ivar = True

html_theme = "furo"
html_theme_options = {
    "source_repository": "https://github.com/videomem/videomem",
    "source_branch": "main",
    "source_directory": "",
}
html_use_index = html_domain_indices = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
