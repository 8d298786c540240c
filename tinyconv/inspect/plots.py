"""Pictures of a model and its training, as matplotlib figures to save or to show in a notebook.

Needs matplotlib (the extra ``plot``). What :mod:`tinyconv.inspect.report` draws on
one sheet comes from the same functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import checking
from tinyconv.callbacks import curves
from tinyconv.callbacks.curves import training_curves
from tinyconv.checking.messages import received
from tinyconv.distribution.parallel import alone
from tinyconv.inspect import explain, report
from tinyconv.layers import Conv2D
from tinyconv.models.model import Model
from tinyconv.network import Network

__all__ = ["confusion", "feature_maps", "filters", "saliency", "training_curves", "worst_mistakes"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def filters(model: Network, layer: str | None = None, most: int = 64) -> "Figure":
    """The filters of a convolution (the first, unless a layer is named): what it looks for in its input. One in a model
    within is named by its path, "encoder/conv2d".

    Filters of three channels are drawn in colour, grey being 0, others by the mean over their channels, white being 0.
    All are on one scale, which is drawn beside them.
    """
    _check_model(model)
    most = checking.integer("filters", "most", most)
    model._need_built()
    leaves = dict(model._leaves)
    convolutions = {path: one for path, one in leaves.items() if isinstance(one, Conv2D)}
    if not convolutions:
        raise ValueError(f"Model {model.name!r} has no Conv2D, and so no filters to draw.")
    name = next(iter(convolutions)) if layer is None else layer
    if name not in leaves:
        name = model.get_layer(name).name
    if name not in convolutions:
        options = ", ".join(map(repr, convolutions))
        raise ValueError(f"Layer {name!r} has no filters to draw. Expected a Conv2D, one of {options}.")
    kernel = convolutions[name].arrays["kernel"].astype(np.float64)
    report.check_finite(f"The kernel of layer {name!r}", kernel)
    channels, count = kernel.shape[2:]
    images, shown = kernel[..., :most], min(count, most)
    title = f"{curves.short(name)}: {report.first(shown, count, 'filter')}"
    figure, axes = _grid(shown, title)
    if channels == 3:
        limit = float(np.abs(images).max()) or 1.0
        for number, ax in enumerate(axes):
            ax.imshow(images[..., number] / (2 * limit) + 0.5)
        scale, label = {"cmap": "gray", "vmin": -limit, "vmax": limit}, "weight of red, green, blue"
    else:
        images = images.mean(axis=2)
        scale, label = _scale(images), "weight" if channels == 1 else f"weight, mean of {channels} channels"
        for number, ax in enumerate(axes):
            ax.imshow(images[..., number], **scale)
    _colour_bar(figure, figure.axes, scale, f"{label}\n(one scale for all)")
    return figure


def feature_maps(model: Network, image: np.ndarray, most: int = 16) -> "Figure":
    """What every layer makes of one image: its first ``most`` channels, or the numbers it has become, as bars.

    The channels of one layer share a scale, which is drawn beside them; each layer has its own. White is 0.
    """
    image = _check_image(model, image)
    most = checking.integer("feature_maps", "most", most)
    outputs = {"input": image[None], **explain.layer_outputs(model, image[None])}
    for name, output in outputs.items():
        report.check_finite(f"The output of layer {name!r}", output)
    drawn = [output.shape[3] if output.ndim == 4 else 1 for output in outputs.values()]
    columns = max(min(most, max(drawn)), 8)  # at least, so that few channels do not stand far apart
    figure = curves.need_matplotlib()(figsize=(12, 1.4 * len(outputs)), layout="constrained")
    for row, (name, output) in zip(
        figure.subfigures(len(outputs), 1, squeeze=False)[:, 0], outputs.items(), strict=True
    ):
        title = f"{curves.short(name)} {output.shape[1:]}"
        values = output[0].astype(np.float64)
        if values.ndim in (2, 3):
            maps = values.reshape(*values.shape[:2], -1)
            shown = maps[..., :most]
            if maps.shape[-1] > 1:
                title += f": {report.first(shown.shape[-1], maps.shape[-1], 'channel')}, one scale"
            _draw_maps(row, shown, columns)
        else:
            ax = row.subplots()
            ax.stairs(values.ravel(), np.arange(values.size + 1) - 0.5, fill=True, color=curves.TRAINING)
            ax.margins(x=0.01)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.tick_params(labelsize=7)
        row.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
    return figure


def _draw_maps(figure: Any, maps: np.ndarray, columns: int) -> None:
    """The channels of one layer and their common scale."""
    scale = _scale(maps)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for channel, ax in enumerate(axes):
        if channel < maps.shape[-1]:
            ax.imshow(maps[..., channel], **scale)
            _frame(ax)
        else:
            ax.set_axis_off()
    _colour_bar(figure, list(axes), scale, "")


def _scale(values: np.ndarray) -> dict[str, Any]:
    """The colours of numbers: white is 0, black the largest; if some are negative, red is above 0 and blue below."""
    limit = float(np.abs(values).max()) or 1.0  # a scale needs a width, even where all is 0
    if values.min() < 0:
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return {"cmap": "gray_r", "vmin": 0.0, "vmax": limit}


def _colour_bar(figure: Any, axes: list[Any], scale: Mapping[str, Any], label: str) -> None:
    """What number each colour means, at the right of those drawings."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(scale["vmin"], scale["vmax"]), scale["cmap"])
    bar = figure.colorbar(colours, ax=axes, fraction=0.03, pad=0.01, ticks=np.linspace(scale["vmin"], scale["vmax"], 3))
    bar.set_ticks(bar.get_ticks(), labels=[f"{tick:.2g}" for tick in bar.get_ticks()])
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _frame(ax: Any) -> None:
    """A thin border instead of axes, so that white does not run into the page."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="#cccccc", linewidth=0.6)


def _check_model(model: Any) -> None:
    if not isinstance(model, Model):
        raise TypeError(f"Invalid model. Expected a Sequential or a Model. Received: {received(model)}.")


def _check_image(model: Any, image: Any) -> np.ndarray:
    """One sample of the model's input, finite."""
    _check_model(model)
    explain.need_one_of_each("A picture of what a model sees", model)
    shape = model.input_shape[1:]
    image = checking.numbers("The image", image)
    if image.shape != shape:
        fix = ""
        if image.shape[1:] == shape:
            fix = " Fix: give one sample, x[0]."
        elif (*image.shape, 1) == shape:
            fix = " Fix: add the channel axis, image[..., None]."
        raise ValueError(
            f"The image does not fit model {model.name!r}. Expected one sample, of shape {shape}. "
            f"Received: shape {image.shape}.{fix}"
        )
    report.check_finite("The image", image)
    return image


