"""One picture of a training run: how it learned, what it confuses, and the images it got wrong.

Needs matplotlib (the extra ``plot``). Nothing here opens a window: a figure is returned, to save or for a
notebook to show.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import console
from tinyconv.extras import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING, VALIDATION, WRONG, GREY = "#2f6fb0", "#e08a2c", "#b8352a", "#6b6b6b"


def training_report(
    history: Mapping[str, Sequence[float]],
    x: np.ndarray,
    y: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> "Figure":
    """Loss and accuracy per epoch, the confusion matrix, and the mistakes the network made with the most confidence.

    Arguments:
        history: what ``fit`` returned, its ``history``: a list per name, such as "loss" and "val_loss".
        x: the test images, (N, height, width) or (N, height, width, channels), as uint8 or scaled to 0 to 1.
        y: their labels, (N,) integers.
        predictions: the network's predictions, (N, classes) probabilities.
        class_names: what the labels mean; their numbers if None.
        title: a line for the top; the number of mistakes is added to it.
    """
    picture = need_matplotlib()
    y, said = np.asarray(y).astype(np.int64), predictions.argmax(axis=1)
    classes = predictions.shape[1]
    names = [str(name) for name in class_names] if class_names else [str(k) for k in range(classes)]
    figure = picture(figsize=(16, 8.6), dpi=110, layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(4, 5.2, 6.8))
    above, below = left.subplots(2, 1, sharex=True)
    draw_curves(above, history, "loss")
    draw_curves(below, history, "accuracy")
    below.set_xlabel("epoch")
    draw_confusion(middle.subplots(), confusion_matrix(y, said, classes), names)
    draw_mistakes(right, x, y, predictions, names)
    wrong = f"{np.count_nonzero(y != said):,} of {len(y):,} wrong"
    figure.suptitle(f"{title}: {wrong}" if title else wrong, fontsize=15)
    return figure


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


def confusion_matrix(y: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each class (column): int64 (classes, classes)."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (y, said), 1)
    return matrix


def draw_curves(ax: "Axes", history: Mapping[str, Sequence[float]], name: str) -> None:
    """One value over the epochs, in training and in validation."""
    from matplotlib.ticker import MaxNLocator

    for key, label, colour in ((name, "training", TRAINING), (f"val_{name}", "validation", VALIDATION)):
        values = history.get(key, [])
        if len(values):
            epochs = np.arange(1, len(values) + 1)
            ax.plot(epochs, values, color=colour, marker="o", markersize=4, label=f"{label}: {values[-1]:.4f}")
    if ax.lines:
        ax.legend(frameon=False, title="at the end")
    else:
        ax.text(0.5, 0.5, "no epoch was finished", transform=ax.transAxes, ha="center", color=GREY)
    ax.set_title(name, loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def draw_confusion(ax: "Axes", matrix: np.ndarray, names: Sequence[str]) -> None:
    """The confusion matrix; only mistakes are coloured, since the diagonal would drown them."""
    classes = len(matrix)
    mistakes = matrix - np.diag(np.diag(matrix))
    ax.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1.4 * mistakes.max(), 8))
    if classes <= 20:
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                colour, size = (GREY, 8) if i == j else ("black", 10)
                ax.text(j, i, f"{count}", ha="center", va="center", fontsize=size, color=colour)
        upright = max(map(len, names)) <= 3
        ax.set_xticks(range(classes), names, rotation=0 if upright else 60, ha="center" if upright else "right")
        ax.set_yticks(range(classes), names)
    ax.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5 if classes <= 20 else 0)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("confusion matrix", loc="left")
    ax.set_xlabel("the network says")
    ax.set_ylabel("it is")


def draw_mistakes(
    figure: Any,
    x: np.ndarray,
    y: np.ndarray,
    predictions: np.ndarray,
    names: Sequence[str],
    rows: int = 5,
    columns: int = 6,
) -> None:
    """The wrong answers that the network gave with most confidence, above each what it is and what was said."""
    said = predictions.argmax(axis=1)
    sure = predictions.max(axis=1)
    wrong = np.flatnonzero(said != y)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][: rows * columns]
    figure.suptitle("what it got wrong, and was surest of" if len(worst) else "nothing was wrong", fontsize=12)
    axes = figure.subplots(rows, columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, i in zip(axes.flat, worst, strict=False):
        ax.imshow(displayable(x[i]), cmap="gray_r")
        ax.set_title(f"is {names[y[i]]}\nsaid {names[said[i]]} ({sure[i]:.0%})", fontsize=9, color=WRONG, pad=3)


def displayable(image: np.ndarray) -> np.ndarray:
    """One channel as (height, width), three as they are; others show their first."""
    if image.ndim == 3 and image.shape[-1] != 3:
        image = image[..., 0]
    return image if image.dtype == np.uint8 else np.clip(image, 0, 1)
