"""The course of a run as a picture: a curve for each value of its history.

Needs matplotlib (the extra ``plot``). Nothing here opens a window: a figure is returned, to save or for a notebook to
show.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import checking
from tinyconv.checking import console
from tinyconv.checking.extras import need
from tinyconv.checking.messages import received

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING, VALIDATION, GREY = "#2f6fb0", "#e08a2c", "#6b6b6b"


def training_curves(history: Mapping[str, Sequence[float]]) -> "Figure":
    """Every value of a history over the epochs, training and validation in one drawing: ``History.plot`` shows it."""
    check_history(history)
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history)) or ["loss"]
    figure = need_matplotlib()(figsize=(5.5 * len(names), 4), layout="constrained")
    for ax, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        draw_curves(ax, history, name)
        ax.set_xlabel("epoch")
    return figure


def draw_curves(ax: "Axes", history: Mapping[str, Sequence[float]], name: str) -> None:
    """One value over the epochs, in training and in validation."""
    from matplotlib.ticker import MaxNLocator

    for key, label, colour in ((name, "training", TRAINING), (f"val_{name}", "validation", VALIDATION)):
        values = _per_epoch(key, history.get(key, []))
        if len(values):
            epochs = np.arange(1, len(values) + 1)
            ax.plot(epochs, values, color=colour, marker="o", markersize=4, label=f"{label}: {values[-1]:.4f}")
    if ax.lines:
        ax.legend(frameon=False, title="at the end")
    else:
        ax.text(0.5, 0.5, "no epoch was finished", transform=ax.transAxes, ha="center", color=GREY)
    ax.set_title(short(name), loc="left", parse_math=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def check_history(history: Any) -> None:
    """Refuse what is not a list of numbers for each name, before anything of it is drawn."""
    if not isinstance(history, Mapping):
        fix = " Fix: its attribute history, which is one." if hasattr(history, "history") else ""
        raise TypeError(
            "Invalid history. Expected a dict with a list of numbers, one per epoch, for each name. "
            f"Received: {received(history)}.{fix}"
        )
    for name, values in history.items():
        if not isinstance(name, str):
            raise TypeError(f"Invalid name in the history. Expected a text such as 'loss'. Received: {received(name)}.")
        if _per_epoch(name, values).ndim != 1:
            raise checking.invalid("the history", repr(name), "a list of numbers, one per epoch", values)


def _per_epoch(name: str, values: Any) -> np.ndarray:
    """A number for each epoch; None, which JSON has for what is no number, is NaN, and leaves a gap in the curve."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = [np.nan if value is None else value for value in values] or np.zeros(0)
    return checking.numbers(f"The history's {name!r}", values)


def short(text: str, most: int = 30) -> str:
    """A name that fits into a title."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def need_matplotlib() -> Any:
    """Matplotlib's Figure class, taught to show itself in a notebook; or an ImportError that says what to do."""
    figure: Any = need("Pictures need", "matplotlib.figure").Figure

    class Picture(figure):
        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

        def show(self, warn: bool = True) -> None:
            """Show the figure below a notebook's cell; elsewhere say how to look at it."""
            display = getattr(sys.modules.get("IPython.display"), "display", None)
            if display is None or not console.is_notebook(sys.stdout):
                raise RuntimeError(
                    "This figure has no window to be shown in, so that no setting of matplotlib is touched. "
                    "Fix: figure.savefig('picture.png'), or, in a notebook, end the cell with the figure."
                )
            display(self)

    return Picture
