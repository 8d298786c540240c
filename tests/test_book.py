"""The book: its chapters hang together. That they run, without a warning, is seen when it is built: .ci/run does it."""

import ast
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parent.parent / "examples" / "learn"
CHAPTERS = sorted(file.stem for file in BOOK.glob("*.md") if file.stem not in ("index", "README"))
CELL = re.compile(r"^```\{code-cell\} ipython3\n((?::tags: [^\n]*\n)?)(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_chapter_is_in_both_lists():
    toctree = (BOOK / "index.md").read_text().split("maxdepth: 1\n")[1].split("```")[0].split()
    listed = re.findall(r"^\| \[(\w+)\.md\]\(\1\.md\)", (BOOK / "README.md").read_text(), re.MULTILINE)
    assert toctree == listed
    assert sorted(toctree) == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_code_that_can_be_read_and_exercises_with_hidden_solutions(chapter):
    text = (BOOK / f"{chapter}.md").read_text()
    cells = CELL.findall(text)
    assert len(cells) == text.count("{code-cell}")
    for _, code in cells:
        ast.parse(code)
        assert max(map(len, code.splitlines())) <= 120
    hidden = [code for tags, code in cells if tags == ":tags: [hide-cell]\n"]
    assert len(hidden) == text.count("**Exercise.**") > 0
