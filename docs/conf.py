"""Sphinx configuration.  Building fetches nothing (reading the equations, MathJax does)."""

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
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "data", "gallery"]
# Scripts of gallery/ are run, their pictures and what they print go to examples/.  -D plot_gallery=0 leaves them out.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "copyfile_regex": r".*\.rst",
    "abort_on_example_error": True,
}
html_theme = "alabaster"
html_theme_options = {"description": nbrnn.__doc__.strip(), "page_width": "1050px"}
html_static_path: list[str] = []
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
doctest_global_setup = "import numpy as np\nimport nbrnn"
