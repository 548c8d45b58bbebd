"""Sphinx configuration: built-in extensions only; building fetches nothing (reading the equations, MathJax does)."""

import nbrnn

project = "nbrnn"
copyright = "2026, the nbrnn developers"
author = "the nbrnn developers"
release = version = nbrnn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": nbrnn.__doc__.strip(), "page_width": "1050px"}
html_static_path: list[str] = []
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
doctest_global_setup = "import numpy as np\nimport nbrnn"
