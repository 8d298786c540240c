"""Tables for a terminal or a notebook."""

import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyconv.checking import console

NARROWEST = 20  # columns of a terminal below which nothing can be read


@dataclass(frozen=True)
class Table:
    """A title, rows under columns, and lines below. ``right`` are the columns to align to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    right: Sequence[int] = ()
    needs: Mapping[int, int] = field(default_factory=dict)  # columns that a terminal of less than that width leaves out

    def __str__(self) -> str:
        return self.text()

    def text(self, columns: int | None = None) -> str:
        """As text that fits the terminal, or so many columns, in characters that the standard output can encode."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        # A terminal wraps a line that fills it to the last column.
        width = max(console.width() - 1, NARROWEST) if columns is None else columns
        shown = [i for i in range(len(self.columns)) if self.needs.get(i, 0) <= width]
        for i in shown:
            right = i in self.right
            table.add_column(self.columns[i], justify="right" if right else "left", overflow="fold", no_wrap=right)
        for row in self.rows:
            table.add_row(*(row[i].replace("[", r"\[") for i in shown))
        screen = Console(file=io.StringIO(), width=width, color_system=None)
        screen.print(table)
        for note in self.notes:
            screen.print(f" {note}", markup=False, highlight=False, emoji=False)
        assert isinstance(screen.file, io.StringIO)
        lines = screen.file.getvalue().rstrip().splitlines()
        return console.encodable("\n".join(line.rstrip() for line in lines))

    def to_html(self) -> str:
        """As a table of a notebook."""

        def line(tag: str, cells: Sequence[str]) -> str:
            sides = ("right" if i in self.right else "left" for i in range(len(cells)))
            texts = zip(sides, cells, strict=True)
            return "".join(f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>' for side, cell in texts)

        head = f"<thead><tr>{line('th', self.columns)}</tr></thead>"
        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<div>{html.escape(self.title)}</div><table>{head}<tbody>{body}</tbody></table>{notes}"


class Tabled:
    """What is shown as its table, by print and by a notebook."""

    def table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.table().to_html()


def dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def size(nbytes: float) -> str:
    """Bytes in a unit a person reads: 12.00 KB."""
    power = min(int(math.log(nbytes, 1024)), 3) if nbytes >= 1 else 0
    return f"{nbytes / 1024**power:.{2 if power else 0}f} {('B', 'KB', 'MB', 'GB')[power]}"
