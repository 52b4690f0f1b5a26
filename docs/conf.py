"""The site: `sphinx-build -W --keep-going -c docs . build/site`.

The repository is its source folder, so that links in pages lead where they lead in the repository.
"""

from __future__ import annotations

import lowbit

project = "lowbit"
author = "the lowbit contributors"
version = release = lowbit.__version__

root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md", "docs/**.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"lowbit {version}"
html_show_sourcelink = False
html_show_copyright = False
html_static_path, html_css_files = ["site/wide.css"], ["wide.css"]
html_extra_path = ["site/index.html"]  # leads to docs/index.html
