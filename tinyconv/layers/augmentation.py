"""Augmentation: RandomFlip, RandomTranslation, RandomRotation, RandomZoom and RandomShear.

In training each image is seen through a map that is drawn for it, anew at every step; at inference nothing happens. The
mathematics: ``kernels.reference.draw_warps`` and ``warp_forward``. Neighbours are one map, one pass over the pixels.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import refuse
from tinyconv.layers.arguments import NEUTRAL, DataFormat, LayerOptions, images, who
from tinyconv.layers.base import Layer
from tinyconv.plan import ops

FillMode = Literal["constant", "nearest", "reflect", "wrap"]
Interpolation = Literal["bilinear", "nearest"]
FlipMode = Literal["horizontal", "vertical", "horizontal_and_vertical"]
Factor = float | Sequence[float]  # (from, to), or f: from -f to f
Range = tuple[float, float]


class Augmentation(Layer):
    """Base class of layers that warp images, (height, width, channels), in training."""

    def __init__(self, seed: int | None, data_format: DataFormat | None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"data_format": data_format}, NEUTRAL)
        self.seed = checking.seed(who(self), seed)

    def __call__(self, x: Any, training: bool = True, backend: str = "reference") -> Any:
        """The images warped; without ``training``, as they are. This layer, as in Keras, is in training where nothing
        else is said. Called on a tensor: the tensor that a model will compute."""
        return super().__call__(x, training, backend)

    def output_shape(self, input_shape: Shape) -> Shape:
        return images(self, input_shape)

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        """The kind of the maps, for the kernels, and the ranges of their two numbers."""
        raise NotImplementedError

    @property
    def _beyond(self) -> ops.Beyond | None:
        """What is seen beyond the edge and between pixels; None if nothing is."""
        return None

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        shape = self.output_shape(input_shape)
        kind, first, second = self._map(shape)
        number = self._number_of_draws(self.seed)
        return [ops.Warp(self.name, shape, shape, number, kind, (*first, *second), self._beyond)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed, "data_format": "channels_last"}


class RandomFlip(Augmentation):
    """Half of the images, at random, in a mirror.

    Args:
        mode: "horizontal" (left and right change sides), "vertical", or "horizontal_and_vertical": an image is then, as
            in Keras, mirrored both ways or not at all.
        seed: mixed into the model's seed.
    """

    def __init__(
        self,
        mode: FlipMode = "horizontal_and_vertical",
        seed: int | None = None,
        data_format: DataFormat | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(seed, data_format, **options)
        modes = ("horizontal", "vertical", "horizontal_and_vertical")
        self.mode = checking.choice(who(self), "mode", mode, modes)

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        across, down = float(self.mode != "vertical"), float(self.mode != "horizontal")
        return "flip", (across, across), (down, down)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}


class Resampling(Augmentation):
    """Base class of those after which a pixel may lie between two of before, or beyond the edge.

    Args:
        fill_mode: what an image is beyond its edge: "reflect" (dcba|abcd|dcba), "constant" (fill_value), "nearest"
            (aaaa|abcd|dddd) or "wrap" (abcd|abcd|abcd).
        interpolation: what it is between pixels: "bilinear", or "nearest", the nearest pixel.
        seed: mixed into the model's seed.
        fill_value: for fill_mode="constant".
    """

    def __init__(
        self,
        fill_mode: FillMode,
        interpolation: Interpolation,
        seed: int | None,
        fill_value: float,
        data_format: DataFormat | None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(seed, data_format, **options)
        self.fill_mode = checking.choice(who(self), "fill_mode", fill_mode, ("constant", "nearest", "reflect", "wrap"))
        self.interpolation = checking.choice(who(self), "interpolation", interpolation, ("bilinear", "nearest"))
        self.fill_value = checking.number(who(self), "fill_value", fill_value)

    @property
    def _beyond(self) -> ops.Beyond | None:
        return ops.Beyond(self.fill_mode, self.fill_value if self.fill_mode == "constant" else 0.0, self.interpolation)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("fill_mode", "interpolation", "fill_value")}
        return {**super().get_config(), **own}


class RandomTranslation(Resampling):
    """Images shifted at random. For the other arguments see :class:`Resampling`.

    Args:
        height_factor: how far down, as a share of the height: a pair (from, to) between -1 and 1, or f for (-f, f).
        width_factor: how far to the right, as a share of the width.
    """

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor,
        fill_mode: FillMode = "reflect",
        interpolation: Interpolation = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: DataFormat | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(fill_mode, interpolation, seed, fill_value, data_format, **options)
        self.height_factor = _factor(self, "height_factor", height_factor)
        self.width_factor = _factor(self, "width_factor", width_factor)

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        return "shift", _range(self.width_factor, shape[1]), _range(self.height_factor, shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "height_factor": self.height_factor, "width_factor": self.width_factor}


class RandomRotation(Resampling):
    """Images turned about their middle at random. For the other arguments see :class:`Resampling`.

    Args:
        factor: how far anticlockwise, as a share of a full turn: a pair (from, to) between -1 and 1, or f for (-f, f).
    """

    def __init__(
        self,
        factor: Factor,
        fill_mode: FillMode = "reflect",
        interpolation: Interpolation = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: DataFormat | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(fill_mode, interpolation, seed, fill_value, data_format, **options)
        self.factor = _range(_factor(self, "factor", factor))

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        return "rotate", _range(self.factor, 2 * math.pi), (0.0, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


class RandomZoom(Resampling):
    """Images zoomed about their middle at random. For the other arguments see :class:`Resampling`.

    Args:
        height_factor: by how much more of the height is seen: 0.2 zooms out by 20 %, -0.2 zooms in. A pair (from, to)
            of numbers above -1 and of at most 1, or f for (-f, f).
        width_factor: of the width; None: always as the height, so that shapes are kept.
    """

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor | None = None,
        fill_mode: FillMode = "reflect",
        interpolation: Interpolation = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: DataFormat | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(fill_mode, interpolation, seed, fill_value, data_format, **options)
        self.height_factor = _factor(self, "height_factor", height_factor, above=-1.0)
        self.width_factor = None if width_factor is None else _factor(self, "width_factor", width_factor, above=-1.0)

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        low, high = _range(self.height_factor)
        if self.width_factor is None:
            return "scale", (1 + low, 1 + high), (0.0, 0.0)
        left, right = _range(self.width_factor)
        return "zoom", (1 + left, 1 + right), (1 + low, 1 + high)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "height_factor": self.height_factor, "width_factor": self.width_factor}


class RandomShear(Resampling):
    """Images sheared at random, to one side or to the other. For the other arguments see :class:`Resampling`.

    Args:
        x_factor: by how many pixels a row moves against the one above it: a pair (from, to) between -1 and 1, or f for
            (-f, f). Half of the images get the negative of what is drawn.
        y_factor: by how many pixels a column moves against the one to its left.
    """

    def __init__(
        self,
        x_factor: Factor = 0.0,
        y_factor: Factor = 0.0,
        interpolation: Interpolation = "bilinear",
        fill_mode: FillMode = "reflect",
        fill_value: float = 0.0,
        data_format: DataFormat | None = None,
        seed: int | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(fill_mode, interpolation, seed, fill_value, data_format, **options)
        self.x_factor = _range(_factor(self, "x_factor", x_factor))
        self.y_factor = _range(_factor(self, "y_factor", y_factor))

    def _map(self, shape: Shape) -> tuple[str, Range, Range]:
        return "shear", self.x_factor, self.y_factor

    def get_config(self) -> dict[str, Any]:
        """Where a range is that of a number, the number: Keras reads no other range below 0."""
        ranges = {"x_factor": self.x_factor, "y_factor": self.y_factor}
        return {**super().get_config(), **{name: b if a == -b else (a, b) for name, (a, b) in ranges.items()}}


def _factor(layer: Augmentation, name: str, value: Any, above: float = -math.inf) -> Any:
    """A number from -1 (or ``above`` it) to 1, or a pair of them, checked."""
    limits: dict[str, float] = {"at_least": -1.0, "above": above, "at_most": 1.0}
    try:
        if not isinstance(value, list | tuple):
            return checking.number("", name, value, **limits)
        first, second = (checking.number("", name, each, **limits) for each in value)
    except ValueError:
        expected = f"a number {'above' if above == -1 else 'of at least'} -1 and of at most 1, or a pair of them"
        raise checking.invalid(who(layer), name, expected, value) from None
    return first, second


def _range(factor: Any, scale: float = 1.0) -> Range:
    """From where to where, of a number or a pair."""
    low, high = sorted(factor) if isinstance(factor, tuple) else (-abs(factor), abs(factor))
    return low * scale, high * scale
