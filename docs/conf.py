"""How `make docs` builds these pages: Sphinx with MyST, so that they are plain Markdown for readers on the web too."""

project = "Swarm Learning"
author = "the Swarm Learning authors"
copyright = "2026, the Swarm Learning authors"  # noqa: A001  # Sphinx's name

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Pages link to files of the repository, which are not pages.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = "Swarm Learning"
exclude_patterns = ["adr/README.md"]
