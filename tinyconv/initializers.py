"""The values weights start from.

An initialiser is called with a shape and a random generator and returns a float64 array. All have Keras' names,
arguments and defaults. For the random ones the *fans* count: fan_in is how many inputs one output adds up, fan_out
how many outputs one input reaches. For filters (KH, KW, C, F) these are KH * KW * C and KH * KW * F.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tinyconv import checking
from tinyconv.checking import affordable, choice, finite_array, invalid, number, numbers
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up
from tinyconv.checking.messages import refuse

NEUTRAL: dict[str, tuple[Any, ...]] = {"input_axes": (None,), "output_axes": (None,)}
TRUNCATED_STD = 0.87962566103423978  # the standard deviation of a normal distribution cut off at two of its own


def fans(shape: Shape) -> tuple[int, int]:
    """fan_in and fan_out of weights of that shape: (..., in, out)."""
    if len(shape) < 2:
        return (math.prod(shape),) * 2
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


class Initializer(Configured):
    """Base class. ``seed``: None draws from the model's generator; an integer makes this initialiser repeat itself."""

    keras_module = "keras.initializers"

    def __init__(self, seed: int | None = None) -> None:
        self.seed = checking.seed(type(self).__name__, seed)

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return self.draw(shape, rng if self.seed is None else np.random.default_rng(self.seed))

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not say how to draw values: override draw(shape, rng).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an initialiser like this one."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class Constant(Initializer):
    """One value everywhere; or, as in Keras, an array of values that is repeated over the weights' first axes."""

    def __init__(self, value: float | Sequence[Any] | np.ndarray = 0.0) -> None:
        given = finite_array(type(self).__name__, "value", value)
        self.value: float | list[Any] = given.tolist()

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        try:
            return np.broadcast_to(np.asarray(self.value, np.float64), shape).copy()
        except ValueError:
            raise ValueError(
                f"The value of {type(self).__name__} does not fit weights of shape {shape}. Expected a number, or an "
                f"array that can be repeated to that shape. Received: shape {np.shape(self.value)}."
            ) from None


class Zeros(Constant):
    """0 everywhere."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def get_config(self) -> dict[str, Any]:
        return {}


class Ones(Constant):
    """1 everywhere."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def get_config(self) -> dict[str, Any]:
        return {}


class RandomUniform(Initializer):
    """Uniform between ``minval`` and ``maxval``."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        who = type(self).__name__
        self.minval, self.maxval = number(who, "minval", minval), number(who, "maxval", maxval)
        if self.minval > self.maxval:
            raise invalid(who, "minval", f"a number of at most maxval, {self.maxval:g}", minval)

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.minval, self.maxval, shape)


class RandomNormal(Initializer):
    """Normal with that mean and standard deviation."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        who = type(self).__name__
        self.mean, self.stddev = number(who, "mean", mean), number(who, "stddev", stddev, at_least=0.0)

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """Normal, but values more than two standard deviations from the mean are drawn again."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        values = rng.standard_normal(shape)
        while (far := np.abs(values) > 2).any():
            values[far] = rng.standard_normal(int(far.sum()))
        return self.mean + self.stddev * values


class VarianceScaling(Initializer):
    r"""Random values whose variance is ``scale`` / n, so that signals keep their size from layer to layer.

    ``mode`` says what n is: "fan_in", "fan_out", or their mean, "fan_avg". ``distribution`` is "uniform",
    "truncated_normal" or "untruncated_normal". A uniform distribution from -a to a has the variance a^2 / 3.

    Source: Glorot and Bengio (2010) for fan_avg, He et al. (2015) for fan_in.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in",
        distribution: Literal["truncated_normal", "untruncated_normal", "uniform", "normal"] = "truncated_normal",
        seed: int | None = None,
        input_axes: None = None,
        output_axes: None = None,
    ) -> None:
        super().__init__(seed)
        who = type(self).__name__
        refuse(who, {"input_axes": input_axes, "output_axes": output_axes}, NEUTRAL)
        self.scale = number(who, "scale", scale, above=0.0)
        self.mode = choice(who, "mode", mode, ("fan_in", "fan_out", "fan_avg"))
        names = ("uniform", "truncated_normal", "untruncated_normal", "normal")
        named = choice(who, "distribution", distribution, names)
        self.distribution = "truncated_normal" if named == "normal" else named  # as in Keras

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(1, n))
        if self.distribution == "uniform":
            return rng.uniform(-math.sqrt(3) * std, math.sqrt(3) * std, shape)
        if self.distribution == "truncated_normal":
            return TruncatedNormal(0.0, std / TRUNCATED_STD).draw(shape, rng)
        return rng.normal(0.0, std, shape)


