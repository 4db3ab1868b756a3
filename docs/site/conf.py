"""Sphinx's settings; the sources are those that ``stage.py`` gathers."""

from __future__ import annotations

import re
from typing import Any

import ase_nnp

project = "ase_nnp"
author = "the ase_nnp developers"
copyright = "2026, the ase_nnp developers"
release = version = ase_nnp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
nitpicky = False

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
# Two hyphens are an option of a command, not a dash.
smartquotes_action = "qe"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
# Optional packages that a page of the reference must not need.
autodoc_mock_imports = ["parsl", "ray", "torch_sim"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"ase_nnp {release}"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["narrow.css"]
html_copy_source = False
html_show_sourcelink = False
# Pages are read from a disk without a network, so formulas are MathML and no script from elsewhere.
html_math_renderer = "mathml"


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep bars in docstrings (``|F|``, a norm) from being taken for substitutions."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`)", line)
        lines[number] = "".join(p if p.startswith("`") else p.replace("|", r"\|") for p in parts)


def inline_math(self: Any, node: Any) -> None:
    """Write a formula inside a line."""
    from docutils import nodes
    from docutils.utils.math import latex2mathml

    self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block_math(self: Any, node: Any) -> None:
    """Write a formula in lines of its own."""
    from docutils import nodes
    from docutils.utils.math import latex2mathml

    formula = latex2mathml.tex2mathml(node.astext().replace("&", ""), as_block=True)
    self.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def mark_short_words(app: Any, page: str, template: str, context: Any, doctree: Any) -> None:
    """Mark words of code of up to 24 letters, which the style keeps in one line."""
    if "body" in context:
        short = r'<span class="pre">([^<]{1,24})</span>'
        context["body"] = re.sub(short, r'<span class="pre whole">\1</span>', context["body"])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", mark_short_words)
    app.connect("autodoc-process-docstring", escape_bars)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
