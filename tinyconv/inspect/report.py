"""One picture of a training run: how it learned, what it confuses, and the images it got wrong.

Needs matplotlib (the extra ``plot``). Nothing here opens a window: a figure is returned, to save or for a
notebook to show.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import checking
from tinyconv.callbacks import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRONG = "#b8352a"


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
        x: the test images, (N, height, width) or (N, height, width, channels), from 0 to 255 or from 0 to 1.
        y: their labels, (N,) integers.
        predictions: the network's predictions, (N, classes) probabilities.
        class_names: what the labels mean; their numbers if None.
        title: a line for the top; the number of mistakes is added to it.
    """
    picture = curves.need_matplotlib()
    curves.check_history(history)
    y, predictions, names = check_labels(y, predictions, class_names)
    x = check_images(x, len(y))
    said, classes = predictions.argmax(axis=1), predictions.shape[1]
    figure = picture(figsize=(16, 8.6), dpi=110, layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(4, 5.2, 6.8))
    above, below = left.subplots(2, 1, sharex=True)
    curves.draw_curves(above, history, "loss")
    curves.draw_curves(below, history, "accuracy")
    below.set_xlabel("epoch")
    draw_confusion(middle.subplots(), confusion_matrix(y, said, classes), names)
    draw_mistakes(right, x, y, predictions, names)
    wrong = f"{np.count_nonzero(y != said):,} of {len(y):,} wrong"
    figure.suptitle(f"{title}: {wrong}" if title else wrong, fontsize=15, parse_math=False)
    return figure


def check_labels(y: Any, predictions: Any, class_names: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels as int64, one for each row of predictions, these, and the names of all classes."""
    y, predictions = checking.numbers("The labels", y), checking.numbers("The predictions", predictions)
    if y.ndim == 2 and y.shape[1] == 1:  # as CIFAR-10 comes
        y = y[:, 0]
    if predictions.ndim != 2 or y.shape != predictions.shape[:1]:
        fix = " Fix: y.argmax(axis=1)." if y.ndim == 2 and y.shape == predictions.shape else ""
        raise ValueError(
            "Labels and predictions do not fit. Expected (N,) integers and (N, classes) probabilities. "
            f"Received: {y.shape} and {predictions.shape}.{fix}"
        )
    count, classes = predictions.shape
    if not count:
        raise ValueError("There are no predictions. Expected at least one row. Received: none.")
    if classes < 2:
        raise ValueError(
            "The predictions have too few columns. Expected one for each class, at least two. "
            f"Received: shape {predictions.shape}.{' Fix: np.hstack([1 - p, p]).' * classes}"
        )
    check_finite("The predictions", predictions)
    wrong = np.flatnonzero(~((y >= 0) & (y < classes) & (y == np.floor(y))))
    if len(wrong):
        raise ValueError(
            f"A label is out of range. Expected integers from 0 to {classes - 1}, as there are predictions for "
            f"{classes} classes. Received: {y[wrong[0]]} at position {wrong[0]}."
        )
    names = range(classes) if class_names is None else class_names
    is_list = isinstance(names, Sequence | np.ndarray) and not isinstance(names, str | bytes)
    if not is_list or len(names) != classes:
        raise checking.invalid("", "class_names", f"a list of {classes} names, one for each class", class_names)
    return y.astype(np.int64), predictions, [curves.short(str(name)) for name in names]


def check_images(x: Any, count: int) -> np.ndarray:
    """As many finite images."""
    x = checking.numbers("The images", x)
    if x.ndim not in (3, 4) or len(x) != count or not x.size:
        raise ValueError(
            "The images do not fit. Expected (N, height, width) or (N, height, width, channels), one image for each "
            f"of {count} labels. Received: shape {x.shape}."
        )
    check_finite("The images", x)
    return x


def check_finite(what: str, array: np.ndarray) -> None:
    """Refuse what no colour stands for. ``what`` begins the message: "The images"."""
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{what}: a NaN or an infinity, first at {bad}. Expected finite numbers, which can be drawn.")


def first(shown: int, count: int, what: str) -> str:
    """ "1 filter", "16 filters" or "first 16 of 32 filters"."""
    return f"{f'first {shown} of ' * (shown < count)}{count} {what}{'s' * (count != 1)}"


def confusion_matrix(y: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each class (column): int64 (classes, classes)."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (y, said), 1)
    return matrix


def draw_confusion(ax: "Axes", matrix: np.ndarray, names: Sequence[str]) -> None:
    """The confusion matrix; only mistakes are coloured, since the diagonal would drown them."""
    classes = len(matrix)
    mistakes = matrix - np.diag(np.diag(matrix))
    image = ax.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1.4 * mistakes.max(), 8))
    if classes <= 20:
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                colour, size = (curves.GREY, 8) if i == j else ("black", 10)
                ax.text(j, i, f"{count}", ha="center", va="center", fontsize=size, color=colour)
        turn: Any = {} if max(map(len, names)) <= 3 else {"rotation": 60, "ha": "right"}
        ax.set_xticks(range(classes), names, parse_math=False, **turn)
        ax.set_yticks(range(classes), names, parse_math=False)
        ax.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1.5)
    else:  # no room for numbers
        ax.figure.colorbar(image, ax=ax, label="mistakes (right answers are left out)", shrink=0.8)
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
    form = ".0%" if predictions.min() >= 0 and predictions.max() <= 1.001 else ".3g"  # probabilities, or scores
    wrong = np.flatnonzero(said != y)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][: rows * columns]
    figure.suptitle("what it got wrong, and was surest of" if len(worst) else "nothing was wrong", fontsize=12)
    axes = figure.subplots(rows, columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, i in zip(axes.flat, worst, strict=False):
        draw_image(ax, x[i])
        title = f"is {curves.short(names[y[i]], 14)}\nsaid {curves.short(names[said[i]], 14)} ({sure[i]:{form}})"
        ax.set_title(title, fontsize=9, color=WRONG, pad=3, parse_math=False)


def draw_image(ax: Any, image: np.ndarray) -> None:
    """An image of one channel in black on white, one of three in colour; of any other number, its first channel.

    From 0 to 1 if its numbers are, and from 0 to 255 if they are integers up to that; else between its extremes.
    """
    if image.ndim == 3 and image.shape[-1] != 3:
        image = image[..., 0]
    pixels = image.astype(np.float64)
    low, high = min(pixels.min(), 0.0), pixels.max()
    if high <= 1:
        high = 1.0
    elif high <= 255 and image.dtype.kind in "iu":
        high = 255.0
    ax.imshow((pixels - low) / (high - low), cmap="gray_r", vmin=0, vmax=1)
