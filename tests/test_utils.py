"""Small helpers: one-hot labels, seeds, suggestions, and what a person sees while a model trains."""

import io
import random
import re

import numpy as np
import pytest

from tinyconv.checking.messages import suggest
from tinyconv.random import next_seed
from tinyconv.training.progress import Progress
from tinyconv.utils import set_random_seed, to_categorical

# --- to_categorical


def test_to_categorical_makes_one_hot_rows():
    assert to_categorical([2, 0], 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert to_categorical([1, 3]).shape == (2, 4)
    assert to_categorical([[1], [0]], 2).tolist() == [[0, 1], [1, 0]]
    assert to_categorical([[0, 1], [1, 0]], 2).shape == (2, 2, 2)
    assert to_categorical(1, 2).tolist() == [0, 1]
    assert to_categorical([], 5).shape == (0, 5)


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "int64", "float32", "bool"])
def test_to_categorical_agrees_with_keras(dtype):
    keras_utils = pytest.importorskip("keras").utils
    labels = np.array([1, 0, 1, 1, 0]).astype(dtype)
    ours, theirs = to_categorical(labels, 4), keras_utils.to_categorical(labels, 4)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 3], ValueError, r"Expected 0 to 2 \(num_classes=3\)\. Received: 3 at index \(1,\)"),
        ([-1], ValueError, r"Received: -1 at index \(0,\)"),
        ([0.5], ValueError, r"expects integer labels\. Received: 0\.5"),
        ([float("nan")], ValueError, r"expects integer labels\. Received: nan"),
        ([float("inf")], ValueError, r"expects integer labels\. Received: inf"),
        (["cat"], TypeError, r"The labels of to_categorical: .* Received: dtype <U3"),
    ],
)
def test_to_categorical_refuses(labels, error, message):
    with pytest.raises(error, match=message):
        to_categorical(labels, 3)


# --- seeds


def test_a_seed_makes_everything_repeatable():
    def draw():
        set_random_seed(7)
        return [next_seed(), next_seed(), random.random(), np.random.rand()]  # noqa: NPY002 - the global generator

    first = draw()
    assert draw() == first
    assert first[0] != first[1]
    set_random_seed(8)
    assert next_seed() != first[0]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "7", None, True])
def test_a_wrong_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"Expected an integer from 0 to 2\*\*32 - 1\. Received: "):
        set_random_seed(seed)


def test_seeds_are_positive_int64():
    seeds = [next_seed() for _ in range(100)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 100


# --- suggestions


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rleu", "Did you mean 'relu'? Expected one of 'relu', 'max_pool'."),
        ("MaxPool", "Did you mean 'max_pool'? Expected one of 'relu', 'max_pool'."),
        ("xyz", "Expected one of 'relu', 'max_pool'."),
        (3, "Expected one of 'relu', 'max_pool'."),
    ],
)
def test_suggest(name, text):
    assert suggest(name, ["relu", "max_pool"]) == text


# --- progress


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self):
        return True


def train(progress, epochs=2):
    progress.announce("Compiling")
    for epoch in range(epochs):
        progress.epoch_begin(epoch)
        progress.update(500, {"loss": 0.75})
        progress.update(1000, {"loss": 0.5})
        progress.epoch_end({"loss": 0.5, "val_loss": 0.0000123}, 0.25)
    progress.close()


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_one_plain_line_per_epoch_outside_a_terminal(verbose):
    stream = io.StringIO()
    train(Progress(verbose, 2, 1000, stream))
    assert stream.getvalue().splitlines() == [
        "Compiling",
        "  epoch     time   images/s     loss  val_loss",
        "    1/2   0.25 s      4,000   0.5000   1.2e-05",
        "    2/2   0.25 s      4,000   0.5000   1.2e-05",
    ]


def test_silence():
    stream = Terminal()
    train(Progress(0, 2, 1000, stream))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("verbose", ["auto", 1])
def test_a_bar_in_a_terminal(verbose, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    train(Progress(verbose, 2, 1000, stream))
    text = stream.getvalue()
    assert re.search(r"1/2.*loss 0\.7500  [\d,]+ images/s  0 s left", text)
    assert "    2/2   0.25 s      4,000   0.5000   1.2e-05" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_verbose_2_and_dumb_terminals_have_no_bar(term, monkeypatch):
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    train(Progress("auto" if term == "dumb" else 2, 2, 1000, stream))
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 4


def test_an_evaluation_is_one_line():
    stream = io.StringIO()
    progress = Progress("auto", 0, 10000, stream)
    progress.epoch_begin(0)
    progress.epoch_end({"loss": 0.25, "accuracy": 0.5}, 0.125)
    progress.close()
    assert stream.getvalue() == "10,000 images  0.12 s  loss 0.2500  accuracy 0.5000\n"


def test_a_new_column_repeats_the_heading():
    stream = io.StringIO()
    progress = Progress(2, 3, 10, stream)
    for epoch, logs in enumerate([{"loss": 1.0}, {"loss": 1.0}, {"loss": 1.0, "val_loss": 2.0}]):
        progress.epoch_end(logs, epoch + 1.0)
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["epoch", "1/3", "1/3", "epoch", "1/3"]


def test_unknown_verbosity_is_refused():
    with pytest.raises(ValueError, match=r"Invalid verbose\. Expected one of 'auto', 0, 1, 2\. Received: 'loud'"):
        Progress("loud", 1, 1)
