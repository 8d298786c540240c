"""The values weights start from.

An initialiser is called with a shape and a random generator and returns a float64 array. All have Keras' names,
arguments and defaults. For the random ones the *fans* count: fan_in is how many inputs one output adds up, fan_out
how many outputs one input reaches. For filters (KH, KW, C, F) these are KH * KW * C and KH * KW * F.
"""

import math
from typing import Any

import numpy as np

from tinyconv.arena import Shape
from tinyconv.checking import affordable, numbers
from tinyconv.messages import suggest

TRUNCATED_STD = 0.87962566103423978  # the standard deviation of a normal distribution cut off at two of its own


def fans(shape: Shape) -> tuple[int, int]:
    """fan_in and fan_out of weights of that shape: (..., in, out)."""
    if len(shape) < 2:
        return (math.prod(shape),) * 2
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


class Initializer:
    """Base class. ``seed``: None draws from the model's generator; an integer makes this initialiser repeat itself."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return self.draw(shape, rng if self.seed is None else np.random.default_rng(self.seed))

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not say how to draw values: override draw(shape, rng).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an initialiser like this one."""
        return dict(vars(self))


class Constant(Initializer):
    """One value everywhere."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value, np.float64)


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
        self.minval, self.maxval = minval, maxval

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.minval, self.maxval, shape)


class RandomNormal(Initializer):
    """Normal with that mean and standard deviation."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

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
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        modes, distributions = ("fan_in", "fan_out", "fan_avg"), ("uniform", "truncated_normal", "untruncated_normal")
        if scale <= 0:
            raise ValueError(f"Invalid scale. Expected a positive number. Received: {scale!r}.")
        if mode not in modes:
            raise ValueError(f"Unknown mode: {mode!r}. {suggest(mode, modes)}")
        if distribution not in distributions:
            raise ValueError(f"Unknown distribution: {distribution!r}. {suggest(distribution, distributions)}")
        self.scale, self.mode, self.distribution = scale, mode, distribution

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

    settings: tuple[float, str, str]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self.settings, seed=seed)

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
}


def get(identifier: "str | Initializer") -> Initializer:
    """The initialiser of that name, or the given one."""
    if isinstance(identifier, Initializer):
        return identifier
    if identifier in NAMES:
        return NAMES[identifier]()
    raise ValueError(f"Unknown initializer: {identifier!r}. {suggest(identifier, NAMES)}")
