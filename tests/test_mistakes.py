"""Fifty gradient mistakes: the checks name tensor and place of each, and of the controls nothing."""

import inspect
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

import tinyconv
from benchmarks import mistakes, report
from tests.strategies import few
from tinyconv import kernels, layers
from tinyconv.inspect.mistakes import MISTAKES, NETWORKS, applies, checked, made, network, targets
from tinyconv.inspect.mistakes.networks import SMALL
from tinyconv.inspect.mistakes.table import UNSEEN
from tinyconv.kernels import reference

SEEN = [mistake.name for mistake in MISTAKES.values() if mistake.seen]
KERNELS = {name: getattr(reference, name) for name in reference.__all__}
# Not in a loss, in a penalty, or where several values meet: there is no layer there to be checked by itself.
IN_LAYERS = [name for name in SEEN if MISTAKES[name].module.__name__.split(".")[-1] not in ("loss", "update", "merge")]


@pytest.fixture(autouse=True)
def untouched():
    """The reference is what it was, whatever has happened."""
    yield
    assert {name: getattr(reference, name) for name in reference.__all__} == KERNELS


def test_there_are_fifty():
    assert len(SEEN) == 50
    assert [mistake for mistake in MISTAKES.values() if not mistake.seen] == UNSEEN
    assert {mistake.network for mistake in MISTAKES.values()} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_have_no_mistake(name):
    rng = np.random.default_rng(0)
    model = network(name, SMALL, width=2)
    x, labels = rng.standard_normal((4, *SMALL), np.float32), rng.integers(0, 10, 4)
    check = model.trace(x, targets(name, labels)).check(1)
    assert check.ok, check


@pytest.mark.parametrize("name", few(MISTAKES, 10))
def test_the_trace_names_tensor_and_place(name):
    mistake, start = MISTAKES[name], time.process_time()
    check = checked(mistake, n=2)
    assert time.process_time() - start < 5
    assert check.ok is not mistake.seen
    if not mistake.seen:
        return
    first = check.wrong[0]
    assert ", d" in first.tensor
    assert abs(first.gradient - first.slope) > 1e-4 * abs(first.slope)
    for gradient, name in (("dw[...]", "dkernel"), ("db[...]", "dbias")):
        if mistake.kernel in ("conv2d_backward", "dense_backward") and gradient in mistake.diff:
            assert {row.tensor.split(", ")[1] for row in check.wrong} == {name}  # nothing else depends on it


@pytest.mark.long
@pytest.mark.parametrize("name", IN_LAYERS)
def test_check_gradients_names_tensor_and_place(name):
    """Layer by layer."""
    mistake, shape, found = MISTAKES[name], SMALL, ""
    with made(mistake):
        for layer in network(mistake.network, SMALL, width=2).layers:
            try:
                tinyconv.check_gradients(layer, shape, batch_size=2)
            except ValueError as error:
                found = str(error)
                break
            shape = layer.output_shape(shape)
    assert re.search(r"disagrees with central differences for '[\w/]+' at \(.*\)\. Expected", found), found


def test_a_mistake_is_the_reference_with_a_line_changed():
    for mistake in MISTAKES.values():
        lines = mistake.diff.splitlines()
        for number, function in enumerate(mistake.functions):
            right, wrong = mistake.sources(function)
            assert right == inspect.getsource(getattr(mistake.module, function))
            assert right != wrong
            assert sum(line.startswith("+") for line in lines) > number
        assert max(map(len, lines)) <= 122


def test_a_mistake_whose_line_is_gone_says_so():
    mistake = replace(MISTAKES["dense-bias-missing"], right="no such line")
    with pytest.raises(RuntimeError, match="'dense-bias-missing' is out of date: dense_backward has no such line"):
        mistake.kernels  # noqa: B018


def test_what_was_compiled_inside_keeps_the_mistake():
    """And what is compiled outside has none."""
    mistake = MISTAKES["dense-bias-missing"]
    x, y = np.ones((4, 3), np.float32), np.zeros(4, int)
    biases = {}
    for inside in (True, False):
        model = tinyconv.Sequential([tinyconv.Input((3,)), layers.Dense(2, activation="softmax")])
        with made(mistake if inside else MISTAKES["pool-pays-all"]):
            model.compile("sgd", "sparse_categorical_crossentropy", backend="reference", fuse=False)
            model.train_on_batch(x, y)
        model.train_on_batch(x, y)
        biases[inside] = model.layers[-1].bias.numpy()
    assert not biases[True].any()
    assert biases[False].any()
    assert applies(mistake, model)
    assert not applies(MISTAKES["pool-pays-all"], model)


def test_a_process_that_begins_with_a_mistake_knows_the_kernels_arguments():
    """They are looked up once, and would be wrong for good."""
    expected = kernels.contract()
    kernels.contract.cache_clear()
    with made(MISTAKES["filters-not-turned"]):
        assert kernels.contract() == expected


@pytest.mark.parametrize("mistake", ["turned-in-dw", "mean-path-forgotten", "relu-mask-forgotten"])
def test_fused_kernels_are_refused(mistake):
    """They would do without the mistake, and nobody would notice."""
    image = tinyconv.Input(SMALL)
    x = layers.Conv2D(2, 3, activation="relu" if mistake == "turned-in-dw" else None)(image)
    if mistake != "turned-in-dw":
        y = layers.BatchNormalization()(x)
        x = layers.ReLU()(layers.Add()([x, y]) if mistake == "relu-mask-forgotten" else y)
    model = tinyconv.Model(image, layers.Flatten()(layers.MaxPooling2D(2)(x)))
    model.compile("sgd", "mse", backend="reference")
    with made(MISTAKES[mistake]), pytest.raises(ValueError, match=r"compile\(fuse=False\)"):
        model.train_on_batch(np.zeros((2, *SMALL)), np.zeros((2, 40)))


def test_what_they_do_to_training_is_recorded(tmp_path):
    """By a command that a run of two small trainings stands for here."""
    recorded = json.loads((report.RESULTS / "mistakes.json").read_text())["mistakes"]
    assert [each["name"] for each in recorded] == list(MISTAKES)
    assert all((each["named"] == "nothing") is not MISTAKES[each["name"]].seen for each in recorded)
    mistakes.main(["dense-bias-missing", "--samples", "64", "--test", "10", "--out", str(tmp_path)])
    (found,) = json.loads((tmp_path / "mistakes.json").read_text())["mistakes"]
    assert found["named"].startswith("dense, dbias at [")
    assert 0 <= found["wrong"] <= 1
