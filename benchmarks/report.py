"""How all benchmarks here report: facts about the machine, Markdown tables, JSON, pictures."""

import json
import os
import platform
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS, THEIRS, MET, MISSED = "#1f6fb4", "#e08214", "#3a923a", "#c03d3e"


@dataclass(frozen=True)
class Result:
    """One measured number, and the target it is held to, if there is one."""

    section: str
    work: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False  # whether the target is an upper limit
    ours: str = ""  # what the value was computed from
    theirs: str = ""
    seconds: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of every run, by who ran

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def margin(self) -> float:
        """How far beyond its target: above 1 is met."""
        assert self.target is not None
        if self.at_most:
            return self.target / max(self.value, 0.05 * self.target)
        return self.value / self.target

    @property
    def row(self) -> tuple[str, ...]:
        target = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {amount(self.target, self.unit)}"
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return self.work, self.ours, self.theirs, amount(self.value, self.unit), target, verdict


RESULT_COLUMNS = ("work", "tinyconv", "compared with", "value", "target", "met")


def amount(value: float, unit: str) -> str:
    """5.0x, 83 %, 310 MB, 1.2 s."""
    digits = 0 if unit in ("%", "MB", "ms") else 2
    return f"{value:.{digits}f}{'' if unit == 'x' else ' '}{unit}"


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(packages: Sequence[str] = ("numpy", "numba")) -> dict[str, str]:
    """The facts that give a time its meaning."""
    return {
        "processor": processor(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        "date": now(),
    }


def now() -> str:
    """The date and time."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        wide = " with AVX-512" if "avx512f" in found.get("flags", "") else ""
        numbers = ", ".join(f"{name} {found[name]}" for name in ("cpu family", "model") if name in found)
        return f"{found['model name']} ({numbers}){wide}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def cpu_ticks() -> tuple[int, int] | None:
    """Busy and all clock ticks of all processors so far (Linux)."""
    try:
        numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


class LoadWatch:
    """The share of the processors that other processes use, from now on: a timing beside other work is worth little."""

    def __init__(self, own: Callable[[], float] = own_seconds) -> None:
        self.own, self.before, self.ticks = own, own(), cpu_ticks()

    def share(self) -> str:
        """So far. ``own`` gives the processor time that counts as the benchmark's own."""
        if self.ticks is None or (later := cpu_ticks()) is None:
            return "unknown"
        busy, total = later[0] - self.ticks[0], max(later[1] - self.ticks[1], 1)
        own = (self.own() - self.before) * os.sysconf("SC_CLK_TCK")
        return f"{100 * max(busy - own, 0) / total:.0f} % of the processors"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """A Markdown table, its columns padded so that it reads well as plain text too."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(3, len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(columns)]

    def line(row: Sequence[str]) -> str:
        fitted = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(fitted)} |"

    rule = ["-" * (w - 1) + (":" if i in right else "-") for i, w in enumerate(widths)]
    return "\n".join([line(columns), line(rule), *map(line, cells)])


def facts_list(facts: dict[str, str]) -> str:
    """Facts as one Markdown paragraph."""
    return ", ".join(f"{name}: {value}" for name, value in facts.items()) + "."


def add_output(parser: ArgumentParser) -> None:
    """The options that say where results go: nowhere, unless one asks, so that no trial replaces a recorded run."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--out", "--results", type=Path, metavar="FOLDER", help="write the results into this folder")
    help_ = "replace the recorded results in benchmarks/results"
    group.add_argument("--record", dest="out", action="store_const", const=RESULTS, help=help_)


def write(folder: Path | None, name: str, title: str, body: str, content: dict[str, Any]) -> None:
    """Write ``name``.md and ``name``.json."""
    if folder is None:
        print("Nothing is written: --out FOLDER writes the results there, --record into benchmarks/results.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"# {title}\n\n{body}\n", encoding="utf-8")
    plain = json.dumps(content, indent=1, ensure_ascii=False, default=lambda thing: asdict(thing))
    (folder / f"{name}.json").write_text(plain + "\n", encoding="utf-8")


STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "font.size": 9,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
}


def picture(
    folder: Path | None, name: str, size: tuple[float, float], paint: Callable[[Any], None], caption: str
) -> None:
    """Save ``name``.png, which ``paint`` draws on a figure of that size in inches, with a caption below it.

    The style holds for this picture only: Matplotlib's settings, which are the whole process's, stay as they are.
    """
    if folder is None:
        return
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture: matplotlib is not installed (pip install 'tinyconv[plot]').")
        return
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        paint(figure)
        figure.supxlabel(caption, fontsize=7, color="#666666", x=0.01, ha="left")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")


def bars(
    axes: Any, names: Sequence[str], values: Sequence[float], labels: Sequence[str], colors: Sequence[str]
) -> None:
    """Horizontal bars, the first on top, each with its label behind it."""
    drawn = axes.barh(range(len(names)), values, color=colors, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.bar_label(drawn, labels, padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
