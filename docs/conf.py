"""Sphinx configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from reference import write_all

from alan import __version__

project = "alan"
author = "The ALAN developers"
copyright = "2026, The ALAN developers"
release = version = __version__

write_all(Path(__file__).parent / "reference")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "reference/_*"]

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # seconds per cell, also on a busy machine
nb_execution_in_temp = True
nb_merge_streams = True

autosummary_generate = False
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
