"""Sphinx configuration."""

from alan import __version__

project = "alan"
author = "The ALAN developers"
copyright = "2026, The ALAN developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    # made by scikit-learn, with links into its own documentation
    "exclude-members": "set_fit_request, set_predict_request, set_score_request, set_transform_request, "
    "set_decision_function_request",
}
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"alan {version}"
