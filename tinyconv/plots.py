"""Pictures of a model and its training, as matplotlib figures to save or to show in a notebook.

Needs matplotlib (the extra ``plot``). What :mod:`tinyconv.report` draws on one sheet comes from the same functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import explain, report
from tinyconv.layers import Conv2D

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tinyconv.model import Sequential


def training_curves(history: Mapping[str, Sequence[float]]) -> "Figure":
    """Every value of a history over the epochs, training and validation in one drawing: ``History.plot`` shows it."""
    names = [name for name in history if not name.startswith("val_")] or ["loss"]
    figure = report.need_matplotlib()(figsize=(5.5 * len(names), 4), layout="constrained")
    for ax, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        report.draw_curves(ax, history, name)
        ax.set_xlabel("epoch")
    return figure


def filters(model: "Sequential", layer: str | None = None, most: int = 64) -> "Figure":
    """The filters of a convolution (the first, unless a layer is named): what it looks for in its input.

    Filters of three channels are drawn in colour, others by the mean over their channels. Grey is 0, for all filters
    on one scale.
    """
    conv = _first_convolution(model) if layer is None else model.get_layer(layer)
    kernel = conv.arrays.get("kernel") if isinstance(conv, Conv2D) else None
    if kernel is None:
        raise ValueError(f"Layer {conv.name!r} has no filters to draw. Expected a built Conv2D.")
    limit = max(float(np.abs(kernel).max()), 1e-12)
    figure, axes = _grid(min(kernel.shape[-1], most), f"{conv.name}: {kernel.shape[-1]} filters")
    for number, ax in enumerate(axes):
        image = kernel[..., number]
        if image.shape[-1] == 3:
            ax.imshow(image / (2 * limit) + 0.5)
        else:
            ax.imshow(image.mean(axis=-1), cmap="RdBu_r", vmin=-limit, vmax=limit)
    return figure


def _first_convolution(model: "Sequential") -> Any:
    for layer in model.layers:
        if isinstance(layer, Conv2D):
            return layer
    raise ValueError(f"Model {model.name!r} has no Conv2D, and so no filters to draw.")


def feature_maps(model: "Sequential", image: np.ndarray, most: int = 16) -> "Figure":
    """What every layer makes of one image: its first ``most`` channels, or the numbers it has become, as bars."""
    outputs = {"input": image[None], **explain.layer_outputs(model, image[None])}
    figure = report.need_matplotlib()(figsize=(12, 1.5 * len(outputs)), layout="constrained")
    for row, (name, output) in zip(
        figure.subfigures(len(outputs), 1, squeeze=False)[:, 0], outputs.items(), strict=True
    ):
        row.suptitle(f"{name} {output.shape[1:]}", fontsize=9, x=0.01, ha="left")
        if output.ndim == 4:
            _draw_maps(row, output[0], most)
        else:
            ax = row.subplots()
            ax.bar(np.arange(output[0].size), output[0].ravel(), width=1.0, color=report.TRAINING)
            ax.tick_params(labelsize=7)
    return figure


def _draw_maps(figure: Any, output: np.ndarray, most: int) -> None:
    """The channels of one image, each on its own scale: black is the channel's largest value."""
    axes = np.atleast_1d(figure.subplots(1, most))
    for channel, ax in enumerate(axes):
        ax.set_axis_off()
        if channel < output.shape[-1]:
            ax.imshow(output[..., channel], cmap="gray_r")


def confusion(y: np.ndarray, predictions: np.ndarray, class_names: Sequence[str] | None = None) -> "Figure":
    """How often each class was taken for each other one.

    Args:
        y: labels, (N,) integers.
        predictions: probabilities, (N, classes).
        class_names: what the labels mean.
    """
    figure = report.need_matplotlib()(figsize=(6.4, 6), layout="constrained")
    y, names = _labels(y, predictions, class_names)
    matrix = report.confusion_matrix(y, predictions.argmax(axis=1), predictions.shape[1])
    report.draw_confusion(figure.subplots(), matrix, names)
    return figure


def worst_mistakes(
    x: np.ndarray, y: np.ndarray, predictions: np.ndarray, class_names: Sequence[str] | None = None
) -> "Figure":
    """The images that the network got most confidently wrong. Arguments as for :func:`confusion`, and the images."""
    figure = report.need_matplotlib()(figsize=(8, 7.5), layout="constrained")
    y, names = _labels(y, predictions, class_names)
    report.draw_mistakes(figure, x, y, predictions, names)
    return figure


def _labels(y: np.ndarray, predictions: np.ndarray, class_names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels as int64, one for each prediction, and the names of all classes."""
    y = np.asarray(y)
    if predictions.ndim != 2 or y.shape != predictions.shape[:1]:
        raise ValueError(
            "Labels and predictions do not fit. Expected (N,) integers and (N, classes) probabilities. "
            f"Received: {y.shape} and {predictions.shape}."
        )
    classes = predictions.shape[1]
    return y.astype(np.int64), [str(name) for name in class_names or range(classes)]


def saliency(model: "Sequential", image: np.ndarray, label: int | None = None) -> "Figure":
    """The image, and how much each of its pixels moves the score of a class (by default the one the network predicts).

    The derivative is the true one: see :func:`tinyconv.explain.input_gradient`. Of several channels the largest counts.
    """
    predicted = int(explain.layer_outputs(model, image[None])[model.layers[-1].name].argmax())
    label = predicted if label is None else label
    gradient = np.abs(explain.input_gradient(model, image[None], [label])[0]).max(axis=-1)
    figure = report.need_matplotlib()(figsize=(7, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(report.displayable(image), cmap="gray_r")
    left.set_title(f"the network says {predicted}", fontsize=10)
    right.imshow(gradient, cmap="magma")
    right.set_title(f"which pixels matter to {label}", fontsize=10)
    for ax in (left, right):
        ax.set_axis_off()
    return figure


def _grid(count: int, title: str) -> tuple["Figure", list[Any]]:
    """A figure of that many square drawings without axes."""
    columns = math.ceil(math.sqrt(2 * count))
    rows = math.ceil(count / columns)
    figure = report.need_matplotlib()(figsize=(columns, rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    return figure, axes[:count]
