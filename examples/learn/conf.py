"""How Sphinx builds the book: every chapter runs, and no page needs the network."""

import html
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tinyconv.trace.formula import as_mathml

project = "How a convolutional network learns"
author = "The tinyconv authors"
project_copyright = author
extensions = ["myst_nb"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["book.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"


def inline(writer: Any, node: Any) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    writer.body.append(as_mathml(node.astext()).replace(' display="block"', "", 1))
    raise SkipNode


def block(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="formula" title="{html.escape(node.astext())}">{as_mathml(node.astext())}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
