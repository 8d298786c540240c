"""Checks of single arguments, shared by everything that takes one.

Every check is told whose argument it is (``where``: "Adam", "layer 'conv2d'"; "" for a plain function), the argument's
name and what was given; it returns the clean value, or raises a ValueError that says what, where, expected, received.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from tinyconv.checking.messages import received, suggest

Value = TypeVar("Value")
Shape = tuple[int, ...]
FLOAT32 = float(np.finfo(np.float32).max)  # what kernels compute in
LONGEST_NAME = 1000
LARGEST = 2**31 - 1  # a size or a count: it fits an int32 everywhere, in kernels and in files


def invalid(where: str, name: str, expected: str, value: Any, fix: str = "") -> ValueError:
    """The error that an argument is not what it should be."""
    return ValueError(
        f"{_begun('invalid', name, where)}. Expected {expected}. Received: {received(value)}.{fix and f' Fix: {fix}'}"
    )


def number(
    where: str,
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite number within bounds, as a float."""
    bounds = {"of at least": at_least, "above": above, "of at most": at_most, "less than": below}
    limits = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    kind = "a positive number" if limits == ["above 0"] else f"a number {' and '.join(limits)}".rstrip()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid(where, name, kind, value)
    try:
        result = float(value)
    except (OverflowError, ValueError, TypeError):
        raise invalid(where, name, kind, value) from None
    if abs(result) > FLOAT32:
        raise invalid(where, name, kind if limits and math.isinf(result) else "a finite number of float32", value)
    if not (math.isfinite(result) and at_least <= result <= at_most and above < result < below):
        raise invalid(where, name, kind if limits else "a finite number", value)
    return result


def integer(where: str, name: str, value: Any, *, at_least: int = 1, at_most: int = LARGEST) -> int:
    """An integer within bounds, as an int; NumPy's are welcome, 2.0 and True are not."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not at_least <= int(value) <= at_most:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        if isinstance(value, Integral) and int(value) > at_most:
            kind = f"an integer from {at_least} to {at_most}"
        raise invalid(where, name, kind, value)
    return int(value)


def count_of(name: str, value: Any, default: Any = None, at_least: int = 1) -> Any:
    """An integer of at least ``at_least``; ``default`` for None."""
    return default if value is None else integer("", name, value, at_least=at_least)


def several(where: str, name: str, values: Any, check: Callable[..., Value], **limits: Any) -> list[Value]:
    """A sequence, each entry of it checked by one of the functions here."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = list(values)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise invalid(where, name, "a list", values)
    return [check(where, f"{name}[{index}]", value, **limits) for index, value in enumerate(values)]


def boolean(where: str, name: str, value: Any) -> bool:
    """True or False; NumPy's, and 0 and 1, are welcome."""
    if not isinstance(value, bool | np.bool_) and not (isinstance(value, Integral) and value in (0, 1)):
        raise invalid(where, name, "True or False", value)
    return bool(value)


def choice(where: str, name: str, value: Any, options: Iterable[str]) -> str:
    """One of the options, which are written in lower case; capitals do not matter."""
    options = list(options)
    if not isinstance(value, str) or value.lower() not in options:
        raise unknown(where, name, value, options)
    return value.lower()


def unknown(where: str, what: str, value: Any, options: Iterable[str]) -> ValueError:
    """The error that a name is not one of the known ones."""
    return ValueError(f"{_begun('unknown', what, where)}: {received(value)}. {suggest(value, options)}")


def _begun(problem: str, name: str, where: str) -> str:
    """How a message begins: "Layer 'dense': invalid units", "Invalid beta_1 of Adam", "Invalid seed"."""
    if where.startswith("layer "):
        return f"L{where[1:]}: {problem} {name}"
    return f"{problem.capitalize()} {name}" + (f" of {where}" if where else "")


def name(where: str, value: Any) -> str:
    """A name. Names become keys of files, where "/" separates them."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or "/" in value or not value.isprintable():
        expected = f"a non-empty text without '/', of at most {LONGEST_NAME} printable characters"
        raise invalid(where, "name", expected, value)
    return str(value)


def optional_name(where: str, value: Any) -> str | None:
    """A name, or None."""
    return None if value is None else name(where, value)


def seed(where: str, value: Any) -> int | None:
    """The seed that the user chose, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
        raise invalid(where, "seed", "an integer from 0 to 2**63 - 1, or None", value)
    return int(value)


