"""Compare tinyconv with every peer that is installed, all in one interleaved run, and hold it to its targets.

    python benchmarks/compare.py                            everything: about half an hour on two quiet cores
    python benchmarks/compare.py --quick                    a few seconds of work, to see that it runs
    python benchmarks/compare.py --record                   writes compare.md, .json and .png into benchmarks/results/
    python benchmarks/compare.py --record --add --sections epoch inference

``pip install -e '.[bench]'`` installs the
peers. How it is made fair: benchmarks/worker.py (one process at a time), benchmarks/peers/ (the same work for all),
benchmarks/measure.py (turns and medians).
"""

import argparse
import json
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import network, peers, report
from benchmarks.report import Result
from benchmarks.sections import SECTIONS, Session


def main(arguments: list[str] | None = None) -> list[Result]:
    options = parse_options(arguments)
    facts = report.machine() | {"threads": str(options.threads)}
    print(report.facts_list(facts))
    run = Run.earlier(options.out, facts) if options.add else Run(facts)
    with tempfile.TemporaryDirectory() as folder:
        network.save_data(Path(folder))
        with open_session(Path(folder), options) as session:
            for line in session.remarks:
                print(line)
            for name in options.sections:
                started, watch = time.perf_counter(), report.LoadWatch(session.processor_seconds)
                found = run.results[name] = SECTIONS[name](session)
                took = f"{(time.perf_counter() - started) / 60:.1f} minutes"
                run.conditions[name] = {"date": report.now(), "took": took, "other load": watch.share()}
                run.facts |= session.facts
                run.remarks = list(dict.fromkeys([*run.remarks, *session.remarks]))
                print(f"\n{report.table(report.RESULT_COLUMNS, [r.row for r in found])}\n", flush=True)
                write(run, options.out)  # now, so that an interrupted run keeps what it has
    draw(run.rows, options.out, f"{facts['processor']}, {facts['threads']} threads, {facts['date']}")
    print(verdict(run.rows))
    return run.rows


