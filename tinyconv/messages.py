"""Words that several error messages share."""

from collections.abc import Iterable, Mapping
from typing import Any


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


def refuse(owner: str, unsupported: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse arguments that Keras has and tinyconv has not, unless they have a value that changes nothing.

    ``owner`` is whose arguments they are: "Conv2D", "fit()". ``neutral`` holds those values, for each argument of
    Keras.
    """
    for argument, value in unsupported.items():
        if argument not in neutral:
            raise TypeError(f"{owner} has no argument {argument!r}.")
        options = neutral[argument]
        if not any(isinstance(value, type(option)) and value == option for option in options):  # no array == None
            raise ValueError(
                f"{owner.removesuffix('()')}({argument}={value!r}) is not supported by tinyconv. "
                f"Expected {' or '.join(map(repr, options))}. Fix: leave out {argument!r}."
            )


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