class _NamedScaling(VarianceScaling):
    """A variance scaling that is known under its authors' names."""

    settings: tuple[float, Any, Any]

    def __init__(self, seed: int | None = None, input_axes: None = None, output_axes: None = None) -> None:
        super().__init__(*self.settings, seed, input_axes, output_axes)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


class GlorotUniform(_NamedScaling):
    """Uniform with variance 2 / (fan_in + fan_out); the default of every layer (Glorot and Bengio, 2010)."""

    settings = (1.0, "fan_avg", "uniform")


class GlorotNormal(_NamedScaling):
    """Truncated normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""

    settings = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_NamedScaling):
    """Uniform with variance 2 / fan_in, for ReLU (He et al., 2015)."""

    settings = (2.0, "fan_in", "uniform")


class HeNormal(_NamedScaling):
    """Truncated normal with variance 2 / fan_in, for ReLU (He et al., 2015)."""

    settings = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_NamedScaling):
    """Uniform with variance 1 / fan_in (LeCun et al., 1998)."""

    settings = (1.0, "fan_in", "uniform")


class LecunNormal(_NamedScaling):
    """Truncated normal with variance 1 / fan_in (LeCun et al., 1998)."""

    settings = (1.0, "fan_in", "truncated_normal")


class Orthogonal(Initializer):
    """Orthonormal columns times ``gain`` (rows, where there are more columns), so that signals keep their length.

    The weights are seen as a matrix, whose rows are all axes but the last. The Q of a random normal matrix's QR
    decomposition, with a positive diagonal of R, is uniform among such matrices.

    Source: Saxe et al. (2014), Mezzadri (2007).
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        self.gain = number(type(self).__name__, "gain", gain)

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal needs weights of at least two axes. Expected (..., in, out). Received: {shape}."
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


def drawn(where: str, initializer: Initializer, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """The values of an initialiser for weights of that shape, checked, as float32. ``where``: "'dense/kernel'"."""
    affordable(where, "array of weights", shape)
    who = f"{type(initializer).__name__} for {where}"
    values = numbers(f"The values of {who}", initializer(shape, rng))
    if values.shape != shape:
        raise ValueError(f"{who} gave values of the wrong shape. Expected {shape}. Received: {values.shape}.")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{who} gave a NaN or an infinity. Expected finite float32 numbers.")
    return values


# Keras' other names for the same classes
zeros, ones, constant = Zeros, Ones, Constant
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
glorot_uniform, glorot_normal, variance_scaling = GlorotUniform, GlorotNormal, VarianceScaling
he_uniform, he_normal, lecun_uniform, lecun_normal = HeUniform, HeNormal, LecunUniform, LecunNormal
orthogonal = OrthogonalInitializer = Orthogonal

NAMES: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "random_uniform": RandomUniform,
    "random_normal": RandomNormal,
    "truncated_normal": TruncatedNormal,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "orthogonal": Orthogonal,
    "OrthogonalInitializer": Orthogonal,
    "zero": Zeros,
    "one": Ones,
    "uniform": RandomUniform,
    "normal": RandomNormal,
}
InitializerName = Literal[
    "zeros",
    "Zeros",
    "ones",
    "Ones",
    "constant",
    "Constant",
    "random_uniform",
    "RandomUniform",
    "random_normal",
    "RandomNormal",
    "truncated_normal",
    "TruncatedNormal",
    "variance_scaling",
    "VarianceScaling",
    "glorot_uniform",
    "GlorotUniform",
    "glorot_normal",
    "GlorotNormal",
    "he_uniform",
    "HeUniform",
    "he_normal",
    "HeNormal",
    "lecun_uniform",
    "LecunUniform",
    "lecun_normal",
    "LecunNormal",
    "orthogonal",
    "Orthogonal",
    "OrthogonalInitializer",
    "zero",
    "one",
    "uniform",
    "normal",
]
InitializerLike = InitializerName | Initializer | type[Initializer] | dict[str, Any]


def get(identifier: InitializerLike | str) -> Initializer:
    """The initialiser of that name or class, or the given one."""
    return look_up("initializer", identifier, Initializer, NAMES)


__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "OrthogonalInitializer",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "zeros",
]
