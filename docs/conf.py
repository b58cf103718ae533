"""How Sphinx builds these pages: ``make docs``, or ``python -m sphinx -W -b html docs docs/_build/html``."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version as installed

# Airflow writes a configuration file into its home when it is imported: not into the reader's.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="astronomer-docs-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

project = "astronomer-providers"
author = "The astronomer-providers developers"
copyright = f"2026, {author}"
release = installed("astronomer-providers")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}

nitpicky = True
# Classes of other projects, which the signatures and base classes name.
nitpick_ignore_regex = [
    (
        "py:class",
        r"astronomer\.(deferral\.lineage\.Lineage|runtime\.(permissions|user)\..*)",
    ),  # bases without a page
    ("py:class", r"jwt\.exceptions\..*"),  # its documentation has no index
    ("py:.*", r"(airflow|snowflake|starlette|aiohttp|tenacity)\..*"),
    ("py:.*", r"(asyncio|collections|contextlib|logging|datetime|pathlib|random|typing|abc|enum|ssl)\..*"),
    ("py:class", r"astronomer\..*\._\w+"),  # private
    ("py:class", r"(ABC|Enum|Generic|Exception|Path|object|str)"),
    ("py:obj", r"astronomer\.deferral\.job\.J"),
    (
        "py:exc",
        r"(AirflowException|AirflowNotFoundException|AirflowSensorTimeout|External\w+Error|ValueError|TypeError|RuntimeError|OSError|TimeoutError|urllib\.error\.URLError)",
    ),
]

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False
