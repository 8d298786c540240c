"""The further examples, on TensorFlow Datasets' own made data."""

import runpy
import sys
from pathlib import Path

import pytest

import tinyconv
from tinyconv.datasets import tfds

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run an example in an empty folder on a few made images; what it printed."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(tfds, "_check_network", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv("HOME", str(tmp_path))  # where Keras would keep its files
    monkeypatch.setenv("TINYCONV_BACKEND", "cpu")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with tensorflow_datasets.testing.mock_data(num_examples=20):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_cifar10(run, tmp_path):
    out = run("cifar10.py", "--epochs", "2", "--seed", "1", "--save", "m.keras", "--backup", "backup")
    assert "Test accuracy:" in out
    model = tinyconv.saving.load_model(tmp_path / "m.keras", backend="cpu")
    assert model.input_shape == (None, 32, 32, 3)
    assert model.optimizer.iterations == 2
    assert not (tmp_path / "backup").exists()


@pytest.mark.long
def test_fashion_mnist(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = run(
        "fashion_mnist.py",
        *("--epochs", "2", "--seed", "1", "--report", "report.png"),
        "--data-dir",
        str(tmp_path / "data"),
    )
    assert "Test accuracy:" in out
    assert (tmp_path / "report.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["cifar10.py", "fashion_mnist.py"])
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert end.value.code == 0
    assert "--data-dir" in capsys.readouterr().out
