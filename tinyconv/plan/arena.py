"""Many small arrays in one block of memory.

A network's parameters are dozens of arrays, but an optimiser treats every number alike. So all parameters live in one
flat array, each layer's weights being views into it; all gradients in another, laid out the same way; and the
optimiser's moments too. One pass updates them all, one copy saves them, and one sum would add up two machines' work.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.checking.arguments import Shape
from tinyconv.kernels import memory

ALIGNED = 16  # elements: every array begins at a multiple of 64 bytes (of float32), a whole vector register


class Arena:
    """One flat array, and named views into it.

    ``shapes`` maps each name to its shape, in order; ``kernels`` is the kernel set whose memory holds the array. The
    elements between two arrays, if any, are zero and stay so: a zero gradient moves nothing.
    """

    def __init__(self, shapes: Mapping[str, Shape], kernels: ModuleType, dtype: Any = np.float32) -> None:
        self.shapes = dict(shapes)
        self.offsets = {}
        end = 0
        guards = memory.guarding() and kernels.allocate is memory.allocate
        for name, shape in self.shapes.items():
            self.offsets[name] = end
            end += -(-math.prod(shape) // ALIGNED) * ALIGNED + (ALIGNED if guards else 0)
        self.flat = kernels.allocate((max(end, 1),), dtype)
        self.views = self.views_of(self.flat)
        ends = [*list(self.offsets.values())[1:], end]
        for name, until in zip(self.offsets, ends, strict=False) if guards else ():
            memory.guard(
                self.flat[self.offsets[name] + math.prod(shapes[name]) : until], 0, f"behind {name!r} in an arena"
            )

    def views_of(self, flat: Any) -> dict[str, Any]:
        """Views, named and shaped as this arena's, into another flat array of the same length."""
        return {
            name: flat[self.offsets[name] : self.offsets[name] + math.prod(shape)].reshape(shape)
            for name, shape in self.shapes.items()
        }

    def over(self, flat: Any) -> "Arena":
        """An arena laid out as this one, over another flat array."""
        other = copy.copy(self)
        other.flat, other.views = flat, self.views_of(flat)
        return other

    def __getitem__(self, name: str) -> Any:
        return self.views[name]

    def __contains__(self, name: str) -> bool:
        return name in self.views


@dataclass
class Piece:
    """Memory that values have in turn, and how much of it somebody has ever had."""

    memory: Any
    size: int = 0


class Storage:
    """The buffers of one or more plans, by name. Plans that share a storage share memory: of a model's plans only one
    runs at a time, and that of a ragged last batch needs less than that of a full one. ``beside``: another storage,
    with which this one shares the memory that holds nothing between two runs."""

    def __init__(self, kernels: ModuleType, beside: "Storage | None" = None) -> None:
        self.kernels = kernels
        self.raw: dict[tuple[str, str], Any] = {}
        self.pieces: list[Piece] = [] if beside is None else beside.pieces

    def get(self, name: str, shape: Shape, dtype: Any) -> Any:
        """The buffer of that name, at least as large as ``shape`` needs; allocated when first asked for."""
        size = math.prod(shape)
        # Guard zones must lie where this plan's buffer ends: then every size has a buffer of its own.
        key = f"{name} of {size}" if memory.guarding() else name, np.dtype(dtype).name
        if key not in self.raw or self.raw[key].size < size:
            self.raw[key] = self.kernels.allocate((size,), dtype)
        return self.raw[key][:size].reshape(shape)

    def room(self, size: int, dtype: Any) -> Any:
        """Memory for a new piece, twice the size where that costs nothing before it is touched: it may have to grow."""
        return self.kernels.allocate((2 * size if self.kernels.allocate is memory.allocate else size,), dtype)
