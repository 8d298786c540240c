"""Words that several error messages share."""

import functools
import inspect
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def suggest(name: object, options: Iterable[str]) -> str:
    """The end of an "unknown name" message: the likeliest option, then all of them.

    >>> suggest("rleu", ["relu", "tanh"])
    "Did you mean 'relu'? Expected one of 'relu', 'tanh'."

    Case, and whether words are joined by "_", "-" or capitals, do not count: "MaxPool2D" is close to "max_pool2d".
    Without a likely option only the list is returned.
    """
    options = list(options)
    expected = f"Expected one of {', '.join(map(repr, options))}."
    close = closest(name, options)
    return expected if close is None else f"Did you mean {close!r}? {expected}"


def closest(name: object, options: Iterable[str]) -> str | None:
    """The option that was probably meant, see :func:`suggest`; None: none is like it."""
    from difflib import get_close_matches

    if not isinstance(name, str):
        return None
    plain: dict[str, list[str]] = {}
    for option in options:
        plain.setdefault(_plain(option), []).append(option)
    close = get_close_matches(_plain(name), plain, n=1)
    return get_close_matches(name, plain[close[0]], n=1, cutoff=0)[0] if close else None


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


# What to do instead of using an argument of Keras that tinyconv does not have.
INSTEAD = {
    "loss_weights": "leave it out; metrics are given by name, metrics=[...]",
    "data_format": "channels come last, np.moveaxis(x, 1, -1)",
    "use_multiprocessing": "workers=..., which are threads",
    "dtype": "tinyconv computes in float32",
    "amsgrad": "the plain Adam, amsgrad=False",
    "beta_regularizer": "kernel_regularizer of the layer before",
    "gamma_regularizer": "kernel_regularizer of the layer before",
    "ignore_class": "leave those samples out",
    "batch_input_shape": "input_shape=..., without the batch axis",
}


def wrong_call(who: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TypeError:
    """The error that a function was called with arguments that it does not take, or without some that it needs."""
    parameters = [p for name, p in inspect.signature(function).parameters.items() if name != "self"]
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    for name in kwargs:
        if name not in names:
            return TypeError(f"{who} has no argument {name!r}. {suggest(name, names)}")
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(positional):
        return TypeError(
            f"{who} has too many arguments without a name. Expected {len(positional)}. Received: {len(args)}."
        )
    for name in positional[: len(args)]:
        if name in kwargs:
            return TypeError(f"{who} has the argument {name!r} twice: by its place and by its name. Expected it once.")
    missing = [
        p.name for p in parameters if p.default is p.empty and p.name in names[len(args) :] and p.name not in kwargs
    ]
    return TypeError(f"{who} lacks the argument {', '.join(map(repr, missing))}. Expected: {', '.join(names)}.")


def explained(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function, whose callers learn what is wrong with their arguments' names and number in full."""

    @functools.wraps(function)
    def explaining(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # from inside the function
                raise
        is_method = next(iter(inspect.signature(function).parameters), "") == "self"
        raise wrong_call(f"{function.__name__}()", function, args[1:] if is_method else args, kwargs)

    return explaining


def warn(text: str) -> None:
    """Warn, pointing to the line of the user's code that it is about."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "tinyconv":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def refuse(
    owner: str, unsupported: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], known: Iterable[str] = ()
) -> None:
    """Refuse arguments that Keras has and tinyconv does not, unless they have a value that changes nothing.

    ``owner`` is whose arguments they are: "Conv2D", "fit()". ``neutral`` holds those values, for each argument of
    Keras; ``known`` are the owner's other arguments, for a suggestion.
    """
    for argument, value in unsupported.items():
        if argument not in neutral:
            fix = f" Fix: {INSTEAD[argument]}." if argument in INSTEAD else ""
            options = dict.fromkeys([*known, *neutral])
            raise TypeError(f"{owner} has no argument {argument!r}. {suggest(argument, options)}{fix}")
        if not any(_same(value, option) for option in neutral[argument]):
            expected = " or ".join(map(repr, neutral[argument]))
            fix = f" Fix: {INSTEAD[argument]}." if argument in INSTEAD else ""
            raise ValueError(
                f"{owner.removesuffix('()')}({argument}={received(value)}) is not supported by tinyconv yet. "
                f"Expected {expected}.{fix}"
            )


def _same(value: Any, option: Any) -> bool:
    """Whether an argument is that text, number, boolean or None; True is no number, and an array is none of them."""
    if isinstance(option, bool):
        return isinstance(value, bool | np.bool_ | Integral) and bool(value == option)
    if isinstance(option, Real):
        return isinstance(value, Real) and not isinstance(value, bool) and bool(value == option)
    return isinstance(value, type(option)) and value == option


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
