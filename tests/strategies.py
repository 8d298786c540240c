"""What the tests draw with hypothesis: shapes, strides, paddings, and the arrays that go with them.

Every test says how many examples it wants. With ``--long``, as in ``.ci/run``, they are two fifths of that, without it
a fifth, with ``--slow`` sixteen times as many. Examples are derandomised: the same ones on every run, so that a failure
seen once is seen again.
"""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinyconv.kernels.reference.activation import FORMULAS

# How much of what a test wants to draw a run draws, in per cent: the hypothesis profiles that conftest.py registers.
DRAWN = {"quick": 20, "long": 40, "slow": 1600}

seeds = st.integers(0, 2**32 - 1)


def scaled(count):
    """How many repetitions this run wants of a test that is repeated ``count`` times with ``--long``."""
    percent = settings.default.max_examples
    return max(1, count * (100 if percent == DRAWN["long"] else percent) // 100)


def few(values, count=1):
    """The values of a test's parameter, or tuples for several: the first ``count``, and with ``--long`` the others."""
    values = list(values)
    marked = (value if type(value) is tuple else (value,) for value in values[count:])
    return [*values[:count], *(pytest.param(*value, marks=pytest.mark.long) for value in marked)]


def examples(count, promised=False):
    """Settings for a test that draws ``count`` examples, or fewer of them with ``--long`` unless they are promised."""
    drawn = scaled(count) if promised else max(1, count * settings.default.max_examples // 100)
    return settings(
        max_examples=drawn,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


class Window(NamedTuple):
    """A sliding window and the image it slides over: everything a convolution or a pooling is called with."""

    batch: int
    size: tuple[int, int]
    channels: int
    filters: int
    window: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    mode: str  # "valid" or "same"

    @property
    def before(self):
        """The rows and columns of zeros before the image, as Keras pads."""
        return tuple(self._geometry(axis)[1] for axis in (0, 1))

    @property
    def out_size(self):
        """The height and width of the output."""
        return tuple(self._geometry(axis)[0] for axis in (0, 1))

    @property
    def x_shape(self):
        return (self.batch, *self.size, self.channels)

    @property
    def w_shape(self):
        return (*self.window, self.channels, self.filters)

    @property
    def out_shape(self):
        """The shape of a convolution's output; a pooling's has ``channels`` in place of ``filters``."""
        return (self.batch, *self.out_size, self.filters)

    @property
    def pooled_shape(self):
        return (self.batch, *self.out_size, self.channels)

    def _geometry(self, axis):
        size, stride = self.size[axis], self.strides[axis]
        reach = (self.window[axis] - 1) * self.dilation[axis] + 1
        if self.mode == "valid":
            return (size - reach) // stride + 1, 0
        out = -(-size // stride)
        return out, max((out - 1) * stride + reach - size, 0) // 2


def pairs(low, high):
    """Two integers, vertical and horizontal; as often equal as not."""
    number = st.integers(low, high)
    return st.one_of(number.map(lambda n: (n, n)), st.tuples(number, number))


@st.composite
def windows(draw, max_size=9, max_channels=4, max_window=4, max_batch=3, keras=False):
    """A window that fits its image. ``keras``: not strides and dilation both, which Keras refuses."""
    window = draw(pairs(1, max_window))
    strides = draw(pairs(1, 3))
    dilation = draw(st.one_of(st.just((1, 1)), pairs(1, 3)))
    if keras and max(strides) > 1:
        dilation = (1, 1)
    mode = draw(st.sampled_from(["valid", "same"]))
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    low = reach if mode == "valid" else [1, 1]
    size = tuple(draw(st.integers(least, max(least, max_size))) for least in low)
    return Window(
        draw(st.integers(1, max_batch)),
        size,
        draw(st.integers(1, max_channels)),
        draw(st.integers(1, max_channels + 1)),
        window,
        strides,
        dilation,
        mode,
    )


@st.composite
def pools(draw, max_size=9, max_channels=4, max_batch=3):
    """A pooling window: as :func:`windows`, without dilation."""
    return draw(windows(max_size, max_channels, 4, max_batch))._replace(dilation=(1, 1))


@st.composite
def fused_pools(draw, max_size=9, max_channels=4):
    """A convolution of stride 1 whose output is at least 2 x 2, so that a 2 x 2 pooling can follow it."""
    drawn = draw(windows(max_size, max_channels, 3, 2))
    drawn = drawn._replace(strides=(1, 1), dilation=(1, 1))
    least = [k + 1 if drawn.mode == "valid" else 2 for k in drawn.window]
    return drawn._replace(size=tuple(max(n, low) for n, low in zip(drawn.size, least, strict=True)))


def activations():
    """Every formula of an activation, as (its name, options that it may have)."""
    options = {"leaky_relu": [(0.3,)], "elu": [(1.7,)]}
    options["bounded_relu"] = [(0.3, 1.5, 0.5), (0.0, 2.0, 0.0), (0.5, 6.0, 0.0)]
    return [(kind, chosen) for kind in FORMULAS for chosen in options.get(kind, [()])]


def normal(rng, *shape, dtype=np.float64):
    """Standard normal numbers."""
    return rng.standard_normal(shape).astype(dtype)


def distinct(rng, *shape, dtype=np.float64):
    """Numbers that are all at least 0.1 apart and 0.05 from zero, in random order: no kink and no tie is near."""
    count = int(np.prod(shape))
    return ((rng.permutation(count) - count // 2 + 0.5) / 10).reshape(shape).astype(dtype)


def one_hot(rng, rows, columns, dtype=np.float64):
    """A random class for each row."""
    return np.eye(columns, dtype=dtype)[rng.integers(0, columns, rows)]
