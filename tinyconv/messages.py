"""Words that several error messages share."""

from collections.abc import Iterable


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


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
