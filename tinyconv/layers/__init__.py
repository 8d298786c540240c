"""Layers say *what*: configuration, argument checks, shapes, and which weights there are. No arithmetic.

A layer's docstring names the reference kernel in which its mathematics is written down. Names, arguments and defaults
are Keras'; an argument of Keras that tinyconv does not have is named in the error, never ignored.
"""

from typing import TYPE_CHECKING

from tinyconv.checking.absent import getter
from tinyconv.layers.activation import ELU, Activation, LeakyReLU, ReLU, Softmax
from tinyconv.layers.affine import Conv2D, Dense
from tinyconv.layers.augmentation import RandomFlip, RandomRotation, RandomShear, RandomTranslation, RandomZoom
from tinyconv.layers.base import Layer
from tinyconv.layers.convolutions import Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from tinyconv.layers.core import Dropout, Flatten, Input, InputLayer, Rescaling, Reshape
from tinyconv.layers.image import UpSampling2D, ZeroPadding2D
from tinyconv.layers.merge import (
    Add,
    Average,
    Concatenate,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    maximum,
    minimum,
    multiply,
    subtract,
)
from tinyconv.layers.normalization import BatchNormalization, LayerNormalization
from tinyconv.layers.pooling import (
    AveragePooling2D,
    AvgPool2D,
    GlobalAveragePooling2D,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GlobalMaxPooling2D,
    MaxPool2D,
    MaxPooling2D,
)
from tinyconv.layers.variables import WeightSpec

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "Average",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling2D",
    "Input",
    "InputLayer",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "Maximum",
    "Minimum",
    "Multiply",
    "RandomFlip",
    "RandomRotation",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "ReLU",
    "Rescaling",
    "Reshape",
    "SeparableConv2D",
    "Softmax",
    "Subtract",
    "UpSampling2D",
    "WeightSpec",
    "ZeroPadding2D",
    "add",
    "average",
    "concatenate",
    "maximum",
    "minimum",
    "multiply",
    "subtract",
]

if not TYPE_CHECKING:
    __getattr__ = getter("layers", __all__)
