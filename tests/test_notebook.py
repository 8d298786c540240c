"""The MNIST notebook that Keras users know, cell by cell, with only its two imports changed."""

import ast
import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

NOTEBOOK = Path(__file__).parent / "data" / "mnist_convnet.txt"
IMPORTS = {
    "from tensorflow import keras": "import tinyconv as keras",
    "from tensorflow.keras import layers": "from tinyconv import layers",
}
EPOCHS = 1  # instead of 15


def run(cell, names):
    """Run one cell as a notebook does: the value of its last line, if that is an expression, is what it shows."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.fixture(scope="module")
def notebook():
    """Every cell, run once: (the names it leaves, what each cell showed, what each cell printed)."""
    source = NOTEBOOK.read_text()
    for old, new in {**IMPORTS, "epochs = 15": f"epochs = {EPOCHS}"}.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    cells = re.split(r"# In \[\d\]:\n", source)[1:]
    assert len(cells) == 5
    names, shown, printed = {}, [], []
    for cell in cells:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            shown.append(run(cell, names))
        printed.append(output.getvalue())
    return names, shown, printed


def test_data(notebook):
    names, _, printed = notebook
    assert printed[1] == "x_train shape: (60000, 28, 28, 1)\n60000 train samples\n10000 test samples\n"
    assert names["x_train"].dtype == np.float32
    assert names["x_train"].min() == 0
    assert names["x_train"].max() == 1
    assert names["y_train"].shape == (60000, 10)
    assert names["y_test"].shape == (10000, 10)
    assert names["y_train"][0].argmax() == 5


def test_summary(notebook):
    text = re.sub(r"[^\w(),.]+", " ", notebook[2][2])
    for row in (
        "conv2d (Conv2D) (None, 26, 26, 32) 320",
        "max_pooling2d (MaxPooling2D) (None, 13, 13, 32) 0",
        "conv2d_1 (Conv2D) (None, 11, 11, 64) 18,496",
        "max_pooling2d_1 (MaxPooling2D) (None, 5, 5, 64) 0",
        "flatten (Flatten) (None, 1600) 0",
        "dropout (Dropout) (None, 1600) 0",
        "dense (Dense) (None, 10) 16,010",
        "Total params 34,826",
    ):
        assert row in text


def test_parameters(notebook):
    model = notebook[0]["model"]
    assert [layer.count_params() for layer in model.layers] == [320, 0, 18496, 0, 0, 0, 16010]
    assert model.count_params() == 34826
    assert [w.shape for w in model.get_weights()] == [(3, 3, 1, 32), (32,), (3, 3, 32, 64), (64,), (1600, 10), (10,)]


def test_training(notebook):
    history = notebook[1][3]
    assert type(history).__name__ == "History"
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == EPOCHS for values in history.history.values())
    assert history.epoch == list(range(EPOCHS))
    assert history.history["val_loss"][-1] < history.history["loss"][0] < np.log(10)
    assert history.history["val_accuracy"][-1] > 0.97


def test_evaluation(notebook):
    names, _, printed = notebook
    score = names["score"]
    assert isinstance(score, list)
    assert len(score) == 2
    assert 0 < score[0] < 0.1
    assert 0.97 < score[1] < 1
    assert printed[4] == f"Test loss: {score[0]}\nTest accuracy: {score[1]}\n"
