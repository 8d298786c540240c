"""Whole programs of a course on convolutional networks, run by Keras and, with only their imports changed, by tinyconv.

Each is a text in ``programs``: what it builds stands above the line ``# train``, where tinyconv is given Keras' initial
weights, and what it found out is its ``results``. Both must find the same, and open each other's files.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import tinyconv
from tests.peer import keras

PROGRAMS = sorted(Path(__file__).with_name("programs").glob("*.py"))
EVERY_DAY = {
    "fine_tuning",
    "lenet",
    "own_layer",
    "residual",
    "unet",
}


def ported(text):
    """The program for tinyconv."""
    text = re.sub(r"^import keras$", "import tinyconv as keras", text, flags=re.M)
    return re.sub(r"^from keras\b", "from tinyconv", text, flags=re.M)


def run(text, path, where, namespace):
    where.mkdir(exist_ok=True)
    before = os.getcwd()
    os.chdir(where)
    try:
        exec(compile(text, path, "exec"), namespace)
    finally:
        os.chdir(before)
    return namespace


def agree(ours, theirs, at="results"):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), at
        for key, value in theirs.items():
            agree(ours[key], value, f"{at}[{key!r}]")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), at
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            agree(mine, other, f"{at}[{number}]")
    elif isinstance(theirs, str | bool | int | None):
        assert ours == theirs, at
    else:
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape, at
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4, err_msg=at)


def exchange_files(ours, theirs, folder):
    """Each library opens what the other has saved, and computes the same with it."""
    rng = np.random.default_rng(1)
    x = [rng.random((2, *tensor.shape[1:]), np.float32) for tensor in ours.inputs]
    x = x if len(x) > 1 else x[0]
    wanted = ours.predict(x)
    ours.save(folder / "ours.keras")
    again = keras.saving.load_model(folder / "ours.keras", compile=False)
    agree(listed(again(x, training=False)), listed(wanted), "Keras' predictions")
    theirs.save(folder / "theirs.keras")
    again = tinyconv.models.load_model(folder / "theirs.keras", compile=False, backend="reference")
    agree(listed(again.predict(x)), listed(theirs(x, training=False)), "predictions of Keras' file")


def listed(x):
    return [np.asarray(each) for each in x] if isinstance(x, list | tuple) else [np.asarray(x)]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[] if path.stem in EVERY_DAY else pytest.mark.long) for path in PROGRAMS],
)
def test_programs_do_the_same(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "reference")
    text = path.read_text(encoding="utf-8")
    build, _, rest = text.partition("# train\n")
    assert rest, "it has no line '# train'"
    theirs, ours = {"__name__": "program"}, {"__name__": "program"}
    run(build, path, tmp_path / "theirs", theirs)
    run(ported(build), path, tmp_path / "ours", ours)
    for name, model in theirs.items():
        if isinstance(model, keras.Model) and model.built:
            ours[name].set_weights(model.get_weights())
    run(rest, path, tmp_path / "theirs", theirs)
    run(ported(rest), path, tmp_path / "ours", ours)
    agree(ours["results"], theirs["results"])
    exchange_files(ours["model"], theirs["model"], tmp_path)


def test_there_are_programs_of_every_kind():
    assert len(PROGRAMS) >= 40
