"""What the README and CONTRIBUTING promise: the commands, the files and the options they name exist, the code runs."""

import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

import tinyconv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
SETUP = "python3 -m venv .venv && .venv/bin/pip install -e"
TOOLS = {"pip", "python", *(re.match(r"[\w-]+", need)[0] for extra in ("test", "dev") for need in EXTRAS[extra])}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Every command of a text's shell blocks, without its comment."""
    lines = "".join(blocks(text, "sh")).splitlines()
    return [command for line in lines for command in re.split(" && ", line.split("  #")[0].strip()) if command]


def test_the_two_commands_are_one_line_each():
    first, second = (block.rstrip("\n") for block in blocks(README, "sh")[:2])
    assert first == f"{SETUP} '.[plot]' && .venv/bin/python examples/mnist.py"
    # No bytecode of the many modules that no test imports: making it takes longer than unpacking them.
    assert second == f"{SETUP.replace('install', 'install --no-compile')} '.[test]' && .venv/bin/pytest"


def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '(.*)' README\.md", script)[1]
    assert re.findall(pattern, README, re.MULTILINE) == [blocks(README, "sh")[1].rstrip("\n")]
    assert '\ncheck "tests" bash -c "$command"\n' in script  # with nothing added
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0


@pytest.mark.parametrize("name", TEXTS)
def test_what_the_commands_name_exists(name):
    found = commands(TEXTS[name])
    assert found
    for command in found:
        words = command.split()
        if words[0].startswith(".venv/bin/"):
            assert words[0].removeprefix(".venv/bin/") in TOOLS, command
        for word in words[1:]:
            if re.fullmatch(r"[\w./]+\.(py|ini|toml)|[a-z]+/", word):
                assert (ROOT / word).exists(), command
            extra = re.fullmatch(r"'\.\[(\w+)\]'", word)
            assert not extra or extra[1] in EXTRAS, command


@pytest.mark.parametrize("name", TEXTS)
def test_the_files_that_are_named_exist(name):
    links = re.findall(r"\]\(([^)#:]+)\)", TEXTS[name])
    paths = re.findall(r"`((?:tinyconv|examples|benchmarks|tests|\.ci)/[\w./]+)`", TEXTS[name])
    assert [path for path in links + paths if not (ROOT / path).exists()] == []
    extras = ",".join(re.findall(r"\.\[([\w,]+)\]", TEXTS[name])).split(",")
    assert set(extras) <= set(EXTRAS)


def test_the_options_of_pytest_that_are_named_exist(request):
    known = {"--long", "--slow", "--benchmark-only", "-m", "-n"}
    options = [w for c in commands(TEXTS["CONTRIBUTING.md"]) if "/pytest" in c for w in c.split()[1:] if w[0] == "-"]
    assert set(options) <= known
    assert request.config.getoption("--slow") in (True, False)
    assert any(marker.startswith("gpu:") for marker in request.config.getini("markers"))


def test_the_code_runs(monkeypatch, capsys, tmp_path):
    ten_lines, graph, saving = blocks(README, "python")
    assert len([line for line in ten_lines.splitlines() if line]) <= 10
    (x_train, y_train), (x_test, y_test) = tinyconv.datasets.mnist.load_data()
    few = (x_train[:1280], y_train[:1280]), (x_test[:256], y_test[:256])
    monkeypatch.setattr(tinyconv.datasets.mnist, "load_data", lambda: few)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(ten_lines, names)
    assert names["accuracy"] > 0.3
    assert names["probabilities"].shape == (5, 10)
    assert np.allclose(names["probabilities"].sum(axis=1), 1, atol=1e-5)
    print(names["model"].plan)
    assert "conv2d" in capsys.readouterr().out
    exec(graph, names)
    assert names["residual"].output_shape == (None, 10)
    exec(saving, names)
    again = names["model"].predict(few[1][0][:5, ..., None] / 255)
    assert np.allclose(again, names["probabilities"], atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"digits.keras", "digits.safetensors", "digits.onnx"}


def test_what_the_readme_says_of_backends_and_seeds_is_there():
    assert set(re.findall(r'`"(\w+)"`', README)) == {*tinyconv.kernels.NAMES, "auto"}
    assert callable(tinyconv.utils.set_random_seed)
    assert callable(tinyconv.datasets.load)
