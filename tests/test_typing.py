"""A type-checker finds mistyped names and texts, and nothing in code that is right."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is in the dev extra")

RIGHT = """
import tinyconv
from tinyconv import layers, losses, optimizers

model = tinyconv.Sequential(
    [
        tinyconv.Input((28, 28, 1)),
        layers.Conv2D(8, 3, padding="same", activation="relu", name="first", trainable=True),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(10, activation="softmax", kernel_initializer="he_normal", input_shape=(4,)),
    ]
)
model.compile(optimizer=optimizers.Adam(1e-3), loss=losses.CategoricalCrossentropy(), metrics=["accuracy"])
model.compile("sgd", "mse", backend="cpu")
model.fit([[0.0]], [[0.0]], epochs=3, verbose=0)
print(tinyconv.__version__)
"""
WRONG = """
import tinyconv as keras
from tinyconv import layers, losses

layers.Dense(3, activaton="relu")
layers.Dense(3, activation="rleu")
layers.Conv2D(3, 3, padding="sme")
layers.Conv2D(3, 3, kernel_initializer="he_norml")
layers.Flatten(nmae="a")
losses.MeanSquaredError(reducton=None)
model = keras.Sequential([])
model.compile(optimzer="adam")
model.compile("adm")
model.compile("adam", "catgorical_crossentropy")
model.compile("adam", "mse", metrics=["acuracy"])
model.fit([[0.0]], [[0.0]], verbose="quiet")
model.fit([[0.0]], [[0.0]], epoch=3)
keras.nope
layers.Conv2d(3, 3)
"""


def mypy(path):
    options = ["--no-error-summary", "--hide-error-context", "--follow-imports=silent", f"--cache-dir={path.parent}"]
    run = subprocess.run([sys.executable, "-m", "mypy", *options, path], capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stderr
    return {int(line) for line in re.findall(r"program\.py:(\d+): error", run.stdout)}


def pyright(path):
    """Not among the extras, as it brings a whole Node.js; CI installs it."""
    program = shutil.which("pyright", path=Path(sys.executable).parent) or shutil.which("pyright")
    if program is None:
        pytest.skip("pyright is not installed")
    command = [program, "--outputjson", "--pythonpath", sys.executable, path]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return {1 + each["range"]["start"]["line"] for each in found["generalDiagnostics"] if each["severity"] == "error"}


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.long
def test_every_mistake_is_found_and_nothing_else(checker, tmp_path):
    lines, first = WRONG.splitlines(), 1 + len(RIGHT.splitlines())
    plain = ("import", "from", "model =")
    mistakes = {number for number, line in enumerate(lines, first) if line and not line.startswith(plain)}
    path = tmp_path / "program.py"
    path.write_text(RIGHT + WRONG)
    assert checker(path) == mistakes
