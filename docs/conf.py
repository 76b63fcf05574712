"""Settings of the site: ``python -m sphinx -W docs docs/_build/html``."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
# Pages import `experiments` and this folder's own modules, here and in the kernels that run them.
sys.path[:0] = [str(DOCS.parent), str(DOCS)]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
# Tutorials spend most of their time in compilation: it is kept short, and kept for the next build.
CACHE = Path(os.environ.get("NMNC_JAX_CACHE", Path.home() / ".cache" / "nmnc_jax"))
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

project = "nmnc_jax"
author = "The nmnc_jax authors"
copyright = "2026, The nmnc_jax authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "py:obj"

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "returns_style")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_eval_name_regex = ".+"
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "nmnc_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b3261e", "color-brand-content": "#a3201a"},
    "dark_css_variables": {"color-brand-primary": "#ff8a80", "color-brand-content": "#ff9d94"},
}


def spread_out(app, env, names):
    """Orders pages so that the tutorials are shared out over what is read in parallel."""
    names[:] = [name for first in range(6) for name in sorted(names)[first::6]]


def setup(app):
    """Registers what is above."""
    app.connect("env-before-read-docs", spread_out)