@dataclass
class Run:
    """What was measured, by section, and under which conditions."""

    facts: dict[str, str]
    results: dict[str, list[Result]] = field(default_factory=dict)
    conditions: dict[str, dict[str, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def earlier(cls, folder: Path, facts: dict[str, str]) -> "Run":
        """The run in that folder, if it was made on the same machine."""
        content = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
        for name in ("processor", "cores", "threads"):
            if content["machine"][name] != facts[name]:
                sys.exit(
                    f"Cannot add to {folder}: its {name} was {content['machine'][name]}, and is {facts[name]} now."
                )
        results = {name: [Result(**fields) for fields in found] for name, found in content["results"].items()}
        return cls(content["machine"] | facts, results, content["conditions"], content["remarks"])

    @property
    def rows(self) -> list[Result]:
        """All results, in the order of the sections."""
        return [result for name in SECTIONS for result in self.results.get(name, [])]


def open_session(folder: Path, options: argparse.Namespace) -> Session:
    contenders, remarks = peers.installed([peer for peer in peers.PEERS if peer.name in options.peers])
    return Session(folder, contenders, remarks, options.threads, options.rounds, options.quick, options.backend)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    names = [peer.name for peer in peers.PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="NAME", help="whom to compare with")
    parser.add_argument("--threads", type=int, default=report.cores(), help="threads for every library")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every library; results are medians of them")
    parser.add_argument("--backend", default="cpu", help="tinyconv's kernels")
    parser.add_argument("--quick", action="store_true", help="tiny amounts of work; the times mean nothing")
    parser.add_argument("--add", action="store_true", help="keep the other sections of the run in the folder")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    if options.add and options.out is None:
        parser.error("--add needs --record or --out FOLDER: the run to add to.")
    if options.quick and options.rounds == parser.get_default("rounds"):
        options.rounds = 1
    return options


def verdict(results: list[Result]) -> str:
    """The number of targets that are met, in a line."""
    held = [r for r in results if r.target is not None]
    missed = [r.work for r in held if not r.met]
    return f"{len(held) - len(missed)} of {len(held)} targets are met." + "".join(
        f"\nMissed: {work}" for work in missed
    )


def is_detail(result: Result) -> bool:
    """Single convolutions and peers' epochs, which get a table of their own."""
    return result.target is None or (result.section == "conv" and result.theirs != "PyTorch" and result.unit == "x")


def write(run: Run, folder: Path | None) -> None:
    """compare.md and compare.json."""
    about = (
        "Made by `python benchmarks/compare.py --record`. All libraries do the same work on the same cores, in "
        "turn and one process at a time, after a check that their results are equal. Times are medians, ± half the "
        "distance between the slowest and the fastest run; compare.json has every run."
    )
    columns, rows = report.RESULT_COLUMNS, run.rows
    parts = [about, report.facts_list(run.facts), report.table(columns, [r.row for r in rows if not is_detail(r)])]
    parts += [verdict(rows), "![The comparison](compare.png)", "## In detail"]
    parts.append(report.table(columns, [r.row for r in rows if is_detail(r)]))
    conditions = [(name, *run.conditions[name].values()) for name in SECTIONS if name in run.conditions]
    parts.append(report.table(("section", "measured", "took", "used by other processes meanwhile"), conditions))
    parts.append("\n".join(f"* {remark}" for remark in run.remarks))
    content = {"machine": run.facts, "conditions": run.conditions, "remarks": run.remarks, "results": run.results}
    report.write(folder, "compare", "tinyconv and its peers", "\n\n".join(parts), content)


def draw(results: list[Result], folder: Path | None, caption: str) -> None:
    """compare.png: the epochs, the targets, and the convolutions, as far as they were measured."""
    held = [r for r in results if r.target is not None and not is_detail(r)]
    epochs = [r for r in results if r.section == "epoch" and r.target is None]
    convolutions = [r for r in results if r.section == "conv" and is_detail(r) and r.unit == "x"]
    if not held:
        return
    names = [name for name, there in (("epochs", epochs), ("targets", held), ("conv", convolutions)) if there]
    heights = {
        "epochs": 0.6 + 0.3 * len(epochs),
        "targets": 0.8 + 0.26 * len(held),
        "conv": 0.9 + 0.33 * len(network.CONVOLUTIONS),
    }
    sizes = [heights[name] for name in names]

    def paint(figure: Any) -> None:
        axes = figure.subplots(len(names), 1, height_ratios=sizes, squeeze=False)
        for name, a in zip(names, axes[:, 0], strict=True):
            if name == "epochs":
                draw_epochs(a, epochs)
            elif name == "targets":
                draw_targets(a, held)
            else:
                draw_convolutions(a, convolutions)

    report.picture(folder, "compare", (11, sum(sizes) + 0.4), paint, caption)


def draw_epochs(axes, epochs: list[Result]) -> None:
    """Seconds per epoch, the fastest on top."""
    epochs = sorted(epochs, key=lambda r: r.value)
    names = [r.work.removeprefix("an epoch of ").split(",")[0] for r in epochs]
    colors = [report.OURS if name == peers.TINYCONV.name else report.THEIRS for name in names]
    report.bars(axes, names, [r.value for r in epochs], [f"{r.value:.1f} s" for r in epochs], colors)
    axes.set_xlabel("seconds")
    axes.set_title("One training epoch of the MNIST network")


def draw_targets(axes, held: list[Result]) -> None:
    """How far beyond, or short of, its target each measured value is."""
    colors = [report.MET if r.met else report.MISSED for r in held]
    for number, (r, color) in enumerate(zip(held, colors, strict=True)):
        axes.plot([1, r.margin], [number, number], color=color, linewidth=2)
        label = f"  {report.amount(r.value, r.unit)}" if r.margin >= 1 else f"{report.amount(r.value, r.unit)}  "
        axes.text(r.margin, number, label, va="center", ha="left" if r.margin >= 1 else "right", fontsize=8)
    axes.scatter([r.margin for r in held], range(len(held)), color=colors, zorder=3)
    axes.axvline(1, color="#444444", linewidth=1)
    signs = ("≤" if r.at_most else "≥" for r in held)
    names = [r.work.partition(":")[0] for r in held]
    labels = [
        textwrap.fill(f"{name}  {sign} {report.amount(r.target, r.unit)}", 60)
        for r, name, sign in zip(held, names, signs, strict=True)
    ]
    axes.set_yticks(range(len(held)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [
        t
        for t in (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20)
        if min(r.margin for r in held) / 1.5 < t < 1.5 * max(r.margin for r in held)
    ]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.minorticks_off()
    axes.margins(x=0.2)
    axes.set_xlabel("how far beyond its target")
    axes.set_title("The targets (green: met)")


def draw_convolutions(axes, convolutions: list[Result]) -> None:
    """tinyconv's speed over PyTorch's, for each shape, one mark for each pass."""
    shapes = list(dict.fromkeys(r.work.partition(", ")[2] for r in convolutions))
    for what, marker in zip(network.PASSES, ("o", "s", "^"), strict=True):
        found = [r for r in convolutions if r.work.startswith(f"{what},")]
        places = [shapes.index(r.work.partition(", ")[2]) for r in found]
        axes.scatter([r.value for r in found], places, marker=marker, label=what, s=28, zorder=3)
    axes.axvline(1, color="#444444", linewidth=1)
    axes.axvline(0.8, color=report.MISSED, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shapes)), shapes)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.legend(loc="best", frameon=False)
    axes.set_xlabel("times as fast as PyTorch (dotted: the limit)")
    axes.set_title("Single convolutions, unfused")


if __name__ == "__main__":
    main()
