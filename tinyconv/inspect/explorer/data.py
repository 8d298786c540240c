"""Samples for the inputs of a model, and targets for its outputs, however many of each it has."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyconv.training.heads import per_output

Array = np.ndarray


class Data:
    """Rows of samples and of targets: an array for each input of the model, and, if they are known, for each output."""

    def __init__(self, xs: Sequence[Array], ys: Sequence[Array] | None) -> None:
        self.xs, self.ys = list(xs), None if ys is None else list(ys)

    @classmethod
    def of(cls, model: Any, x: Any, y: Any, most: int | None = None) -> "Data":
        """What a user hands over, as for ``fit``; each sample in the shape that its input takes."""
        shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
        names = _called("x", model.input_names)
        each_x = zip(names, _listed("x", x, model.input_names), shapes, strict=True)
        xs = [_samples(name, each, tuple(shape[1:])) for name, each, shape in each_x]
        ys = None if y is None else [np.asarray(each) for each in _listed("y", y, model.output_names)]
        for name, each in zip([*names, *_called("y", model.output_names)], [*xs, *(ys or ())], strict=False):
            if len(each) != len(xs[0]):
                both, found = f"{names[0]} and {name}", f"{len(xs[0])} and {len(each)}"
                raise ValueError(f"{both} differ in length. Expected the same. Received: {found}.")
        return cls(xs, ys).rows(slice(most))

    def __len__(self) -> int:
        return len(self.xs[0])

    @property
    def x(self) -> Any:
        """The samples as the model takes them."""
        return given(self.xs)

    @property
    def y(self) -> Any:
        """The targets as the model takes them; None: there are none."""
        return None if self.ys is None else given(self.ys)

    def rows(self, chosen: Any) -> "Data":
        """Some of the rows: a slice, or an array of numbers."""
        return Data([each[chosen] for each in self.xs], None if self.ys is None else [each[chosen] for each in self.ys])

    def before(self, others: "Data") -> "Data":
        """These rows, and others behind them."""
        assert self.ys is not None
        assert others.ys is not None
        xs = [np.concatenate([a, b]).astype(np.float32) for a, b in zip(self.xs, others.xs, strict=True)]
        return Data(xs, [np.concatenate(pair) for pair in zip(self.ys, others.ys, strict=True)])


def given(arrays: Sequence[Array]) -> Any:
    """One array, or the list of several."""
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _listed(argument: str, value: Any, names: Sequence[str]) -> list[Any]:
    single = len(names) == 1 and not isinstance(value, Mapping)
    return [value] if single else per_output(argument, value, names)


def _called(argument: str, names: Sequence[str]) -> list[str]:
    return [argument] if len(names) == 1 else [f"{argument}[{name!r}]" for name in names]


def _samples(name: str, x: Any, shape: tuple[int, ...]) -> Array:
    found = np.shape(x)
    if not found or not found[0] or math.prod(found[1:]) != math.prod(shape):
        raise ValueError(
            f"{name}: expected samples of shape {shape}, at least one. Received: an array of shape {found}."
        )
    return np.asarray(x).reshape(-1, *shape)
