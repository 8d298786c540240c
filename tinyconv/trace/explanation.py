"""An explanation: the sum that makes one number, term by term."""

import ast
import html
import inspect
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from tinyconv.checking import console
from tinyconv.trace.formula import as_mathml, as_text

LINES = 12  # of a sum, at most
MOST_REASONS = 4096  # zeros beyond the shown lines whose reasons are counted

Place = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """A number in a product: what it is called, where it stands in the array of that name, if in one, and its value."""

    name: str
    place: Place | None
    value: float

    def __str__(self) -> str:
        return self.name if self.place is None else f"{self.name}{list(self.place)}"


@dataclass(frozen=True)
class Term:
    """One product of a sum. ``why``: the reason, where it is zero and there is one."""

    value: float
    factors: tuple[Factor, ...]
    why: str = ""

    def __str__(self) -> str:
        return " × ".join(map(str, self.factors))


@dataclass(frozen=True, eq=False)
class Column:
    """One factor of many terms: its values (K,), and where each of them stands (K, axes)."""

    name: str
    values: np.ndarray
    places: np.ndarray | None = None

    def factor(self, row: int) -> Factor:
        place = None if self.places is None else tuple(self.places[row].tolist())
        return Factor(self.name, place, float(self.values[row]))


@dataclass(frozen=True, eq=False)
class Rows:
    """Terms of one kind: the products, row by row, of their columns. ``why`` gives the reason for a zero in a row."""

    columns: tuple[Column, ...]
    why: Callable[[int], str] = field(default=lambda row: "", repr=False)

    @cached_property
    def values(self) -> np.ndarray:
        return np.prod([column.values.astype(np.float64) for column in self.columns], axis=0)

    def term(self, row: int) -> Term:
        value = float(self.values[row])
        factors = tuple(column.factor(row) for column in self.columns)
        return Term(value, factors, "" if value else self.why(row))


def single(*factors: tuple[str, Place | None, Any], why: str = "") -> Rows:
    """One term, of factors (name, place, value)."""
    columns = []
    for name, place, value in factors:
        places = None if place is None else np.array([place], np.int64).reshape(1, len(place))
        columns.append(Column(name, np.array([value], np.float64), places))
    return Rows(tuple(columns), lambda row: why)


class Terms(Sequence[Term]):
    """All terms of a sum; each is made when it is asked for."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        self._rows = rows
        self._ends = np.cumsum([len(each.values) for each in rows]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Term: ...
    @overload
    def __getitem__(self, index: slice) -> list[Term]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"There are {len(self)} terms. Received: the index {index}.")
        rows, row = self._find(at)
        return rows.term(row)

    def why(self, index: int) -> str:
        """The reason of a term that is zero."""
        rows, row = self._find(index)
        return rows.why(row)

    def _find(self, index: int) -> tuple[Rows, int]:
        which = bisect_right(self._ends, index)
        return self._rows[which], index - (self._ends[which - 1] if which else 0)

    def __iter__(self) -> Iterator[Term]:
        return (each.term(row) for each in self._rows for row in range(len(each.values)))

    def __repr__(self) -> str:
        return f"<{len(self)} terms>"

    @cached_property
    def values(self) -> np.ndarray:
        """The terms' values alone."""
        return np.concatenate([each.values for each in self._rows]) if self._rows else np.zeros(0)


@dataclass(frozen=True)
class Then:
    """What is done with a sum: in words or signs, and what comes of it."""

    text: str
    value: float


@dataclass(frozen=True)
class Fact:
    """A number that the terms are made of, or that stands behind them."""

    name: str
    value: float
    text: str = ""


PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Reference:
    """The function in which the mathematics is written down, and in it the line that computes this number."""

    name: str
    file: str
    line: int
    marked: int
    code: tuple[str, ...]  # of the function, from ``line`` on, without its docstring's lines before ``marked``

    @property
    def marked_code(self) -> str:
        return self.code[self.marked - self.line].strip()

    def to_dict(self) -> dict[str, Any]:
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "code": list(self.code)}

    def __str__(self) -> str:
        return f"{self.name} ({self.file}, line {self.marked}): {self.marked_code}"


