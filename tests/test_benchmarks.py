"""The benchmarks run, compare correct results, and write what they promise. No time is asserted."""

import argparse
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import accuracy, augmentation, bandwidth, measure, networks, peers, record, report, sections
from benchmarks.sections import networks as section
from benchmarks.worker import ROOT


def run(*command):
    """A command in the repository's root; its output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # not xdist's
    environment = {**inherited, "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_turns_are_interleaved_and_reversed_every_second_round():
    order = []

    def turn(name):
        order.append(name)
        return float(len(order))

    times = measure.interleave({"a": lambda: turn("a"), "b": lambda: turn("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times["a"].seconds == (1.0, 4.0, 5.0)
    assert times["a"].median == 4.0
    assert times["a"].spread == 0.5


@pytest.mark.parametrize(
    ("value", "target", "at_most", "met"),
    [(5.0, 5.0, False, True), (4.9, 5.0, False, False), (50.0, 50.0, True, True), (51.0, 50.0, True, False)],
)
def test_a_target_is_met_on_its_side_of_the_limit(value, target, at_most, met):
    result = report.Result("epoch", "an epoch", value, "x", target, at_most)
    assert result.met is met
    assert (result.margin >= 1) is met
    assert result.row[-1] == ("yes" if met else "**no**")


def test_table_is_aligned_markdown():
    text = report.table(("work", "ms"), [("dense", 1.5), ("a convolution", 20)], right=(1,))
    assert text.splitlines() == [
        "| work          |  ms |",
        "| ------------- | --: |",
        "| dense         | 1.5 |",
        "| a convolution |  20 |",
    ]


def test_accuracy_reports_every_seed(monkeypatch, tmp_path):
    lines = r"Test loss:     0.02\nTest accuracy: 0.99{seed}\nTotal time:    1.5 s"
    (tmp_path / "example.py").write_text(
        f"import sys; assert '--recipe best' in ' '.join(sys.argv); print('{lines}'.format(seed=sys.argv[2]))"
    )
    monkeypatch.setattr(accuracy, "EXAMPLE", tmp_path / "example.py")
    accuracy.main(["--recipe", "best", "--seeds", "1", "5", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "accuracy-best.json").read_text())
    assert found["mean"] == pytest.approx(0.993)
    assert found["runs"][1] == {"seed": 5, "accuracy": 0.995, "loss": 0.02, "seconds": 1.5}


@pytest.mark.long
def test_the_cost_of_augmentation_is_reported(tmp_path):
    augmentation.main(["--samples", "4", "--rounds", "1", "--backend", "reference", "--out", str(tmp_path)])
    assert list(json.loads((tmp_path / "augmentation.json").read_text())["epochs"]) == list(augmentation.kinds())


DRAWING = """
import importlib, pkgutil, sys
from pathlib import Path
import matplotlib, numpy, warnings, os, random
def settings():
    return (dict(matplotlib.rcParams), numpy.geterr(), numpy.get_printoptions(), list(warnings.filters),
            dict(os.environ), os.getcwd(), list(sys.path), random.getstate(), numpy.random.get_state()[1].tobytes())
import pytest, pytest_benchmark, tinyconv.kernels.cuda.runtime.device  # what others set is not counted
before = settings()
import benchmarks
for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
    importlib.import_module(module.name)
from benchmarks import compare, ladder, report, scaling
folder = Path(sys.argv[1])
timings = [(ladder.Rung(str(n), "", 1, None), ladder.measure.Timing((n,))) for n in (1, 2)]
ladder.draw(timings, 1e9, folder, "")
grid = scaling.axes(quick=True)
cost = scaling.Cost(scaling.measure.Timing((1.0,)), 1)
scaling.draw(grid, {setting: cost for found in grid.values() for setting in found}, folder, "")
compare.draw([report.Result("epoch", "an epoch", 5.0, "x", 4.0)], folder, "")
assert sorted(path.name for path in folder.iterdir()) == ["compare.png", "ladder.png", "scaling.png"]
after = settings()
changed = [(a, b) for a, b in zip(before, after) if a != b]
assert not changed, changed
"""


@pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")
@pytest.mark.long
def test_importing_and_drawing_leave_the_settings_of_the_process_alone(tmp_path):
    """Matplotlib's, NumPy's, the warnings', the environment: what a benchmark sets holds for all that runs after it."""
    run("-c", DRAWING, str(tmp_path))


