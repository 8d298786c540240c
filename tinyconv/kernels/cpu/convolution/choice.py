"""Which algorithm computes which part of a convolution, and why.

Shapes decide, but never the batch: a sample must have the same bits in every batch.
"""

from types import ModuleType
from typing import NamedTuple

from tinyconv.kernels.cpu.convolution import (
    col2im,
    direct,
    filter_gradient,
    pooled_direct,
    pooled_patches,
    pooled_unpooling,
    pooled_winners,
    winograd,
    winograd_gradient,
    winograd_pooled,
)
from tinyconv.kernels.cpu.convolution.geometry import Convolution
from tinyconv.kernels.cpu.convolution.pooled_winners import has_whole_rows
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import tile_shape


class Choice(NamedTuple):
    """The file with the algorithm of each part, whose functions ``forward``, ``dx`` and ``dw`` plan it;
    ``prepare`` packs the filters for the forward pass, ``prepare_dx`` for dx."""

    forward: ModuleType
    dx: ModuleType
    dw: ModuleType


def choose(layer: Convolution, pooled: bool = False) -> Choice:
    """The algorithms of a convolution, or of the step conv -> ReLU -> max-pool: for each part the first that fits."""
    fits, pays, always = fits_winograd(layer), winograd_pays(layer), True
    # fmt: off
    plain_table = (
        # part      algorithm           where                      because
        ("forward", winograd,           pays,                      "4 multiplications for each output, not 9"),
        ("forward", direct,             always,                    "any filter, stride, padding and dilation"),
        ("dx",      winograd,           pays,                      "dx is a convolution too, of dout"),
        ("dx",      col2im,             has_few_channels(layer),   "channels alone would leave most lanes empty"),
        ("dx",      direct,             always,                    "a convolution of dout, tap by tap"),
        ("dw",      winograd_gradient,  pays,                      "16 multiplications for each tile, not 36"),
        ("dw",      filter_gradient,    always,                    "x times dout, summed over pixels"),
    )
    pooled_table = (
        ("forward", winograd_pooled,    fits,                      "its tiles are the pooling windows"),
        ("forward", pooled_direct,      always,                    "four rows of the register tile are a window"),
        ("dx",      pooled_winners,     always,                    "only winners have a gradient: a tenth to a third"),
        ("dw",      pooled_winners,     has_whole_rows(layer),     "the same, where a filter's row is whole vectors"),
        ("dw",      pooled_patches,     is_a_patch(layer),         "all that a window sees is one register"),
        ("dw",      pooled_unpooling,   always,                    "any shape: summed like any other, with zeros"),
    )
    # fmt: on
    first: dict[str, ModuleType] = {}
    for part, algorithm, fitting, _ in pooled_table if pooled else plain_table:
        if fitting:
            first.setdefault(part, algorithm)
    return Choice(**first)


def fits_winograd(layer):
    """Whether the method is for such filters: 3 x 3, and whole vectors of channels and of filters."""
    three = layer.KH == layer.KW == 3 and layer.strides == layer.dilation == (1, 1)
    return three and layer.C % LANES == 0 and layer.F % LANES == 0


def winograd_pays(layer):
    """Whether a convolution, its dx and its dw should go by Winograd's method: where measured, each is then 1.1 to 2
    times faster.

    With fewer channels or filters the transforms cost what the products save, and with 2 x 2 outputs or fewer most of a
    tile would be border. For a single image of 4 x 4 it is a loss; but the batch has no say.
    """
    C, F = layer.C, layer.F
    return fits_winograd(layer) and min(C, F) >= 16 and min(layer.OH, layer.OW) > 2


def has_few_channels(layer):
    """Whether the channels fill far fewer lanes than all numbers of a window do."""
    return _filled(layer.C) < 0.6 * _filled(layer.KH * layer.KW * layer.C)


def _filled(numbers):
    """The share of lanes that so many numbers use."""
    columns = tile_shape(numbers)[1] * LANES
    return numbers / (-(-numbers // columns) * columns)


def is_a_patch(layer):
    """Whether what a pooling window sees, 4 x 4 pixels, is one vector."""
    return LANES == 16 and (layer.KH, layer.KW, layer.C) == (3, 3, 1) and layer.F % LANES == 0
