"""What the chapters share: source code to look at, answers to check, and a few digits."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

import tinyconv
from tinyconv.inspect.gradient_check import nudged

__all__ = ["ROOT", "check", "digits", "maps", "nudged", "plt", "show"]
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the benchmarks, which are not installed

plt.rcParams.update({"figure.figsize": (7, 2.6), "figure.constrained_layout.use": True, "image.cmap": "Greys"})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "savefig.dpi": 130})


def show(*functions: Callable[..., Any]) -> Markdown:
    """The source of functions as it stands in the library, without its docstrings."""
    return Markdown("\n\n".join(_shown(function) for function in functions))


def _shown(function: Callable[..., Any]) -> str:
    lines, first = inspect.getsourcelines(function)
    (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    body = definition.body  # type: ignore[attr-defined]
    if ast.get_docstring(definition) is not None and len(body) > 1:  # type: ignore[arg-type]
        del lines[body[0].lineno - 1 : body[0].end_lineno]
    file = Path(inspect.getsourcefile(function) or "").resolve()
    where = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
    return f"`{where}`, line {first}:\n\n```python\n{textwrap.dedent(''.join(lines)).rstrip()}\n```"


def check(answer: Any, expected: Any, tolerance: float = 1e-6) -> None:
    """Compare an answer with what it should be, and say where it differs most."""
    answer, expected = np.asarray(answer, float), np.asarray(expected, float)
    if answer.shape != expected.shape:
        raise AssertionError(f"Not yet: the shape should be {expected.shape}, and is {answer.shape}.")
    error = np.abs(answer - expected)
    allowed = tolerance * max(1.0, np.abs(expected).max(initial=0))
    if not np.all(error <= allowed):
        place = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        at = f" at {[int(i) for i in place]}" if place else ""
        raise AssertionError(f"Not yet:{at} it should be {expected[place]:.6g}, and is {answer[place]:.6g}.")
    print(f"Right, in all {answer.size} numbers." if answer.size > 1 else "Right.")


def digits(samples: int, test: int, size: int = 28) -> tuple[Any, Any]:
    """The first images of MNIST's two parts, as (x, y) each, x (N, size, size, 1) from 0 to 1; size 28 or 14."""

    def part(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        block = 28 // size
        x = x[:count].reshape(-1, size, block, size, block, 1).mean(axis=(2, 4), dtype=np.float32)
        return x / 255, y[:count].astype(int)

    training, testing = tinyconv.datasets.mnist.load_data()
    return part(*training, samples), part(*testing, test)


def maps(*arrays: Any, titles: tuple[str, ...] = (), signed: bool = False, numbers: bool = False) -> None:
    """Matrices side by side: as grey, or with blue below and orange above zero; small ones with their numbers."""
    figure, axes = plt.subplots(1, len(arrays), squeeze=False, figsize=(7, 7 / max(len(arrays), 3)))
    for number, (array, axis) in enumerate(zip(arrays, axes[0], strict=True)):
        limit = float(np.abs(array).max()) or 1.0
        scale = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit} if signed else {"vmin": 0, "vmax": limit}
        axis.imshow(array, **scale)
        axis.set(xticks=[], yticks=[], title=titles[number] if titles else "")
        for place in np.ndindex(array.shape) if numbers else ():
            dark = abs(array[place]) > 0.6 * limit
            axis.text(*place[::-1], f"{array[place]:.3g}", ha="center", va="center", color="white" if dark else "black")
    plt.show()