def test_a_trial_does_not_replace_recorded_results(capsys, tmp_path):
    parser = argparse.ArgumentParser()
    report.add_output(parser)
    assert parser.parse_args(["--record"]).out == report.RESULTS
    assert parser.parse_args(["--out", str(tmp_path)]).out == tmp_path
    out = parser.parse_args([]).out
    report.write(out, "ladder", "", "", {})
    report.picture(out, "ladder", (1, 1), lambda figure: pytest.fail("drawn"), "")
    assert "--record" in capsys.readouterr().out


NETWORKS = ["networks", "networks-inference", "networks-busy", "networks-memory", "batch-norm"]


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="ONNX Runtime is not installed")
@pytest.mark.long
def test_comparison_adds_a_peer_to_what_it_wrote_without_one(tmp_path):
    arguments = ("-m", "benchmarks.compare", "--quick", "--backend=reference", f"--out={tmp_path}", "--peers")
    run(*arguments, "--sections", "epoch", "conv", "import", *NETWORKS)
    assert "| import tinyconv, over numpy and numba" in (tmp_path / "compare.md").read_text()
    run(*arguments, "ONNX Runtime", "--sections", "inference", "--add")
    content = json.loads((tmp_path / "compare.json").read_text())
    assert {"processor", "cores", "threads", "numba", "date"} <= content["machine"].keys()
    sections_made = {"epoch", "conv", "import", *NETWORKS, "inference"}
    assert content["results"].keys() == content["conditions"].keys() == sections_made
    rows = {name: len(content["results"][name]) for name in NETWORKS}  # some for each network
    assert rows == dict(zip(NETWORKS, (2, 4, 2, 2, 4), strict=True))
    for result in content["results"]["inference"]:
        ours, theirs = (measure.Timing(tuple(result["seconds"][name])) for name in ("tinyconv", "ONNX Runtime"))
        assert result["value"] == pytest.approx(theirs.median / ours.median)
    if find_spec("matplotlib"):
        assert (tmp_path / "compare.png").stat().st_size > 10_000


@pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.long
def test_networks_are_the_same_in_pytorch(name):
    from benchmarks.peers.pytorch import PyTorch

    network = networks.NETWORKS[name]
    answers = networks.answers(network, 2)
    peer = PyTorch(1, channels_last=True)
    peer.take(name, answers.weights, 2)
    np.testing.assert_allclose(peer.outputs(2), answers.outputs, atol=1e-5)
    np.testing.assert_allclose([peer.epoch(2, 2) for _ in answers.losses], answers.losses, rtol=1e-3)


def test_only_the_same_network_is_timed():
    network = networks.NETWORKS["MLP 784-512-512-10"]
    session = object.__new__(sections.Session)
    session.quick, session.answers = True, {network.name: networks.Answers([], np.zeros((1, 2)), [2.0, 1.0])}

    class Wrong:
        def call(self, method, **arguments):
            return {"take": None, "outputs": np.zeros((1, 2)), "train": (0.0, 2.0)}[method]

    with pytest.raises(AssertionError, match="losses of PyTorch, MLP"):
        session.take(Wrong(), peers.TORCH, network)


def test_the_fastest_peer_is_the_one_whose_memory_counts():
    seconds = {peers.TORCH.name: 3.0, peers.KERAS_TENSORFLOW.name: 2.0, peers.TORCH_COMPILED.name: 1.0}

    class Timed:
        trainers = (peers.TORCH, peers.KERAS_TENSORFLOW, peers.TORCH_COMPILED)

        def __init__(self):
            self.fastest = {networks.SMALL[1].name: peers.TORCH.name}  # as timed before

        def other(self, contender, network):
            return contender

        def steps(self, network):
            return lambda contender: seconds[contender.name]

    assert section.fastest_peer(Timed(), networks.SMALL[0]) == [peers.KERAS_TENSORFLOW]  # the compiled one is left out
    assert section.fastest_peer(Timed(), networks.SMALL[1]) == [peers.TORCH]


def test_the_memory_of_who_starts_a_process_does_not_count():
    code = "from benchmarks.measure import peak_memory; print(peak_memory())"
    small = int(run("-c", code))
    held = np.ones(10 * small, np.uint8)
    assert int(run("-c", code)) < 2 * small < held.size


def test_records_report_every_seed_and_every_peer(monkeypatch, tmp_path):
    monkeypatch.setattr(
        record, "timed", lambda who, seed, *_: record.Run(who, seed, 0.99 + seed / 1000, 2.0 + len(who))
    )
    record.main(["--peers", "--seeds", "3", "--out", str(tmp_path)])
    runs = json.loads((tmp_path / "record.json").read_text())["runs"]
    assert [run["seed"] for run in runs["99"]] == [run["seed"] for run in runs["99.5"]] == [0, 1, 2]
    text = (tmp_path / "record.md").read_text()
    assert "99.10 % right" in text
    assert "| 99.5 % | tinyconv |    2 |        0.9920 |" in text