@cache
def reference_to(function: Any, mark: str = "") -> Reference:
    """A function, and its first line with ``mark`` in it (without one, its last)."""
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getsourcefile(function) or "").resolve()
    shown = file.relative_to(PACKAGE.parent).as_posix() if file.is_relative_to(PACKAGE) else file.name
    code = tuple(line.rstrip() for line in lines)
    begin = 0
    if mark:  # not in the docstring
        (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
        assert isinstance(definition, ast.FunctionDef)
        begin = definition.body[0].end_lineno or 0 if ast.get_docstring(definition) is not None else 0
    places = [i for i, line in enumerate(code) if mark and mark in line and i >= begin]
    if mark and not places:
        raise LookupError(f"{function.__name__} has no line with {mark!r}.")
    return Reference(function.__name__, shown, first, first + (places[0] if places else len(code) - 1), code)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where one number of a trace comes from.

    ``terms`` add up to ``sum``; what is done with that (an activation, a division) says ``then``, if anything is; and
    so it is ``value``, the number in the array, but for rounding: terms are multiplied and added in double precision.
    """

    layer: str
    what: str  # the array: "output", "dkernel"
    place: Place
    value: float
    rows: tuple[Rows, ...]
    formula: str  # in LaTeX
    sentences: tuple[str, ...]
    reference: Reference
    then: tuple[Then, ...] = ()
    facts: tuple[Fact, ...] = ()
    weight: str = ""  # of a step or a moment: whose it is

    @cached_property
    def terms(self) -> Terms:
        return Terms(self.rows)

    @cached_property
    def sum(self) -> float:
        return float(np.sum(self.terms.values))

    @property
    def result(self) -> float:
        """The number as the explanation computes it."""
        return self.then[-1].value if self.then else self.sum

    @property
    def call(self) -> str:
        """What gives this explanation in Python."""
        if not self.place:
            return "trace.explain_loss()"
        of = f"{self.weight!r}, " if self.weight else ""
        return f"trace[{self.layer!r}].explain({self.what!r}, {of}{self.place})"

    def shown(self, limit: int | None = LINES) -> tuple[list[Term], dict[str, Any] | None]:
        """The terms to show, the largest first if there are more than ``limit``; and what is said of the rest."""
        count = len(self.terms)
        if limit is None or count <= limit:
            return list(self.terms), None
        order = np.argsort(-np.abs(self.terms.values), kind="stable").tolist()
        first, rest = order[: limit - 1], order[limit - 1 :]
        values = self.terms.values[rest]
        zeros = [i for i, value in zip(rest, values.tolist(), strict=True) if value == 0]
        reasons = Counter(map(self.terms.why, zeros[:MOST_REASONS]))
        said = {why: number for why, number in reasons.most_common() if why and len(zeros) <= MOST_REASONS}
        return [self.terms[i] for i in first], {
            "count": len(rest),
            "sum": float(values.sum()),
            "zeros": len(zeros),
            "reasons": said,
        }

    def to_dict(self, limit: int | None = LINES) -> dict[str, Any]:
        """All of it as lists, numbers and text; ``limit``: of lines, None: every term."""
        terms, rest = self.shown(limit)
        return {
            "layer": self.layer,
            "what": self.what,
            "place": list(self.place),
            "value": self.value,
            "sum": self.sum,
            "count": len(self.terms),
            "terms": [_plain(term) for term in terms],
            "rest": rest,
            "then": [{"text": each.text, "value": each.value} for each in self.then],
            "facts": [{"name": each.name, "value": each.value, "text": each.text} for each in self.facts],
            "sentences": list(self.sentences),
            **self.theory(),
            "call": self.call,
        }

    def theory(self) -> dict[str, Any]:
        """Of it that which is the same for all numbers of an array: the formula, and the lines of the reference."""
        written = {"formula": as_text(self.formula), "mathml": as_mathml(self.formula)}
        return {**written, "reference": self.reference.to_dict()}

    @property
    def title(self) -> str:
        of = f" of {self.weight}" if self.weight else ""
        where = f"{self.layer}, {self.what}{of}{list(self.place)}" if self.place else f"{self.layer}"
        return f"{where} = {number(self.value)}"

    def _lines(self) -> list[tuple[str, str, str]]:
        """The sum as lines: a product, its numbers, its value; and what is done with the sum."""
        terms, rest = self.shown()
        lines = []
        for term in terms:
            numbers = " × ".join(number(factor.value) for factor in term.factors) if len(term.factors) > 1 else ""
            why = f" ({term.why})" if term.why else ""
            lines.append((f"{term}{why}", numbers, number(term.value)))
        if rest is not None:
            reasons = "; ".join(f"{count} {why}" for why, count in rest["reasons"].items())
            zeros = f", {rest['zeros']} of them zero" if rest["zeros"] else ""
            lines.append((f"{rest['count']} more{zeros}{f' ({reasons})' if reasons else ''}", "", number(rest["sum"])))
        return lines

    def __str__(self) -> str:
        lines = self._lines()
        if len(self.terms) > 1 or self.then:
            lines.append(("sum", "", number(self.sum)))
        lines += [(each.text, "", number(each.value)) for each in self.then]
        left, middle, right = (max(len(line[i]) for line in lines) for i in range(3))
        text = [self.title, "", *(f"  {sentence}" for sentence in self.sentences), ""]
        for i, (what, numbers, value) in enumerate(lines):
            if what == "sum" and i:
                text.append(f"    {'─' * (left + middle + right + 4)}")
            text.append(f"    {what:<{left}}  {numbers:>{middle}}  {value:>{right}}".rstrip())
        text += ["", *(f"    {fact.name} = {number(fact.value)}  {fact.text}".rstrip() for fact in self.facts)]
        text += [""] if self.facts else []
        text += [f"  {as_text(self.formula)}", f"  {self.reference}"]
        return console.encodable("\n".join(text))

    def __repr__(self) -> str:
        then = f", then {', '.join(each.text for each in self.then)}" if self.then else ""
        return f"<{self.title}: {len(self.terms)} terms, sum {number(self.sum)}{then}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of an explanation."""
        right = 'style="text-align:right"'
        cells = [f"<td {right}>{html.escape(a)}</td>" if i else f'<td style="text-align:left">{html.escape(a)}</td>'
                 for line in self._lines() for i, a in enumerate(line)]  # fmt: skip
        rows = "".join(f"<tr>{''.join(cells[i : i + 3])}</tr>" for i in range(0, len(cells), 3))
        ends = [("sum", self.sum), *((each.text, each.value) for each in self.then)]
        rows += "".join(
            f'<tr><th style="text-align:left">{html.escape(text)}</th><th></th><th {right}>{number(value)}</th></tr>'
            for text, value in ends
        )
        facts = "".join(f"<div>{html.escape(f'{f.name} = {number(f.value)} {f.text}')}</div>" for f in self.facts)
        sentences = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        source = f"<div><code>{html.escape(str(self.reference))}</code></div>"
        head = f"<div><b>{html.escape(self.title)}</b></div>{sentences}"
        return f"<div>{head}<table>{rows}</table>{facts}{as_mathml(self.formula)}{source}</div>"


def _plain(term: Term) -> dict[str, Any]:
    factors = [
        {"name": factor.name, "place": None if factor.place is None else list(factor.place), "value": factor.value}
        for factor in term.factors
    ]
    return {"value": term.value, "factors": factors, "why": term.why}


def number(value: float) -> str:
    """Short, with a minus sign as wide as a plus: 0.6292, −1.3e−05."""
    if abs(value) < 1e6 and value == int(value):
        return str(int(value)).replace("-", "−")
    text = f"{value:.4f}" if 1e-2 <= abs(value) < 1e4 else f"{value:.4g}"
    return text.replace("-", "−")
