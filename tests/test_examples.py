"""The examples, run as a user runs them."""

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.strategies import few
from tinyconv import datasets
from tinyconv.inspect import report

ROOT = Path(__file__).parent.parent
MNIST = [sys.executable, str(ROOT / "examples" / "mnist.py")]


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [*MNIST, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch: what it printed, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("example")
    done = run("--epochs", "1", "--seed", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_mnist_trains_tests_and_draws(trained, record_property):
    printed, folder = trained
    assert "Total params: 34,826" in printed
    assert re.search(r"^ +1/1 +[\d.]+ s +[\d,]+ +0\.\d{4} +0\.\d{4} +0\.\d{4} +0\.\d{4}$", printed, re.MULTILINE)
    accuracy = float(re.search(r"^Test accuracy: (0\.\d{4})$", printed, re.MULTILINE)[1])
    record_property("test accuracy after one epoch", accuracy)
    assert accuracy > 0.96
    height, width, _ = matplotlib.image.imread(folder / "mnist_report.png").shape
    assert width > height > 800


def test_mnist_prints_what_the_readme_shows(trained):
    (shown,) = re.findall(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)

    def form(text):
        """The lines without their numbers, and without those that depend on the epochs, the machine or the cache."""
        lines = [re.sub(r"\d[\d.,]*", "#", line).split() for line in text.splitlines() if line.strip()]
        return [line for line in lines if line[0] not in ("#/#", "...", "Running", "Compiling", "Compiled", "Receipt:")]

    assert form(shown) == form(trained[0])


def test_the_best_recipe_trains_the_same_network(monkeypatch, capsys):
    (x, y), (x_test, y_test) = datasets.mnist.load_data()
    monkeypatch.setattr(datasets.mnist, "load_data", lambda: ((x[:256], y[:256]), (x_test[:64], y_test[:64])))
    monkeypatch.setattr(sys, "argv", ["mnist", "--recipe", "best", "--epochs", "2", "--report", "", "--seed", "1"])
    runpy.run_path(str(ROOT / "examples" / "mnist.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in ("random_shear (RandomShear)", "Total params: 34,826", "  2/2 ", "Test accuracy: ", "Total time: "):
        assert words in printed
    assert "val_loss" not in printed


def test_mnist_helps():
    done = run("--help", cwd=ROOT)
    assert done.returncode == 0
    for option in ("--recipe", "--epochs", "--batch-size", "--seed", "--backend", "--threads", "--dataset", "--report"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    few(
        [
            (["--epochs", "0"], "argument --epochs: expected at least 1, received 0"),
            (["--batch-size", "many"], "argument --batch-size: invalid positive value: 'many'"),
            (["--backend", "tpu"], "argument --backend: invalid choice: 'tpu'"),
        ]
    ),
)
def test_mnist_refuses(arguments, message):
    done = run(*arguments, cwd=ROOT)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.long
def test_ctrl_c_keeps_what_there_is(tmp_path):
    arguments = [*MNIST, "--epochs", "1000", "--report", str(tmp_path / "report.png")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, **pipes)
    try:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if re.match(r" +1/1000 ", line):
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert errors == ""
    assert "Stopped. This is how far it came:" in rest
    assert float(re.search(r"Test accuracy: (0\.\d{4})", rest)[1]) > 0.96
    assert (tmp_path / "report.png").exists()


@pytest.mark.parametrize("missing", ["matplotlib", "a folder"])
def test_a_report_that_cannot_be_drawn_is_said(monkeypatch, capsys, tmp_path, missing):
    write_report = runpy.run_path(MNIST[1])["write_report"]
    path = tmp_path / "report.png" if missing == "matplotlib" else tmp_path / "none" / "report.png"
    if missing == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(str(path), {}, np.zeros((2, 5, 5)), np.array([0, 1]), np.eye(2))
    says = "Pictures need matplotlib: pip install 'tinyconv[plot]'" if missing == "matplotlib" else "No such file"
    assert re.search(rf"^Report:        not drawn\. .*{re.escape(says)}", capsys.readouterr().out)


# --- the chapters after it, on made images: what they would reach on real ones is not tested


@pytest.mark.long
def test_the_second_chapter_runs(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (96, 28, 28, 1), np.uint8), rng.integers(0, 10, 96)
    names = tuple(f"thing {k}" for k in range(10))
    made = datasets.Dataset("fashion_mnist", ("train", "test"), (x, y), (x[:32], y[:32]), names)
    asked = {}
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: asked.update(options) or made)
    chapter("fashion_mnist", "here", monkeypatch, capsys, tmp_path)
    assert asked == {"data_dir": "here", "manual_dir": None}


@pytest.mark.long
def test_the_third_chapter_runs(monkeypatch, capsys, tmp_path):
    """On a small copy of the official files: for each image a byte, its label, and then its red pixels, its green and
    its blue ones."""
    rng = np.random.default_rng(0)
    for name in (*datasets.cifar10.TRAINING, *datasets.cifar10.TEST):
        images = rng.integers(0, 256, (16, 1 + 3 * 32 * 32), np.uint8)
        images[:, 0] = rng.permutation(16) % 10
        (tmp_path / name).write_bytes(images.tobytes())
    printed = chapter("cifar10", str(tmp_path), monkeypatch, capsys, tmp_path)
    assert printed.count("(Add)") == 3
    assert "random_flip (RandomFlip)" in printed


def chapter(name, data_dir, monkeypatch, capsys, folder):
    """Run an example for two epochs; what it printed."""
    arguments = ["--epochs", "2", "--data-dir", data_dir, "--report", str(folder / "r.png")]
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"^ +2/2 +", printed, re.MULTILINE)
    assert re.search(r"^Test accuracy: [01]\.\d{4}$", printed, re.MULTILINE)
    assert (folder / "r.png").exists()
    return printed


# --- the picture

HISTORY = {"loss": [0.5, 0.25], "accuracy": [0.5, 0.75], "val_loss": [0.25, 0.125], "val_accuracy": [0.75, 0.875]}


def draw(history, shape=(28, 28, 1), classes=10, samples=40, **options):
    """The report of a network that is wrong on every other image."""
    rng = np.random.default_rng(0)
    x = rng.random((samples, *shape), np.float32)
    y = np.arange(samples) % classes
    predictions = np.full((samples, classes), 0.1 / classes)
    predictions[np.arange(samples), (y + np.arange(samples) % 2) % classes] += 0.9
    figure = report.training_report(history, x, y, predictions, **options)
    figure.canvas.draw()
    return figure


def texts(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_the_report_shows_curves_mistakes_and_confusion():
    figure = draw(HISTORY, title="MNIST")
    shown = texts(figure)
    assert "MNIST: 20 of 40 wrong" in shown
    assert {"training: 0.2500", "validation: 0.1250", "training: 0.7500", "validation: 0.8750"} <= set(shown)
    assert sum(text.startswith("is ") for text in shown) == 20
    assert "is 1\nsaid 2 (91%)" in shown
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook asks for
    loss = figure.subfigs[0].axes[0]
    assert [line.get_ydata().tolist() for line in loss.lines] == [HISTORY["loss"], HISTORY["val_loss"]]


@pytest.mark.parametrize(
    ("shape", "classes", "history"),
    few([((32, 32, 3), 10, HISTORY), ((8, 8), 2, {"loss": [0.5]}), ((9, 7, 4), 100, {})]),
    ids=["colour", "two classes, one epoch", "many classes, no epoch"],
)
def test_the_report_of_other_data(shape, classes, history):
    shown = texts(draw(history, shape, classes, class_names=[f"class {k}" for k in range(classes)]))
    assert "20 of 40 wrong" in shown
    assert ("no epoch was finished" in shown) == (len(history) < 2)


def test_the_report_of_a_perfect_network():
    y = np.arange(10)
    figure = report.training_report(HISTORY, np.zeros((10, 28, 28)), y, np.eye(10))
    assert "nothing was wrong" in texts(figure)


def test_the_confusion_matrix_counts():
    matrix = report.confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