def shape(where: str, name: str, value: Any) -> Shape:
    """The shape of one sample, without the batch axis."""
    sizes = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None
    if (
        sizes is None
        or len(sizes) > 30
        or not all(
            isinstance(size, Integral) and not isinstance(size, bool) and 0 < int(size) <= LARGEST for size in sizes
        )
    ):
        expected = "the sizes of one sample, positive integers, without the batch axis, such as (28, 28, 1)"
        fix = f"({received(value)},)" if isinstance(value, Integral) and not isinstance(value, bool) else ""
        raise invalid(where, name, expected, value, fix)
    result = tuple(int(size) for size in sizes)
    affordable(where, name, result)
    return result


def affordable(where: str, name: str, shape: Shape, itemsize: int = 4) -> None:
    """Refuse an array that cannot exist, before anything tries to allocate it."""
    size = math.prod(shape) * itemsize
    if size > MEMORY:
        raise ValueError(
            f"The {name} of {where} would take {size / 2**30:,.0f} GiB. Expected at most {MEMORY / 2**30:,.0f} GiB, "
            f"this computer's memory. Received: the shape {received(shape)}."
        )


def _memory() -> int:
    """The bytes of this computer's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows, or a system that does not say
        return min(2**40, sys.maxsize)


MEMORY = _memory()


def finite_array(where: str, name: str, value: Any) -> np.ndarray:
    """An array of finite numbers, as float64."""
    array = numbers(f"The {name} of {where}", value)
    if not array.size or not np.isfinite(array).all():
        raise invalid(where, name, "finite numbers", value)
    return array.astype(np.float64)


# Whatever NumPy turns into an array as a whole, without asking for one element after the other.
ARRAYS = ("__array__", "__array_interface__", "__array_struct__", "__cuda_array_interface__", "__dlpack__")


def is_stream(value: Any) -> bool:
    """Whether it gives batches, one after the other, and is no array: a generator, a data set, ..."""
    if isinstance(value, Sequence | Mapping | Set | type | np.generic) or hasattr(value, "toarray"):
        return False
    marks = ("__next__", "__iter__", "__getitem__")
    return not any(hasattr(value, mark) for mark in ARRAYS) and any(hasattr(value, mark) for mark in marks)


def numbers(what: str, value: Any) -> np.ndarray:
    """``value`` as an array of numbers: bool, integers or floats. ``what`` begins the message: "The targets"."""
    array = value if type(value) is np.ndarray else _as_array(what, value)
    if array.dtype.kind not in "biuf":
        given = f"dtype {array.dtype}" if array.ndim else f"{received(value)} (dtype {array.dtype})"
        raise TypeError(
            f"{what}: unsupported type. Expected numbers (float32 is used as it is, other floats and integers are "
            f"converted). Received: {given}."
        )
    return array


def _as_array(what: str, value: Any) -> np.ndarray:
    """What is no plain array yet, as one."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{what}: masked arrays are not supported, since their mask would be lost. Expected a plain array. "
            f"Received: {received(value)}. Fix: .filled(...) with a value for the masked entries."
        )
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):  # SciPy's sparse matrices
        raise TypeError(
            f"{what}: sparse matrices are not supported. Expected a plain array. "
            f"Received: {type(value).__name__}. Fix: .toarray()."
        )
    if is_stream(value):
        raise TypeError(
            f"{what}: a generator or a data set, which is no array. Expected an array. Received: {received(value)}. "
            "Fix: give fit, evaluate or predict the data set as x, or collect what it gives, np.concatenate(list(...))."
        )
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, tensors that another library does not give away, ...
        fix = " Fix: .detach().cpu().numpy()." if hasattr(value, "detach") else ""
        raise TypeError(
            f"{what}: not an array. Expected numbers, all rows of the same length. "
            f"Received: {received(value)} ({type(value).__name__}).{fix}"
        ) from None
