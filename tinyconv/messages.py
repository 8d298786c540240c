"""Words that several error messages share."""

import reprlib
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np


def suggest(name: object, options: Iterable[str]) -> str:
    """The end of an "unknown name" message: the likeliest option, then all of them.

    >>> suggest("rleu", ["relu", "tanh"])
    "Did you mean 'relu'? Expected one of 'relu', 'tanh'."

    Case, and whether words are joined by "_", "-" or capitals, do not count: "MaxPool2D" is close to "max_pool2d".
    Without a likely option only the list is returned.
    """
    from difflib import get_close_matches

    options = list(options)
    expected = f"Expected one of {', '.join(map(repr, options))}."
    plain = {_plain(option): option for option in options}
    close = get_close_matches(_plain(name), plain, n=1) if isinstance(name, str) else []
    return f"Did you mean {plain[close[0]]!r}? {expected}" if close else expected


def received(value: Any) -> str:
    """A value for the end of a message: short, on one line, whatever it is."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{type(value).__name__} of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, Integral) and abs(int(value)) >= 10**30:
        return f"an integer of {int(value).bit_length()} bits"
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # somebody's own __repr__
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-30:]}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlong = 60


# What to do instead of using an argument of Keras that tinyconv has not.
INSTEAD = {
    "class_weight": "repeat the samples of rare classes",
    "sample_weight": "repeat the samples that count more",
    "weighted_metrics": "use metrics",
    "data_format": "channels come last, np.moveaxis(x, 1, -1)",
    "batch_size": "give it to fit, evaluate and predict",
    "batch_shape": "shape=..., without the batch axis",
    "dtype": "tinyconv computes in float32",
    "clipnorm": "a smaller learning_rate",
    "clipvalue": "a smaller learning_rate",
    "global_clipnorm": "a smaller learning_rate",
    "amsgrad": "the plain Adam, amsgrad=False",
    "steps_per_epoch": "pass fewer samples to fit",
    "validation_steps": "pass fewer samples as validation_data",
    "steps": "pass fewer samples",
    "beta_regularizer": "kernel_regularizer of the layer before",
    "gamma_regularizer": "kernel_regularizer of the layer before",
    "label_smoothing": "smooth the targets, y * (1 - s) + s / classes",
    "ignore_class": "leave those samples out",
    "input_dim": "input_shape=(...,), or begin the model with Input((...,))",
    "batch_input_shape": "input_shape=..., without the batch axis",
}


def refuse(
    owner: str, unsupported: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], known: Iterable[str] = ()
) -> None:
    """Refuse arguments that Keras has and tinyconv has not, unless they have a value that changes nothing.

    ``owner`` is whose arguments they are: "Conv2D", "fit()". ``neutral`` holds those values, for each argument of
    Keras; ``known`` are the owner's other arguments, for a suggestion.
    """
    for argument, value in unsupported.items():
        if argument not in neutral:
            raise TypeError(f"{owner} has no argument {argument!r}. {suggest(argument, [*known, *neutral])}")
        options = neutral[argument]
        if not any(isinstance(value, type(option)) and value == option for option in options):  # no array == None
            expected = " or ".join(map(repr, options))
            fix = f" Fix: {INSTEAD[argument]}." if argument in INSTEAD else ""
            raise ValueError(
                f"{owner.removesuffix('()')}({argument}={received(value)}) is not supported by tinyconv yet. "
                f"Expected {expected}.{fix}"
            )


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
