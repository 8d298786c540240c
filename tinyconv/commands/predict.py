"""``tinyconv predict``: what a saved network says about images."""

import argparse
import warnings
from typing import Any

import numpy as np

import tinyconv
from tinyconv import kernels
from tinyconv.commands.common import Result, complain, say
from tinyconv.plan import ops


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a network saved as .keras, by tinyconv or by Keras")
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG, WebP, BMP, GIF or TIFF of at most 10 megapixels; digits are centred and scaled as MNIST's",
    )
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--names", metavar="A,B,...", help="what the classes are called, in order (their numbers)")


def run(options: argparse.Namespace) -> Result:
    from tinyconv.datasets import pictures

    model = tinyconv.saving.load_model(options.model, backend=options.backend)
    if isinstance(model.input_shape, list) or isinstance(model.output_shape, list) or len(model.output_shape) != 2:
        raise ValueError(
            f"Cannot say what this network's outputs mean. Expected a row of numbers for each image. Received: outputs "
            f"of shape {model.output_shape}."
        )
    shape: Any = model.input_shape[1:]
    kind, function = meaning(model)
    outputs_of: Any = model.output_shape
    names = _names(options.names, 2 if kind == "two classes" else outputs_of[1])
    x, doubts = [], []
    for path in options.images:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x.append(pictures.read(path, shape))
        doubts.append([str(each.message) for each in caught])
        for doubt in doubts[-1]:
            complain(f"tinyconv predict: warning: {doubt}")
    if model.optimizer is None:
        model.compile(backend=options.backend)
    outputs = model.predict(np.stack(x)).astype(np.float64)
    found = []
    for path, row, warned in zip(options.images, outputs, doubts, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(f"The network's output for {path!r} is not finite: {row.tolist()}. Was it trained?")
        answer, text = _answer(kind, function, row, names)
        found.append({"image": path, **answer, **({"warnings": warned} if warned else {})})
        say(options, f"{path}: {text}")
    return {"predictions": found}


def meaning(model: tinyconv.Model) -> tuple[str, str | None]:
    """What a network's outputs say, and which function makes probabilities of them, if they are only scores.

    They say which of several "classes" it is, which of "two classes" (one output: the probability of the second),
    which "labels" hold, each on its own, or just "numbers".
    """
    last = model._graph().last_op()
    activation = last.kind if isinstance(last, ops.Activation) else "linear"
    activation = "softmax" if isinstance(last, ops.Softmax) else activation
    loss = model.loss.kind if model.loss is not None else None
    single = model.output_shape[1] == 1
    if activation == "softmax":
        return "classes", None
    if activation == "sigmoid" or loss == "binary_cross_entropy":
        return "two classes" if single else "labels", None if activation == "sigmoid" else "sigmoid"
    if loss == "cross_entropy" or (loss is None and not single and activation == "linear"):
        return "classes", "softmax"
    return "numbers", None


def _names(given: str | None, count: int) -> list[str]:
    """What the classes are called."""
    names = given.split(",") if given is not None else [str(k) for k in range(count)]
    if len(names) != count:
        what = "two for its single output" if count == 2 else "one for each output"
        raise ValueError(f"Expected {count} names, {what}. Received: {len(names)}.")
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"Expected names that differ, and none empty. Received: {given!r}.")
    return names


def _answer(kind: str, function: str | None, row: np.ndarray, names: list[str]) -> tuple[Result, str]:
    """One image's outputs, for a program and for a person."""
    if kind == "numbers":
        values = dict(zip(names, map(float, row), strict=True))
        return {"values": values}, ", ".join(f"{value:.6g}" for value in row)
    if function == "softmax":
        row = np.exp(row - row.max())
        row = row / row.sum()
    elif function == "sigmoid":
        row = 1 / (1 + np.exp(-np.clip(row, -700, 700)))
    row = np.clip(row, 0, 1)  # a sum may be rounded up
    if kind == "two classes":
        row = np.array([1 - row[0], row[0]])
    best = int(row.argmax())
    probabilities = dict(zip(names, map(float, row), strict=True))
    answer: Result = {"class": names[best], "probability": float(row[best]), "probabilities": probabilities}
    if kind == "labels":
        answer["labels"] = [name for name, value in probabilities.items() if value >= 0.5]
        said = ", ".join(answer["labels"]) or "none of the labels"
        return answer, f"{said} ({', '.join(f'{name} {value:.1%}' for name, value in probabilities.items())})"
    after = ""
    if len(row) > 1:
        second = int(np.argsort(row)[-2])
        after = f"; next {names[second]}, {row[second]:.1%}"
    return answer, f"{names[best]} ({row[best]:.1%}{after})"
