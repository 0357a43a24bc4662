"""Sphinx's configuration of the book. Its sources are written by `python -m study.book`; `make book` runs both."""

from importlib import metadata

from study.book.docstrings import class_signature, to_rst
from study.book.mathjax import copy_mathjax
from study.book.sources import address

project = "lqs"
author = "The lqs developers"
version = release = metadata.version("lqs")
copyright = "The lqs developers"  # as a footer has it

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
root_doc = "index"
default_role = "code"  # docstrings have `names` in single backticks

# Notebooks as they are stored: nothing is executed, and no widget asks another host for its JavaScript.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"chtml": {"scale": 0.9}}

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "lqs"
html_static_path = ["static"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system has it
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
}
if address():  # of the repository: links to it, and buttons that open a notebook on other machines
    html_theme_options |= {
        "repository_url": address(),
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def setup(app):
    """Connect what Sphinx calls while it builds."""
    app.set_html_assets_policy("always")  # the list of pages has mathematics, and every page has that list
    app.connect("autodoc-process-docstring", lambda app, what, name, thing, options, lines: to_rst(lines), priority=1)
    app.connect("autodoc-process-signature", lambda app, what, name, thing, *_: class_signature(what, thing))
    app.connect("build-finished", lambda app, error: error or copy_mathjax(app.outdir))