def confusion(y: np.ndarray, predictions: np.ndarray, class_names: Sequence[str] | None = None) -> "Figure":
    """How often each class was taken for each other one.

    Args:
        y: labels, (N,) integers.
        predictions: probabilities, (N, classes).
        class_names: what the labels mean.
    """
    y, predictions, names = report.check_labels(y, predictions, class_names)
    figure = curves.need_matplotlib()(figsize=(6.4, 6), layout="constrained")
    matrix = report.confusion_matrix(y, predictions.argmax(axis=1), predictions.shape[1])
    report.draw_confusion(figure.subplots(), matrix, names)
    return figure


def worst_mistakes(
    x: np.ndarray, y: np.ndarray, predictions: np.ndarray, class_names: Sequence[str] | None = None
) -> "Figure":
    """The images that the network got most confidently wrong. Arguments as for :func:`confusion`, and the images."""
    y, predictions, names = report.check_labels(y, predictions, class_names)
    x = report.check_images(x, len(y))
    figure = curves.need_matplotlib()(figsize=(8, 7.5), layout="constrained")
    report.draw_mistakes(figure, x, y, predictions, names)
    return figure


def saliency(model: Network, image: np.ndarray, label: int | None = None) -> "Figure":
    """The image, and how much each of its pixels moves the score of a class (by default the one the network predicts).

    The derivative is the true one: see :func:`tinyconv.inspect.explain.input_gradient`. Of several channels the
    largest counts.
    """
    image = _check_image(model, image)
    outputs = model.output_shape[1:]  # type: ignore[index]
    if image.ndim not in (2, 3) or len(outputs) != 1:
        raise ValueError(
            "saliency needs a model that classifies images. Expected inputs (height, width, channels) and outputs "
            f"(classes,). Received: {image.shape} and {outputs}."
        )
    if label is not None:
        label = checking.integer("saliency", "label", label, at_least=0, at_most=outputs[0] - 1)  # type: ignore[operator]
    with alone():
        scores = model.predict(image[None])
    report.check_finite(f"The output of model {model.name!r}", scores)
    predicted = int(scores.argmax())
    label = predicted if label is None else label
    gradient = np.abs(explain.input_gradient(model, image[None], [label])[0])
    gradient = gradient.reshape(*image.shape[:2], -1).max(axis=-1)
    figure = curves.need_matplotlib()(figsize=(7.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    report.draw_image(left, image)
    left.set_title(f"the network says {predicted}", fontsize=10)
    scale = {**_scale(gradient), "cmap": "magma"}
    right.imshow(gradient, **scale)
    right.set_title(f"which pixels matter to {label}", fontsize=10)
    for ax in (left, right):
        _frame(ax)
    _colour_bar(figure, [right], scale, "|change of the score per change of the pixel|")
    return figure


def _grid(count: int, title: str) -> tuple["Figure", list[Any]]:
    """A figure of that many square drawings without axes."""
    columns = max(math.ceil(math.sqrt(2 * count)), 3)
    rows = math.ceil(count / columns)
    figure = curves.need_matplotlib()(figsize=(columns + 1, max(rows, 2) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, ax in enumerate(axes):
        _frame(ax) if number < count else ax.set_axis_off()
    return figure, axes[:count]