@pytest.mark.long
def test_a_record_is_the_time_of_a_whole_process(tmp_path):
    run("benchmarks/record.py", "--quick", "--only", "99", "--peers", "--backend=reference", f"--out={tmp_path}")
    (only,) = json.loads((tmp_path / "record.json").read_text())["runs"]["99"]
    assert only["who"] == "tinyconv"
    assert 0 < only["accuracy"] < 1
    assert only["seconds"] > 0


@pytest.mark.skipif(not (find_spec("keras") and find_spec("tensorflow")), reason="Keras is not installed")
@pytest.mark.slow
def test_train_mnist_prints_the_ratio():
    arguments = ("--samples=256", "--rounds=1", "--backend=reference", "--threads=1")
    assert "times as fast as Keras on TensorFlow" in run("benchmarks/train_mnist.py", *arguments)


@pytest.mark.parametrize(
    ("name", "make", "last"),
    [
        # Half a minute to compile, each.
        ("ladder", "forward", "| 7   | fused step"),
        ("ladder_backward", "backward", "| 8   | sparse"),
    ],
)
@pytest.mark.slow
def test_ladder_has_seven_or_eight_rungs_that_agree(tmp_path, monkeypatch, capsys, name, make, last):
    from benchmarks import ladder, ladder_backward

    monkeypatch.setattr(ladder, "CONVOLUTION", ladder.CONVOLUTION._replace(size=7, C=32))
    made = getattr(ladder_backward if "backward" in name else ladder, make)
    ladder.main(["--images=2", "--rounds=1", f"--out={tmp_path}"], made)
    printed = capsys.readouterr().out
    assert last in printed
    assert "extrapolated from 1 |" in printed.partition("| Python")[2].partition("\n")[0]
    assert (tmp_path / f"{name}.md").exists()
    speeds = json.loads((tmp_path / f"{name}.json").read_text())["seconds per image"]
    assert len(speeds) == int(last[2])


@pytest.mark.long
def test_scaling_varies_everything(tmp_path):
    run("benchmarks/scaling.py", "--quick", "--rounds=1", f"--out={tmp_path}")
    costs = json.loads((tmp_path / "scaling.json").read_text())["costs"]
    assert {cost["batch"] for cost in costs} == {2, 4}
    more, fewer = (
        {c["batch"]: c["bytes"] for c in costs if c["image"] == 12 and c["channels"] == 4}[n] for n in (4, 2)
    )
    assert more > fewer


@pytest.mark.skipif(not find_spec("pytest_benchmark"), reason="pytest-benchmark is not installed")
@pytest.mark.long
def test_kernel_benchmarks_check_and_report(tmp_path):
    arguments = ("-k", "dense and 1600", "--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-warmup=off")
    path = tmp_path / "kernels.json"
    arguments += (f"--benchmark-json={path}",)
    printed = run("-m", "pytest", "-q", "-p", "no:xdist", "benchmarks/test_kernels.py", *arguments)
    benchmarks = json.loads(path.read_text())["benchmarks"]
    assert {benchmark["group"] for benchmark in benchmarks} == {"dense, forward", "dense, backward"}
    assert "GFLOP/s" in printed.partition("- kernels -")[2]
    for benchmark in benchmarks:
        assert benchmark["extra_info"].keys() == {"bytes", "compile seconds", "GFLOP/s"}
        assert "function" not in str(benchmark["params"])


@pytest.mark.long
def test_bandwidth_is_that_of_a_copy(tmp_path):
    bandwidth.main(["--quick", "--rounds", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "bandwidth.json").read_text())["rows"]
    assert [row["of its bytes' time"] for row in rows if row["work"] == "a copy"] == ["1.00"]
    assert len(rows) == 9


@pytest.mark.slow
def test_two_trees_take_turns(tmp_path):
    command = "benchmarks/before_after.py", str(ROOT), str(ROOT), "--rounds", "2", "--only", "MLP"
    printed = run(*command, "--out", str(tmp_path))
    assert re.search(r"^\| MLP +\| .* \| +\d\.\d{3} \| \d\.\d{3} to \d\.\d{3} \|$", printed, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {"before_after.md", "before_after.json"}
