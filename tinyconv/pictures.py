"""Photographs and drawings of digits as a network that learned MNIST expects them.

MNIST's digits were made by one recipe: bright ink on black, scaled to fit a square of 20 x 20 pixels without being
distorted, and placed in 28 x 28 so that their centre of mass is in the middle. A network that has only ever seen such
images reads others only after the same treatment.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998), section
III.A; http://yann.lecun.com/exdb/mnist.
"""

import os
import warnings
from typing import Any

import numpy as np

FORMATS = ("PNG", "JPEG")
FAINT = 0.1  # of the brightest ink: what is fainter is paper
BOX = 20 / 28  # of the image, for the digit


def read(path: str | os.PathLike, shape: tuple[int, ...]) -> np.ndarray:
    """The image in a PNG or JPEG file as float32 of ``shape`` (height, width, channels), from 0 to 1.

    For one channel it is a digit, centred and scaled as MNIST's; for three, a picture, resized.
    """
    image = _open(path)
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(
            f"Cannot show images to a model of samples of shape {shape}. Expected (height, width, 1 or 3)."
        )
    height, width, channels = shape
    if channels == 3:
        resized = image.convert("RGB").resize((width, height), 2)  # 2: bilinear, as when a data set is resized
        return np.asarray(resized, np.float32) / 255
    return centred(ink(image), (height, width))[..., None]


def _open(path: str | os.PathLike) -> Any:
    """The decoded image, with what is transparent made white."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("Reading images needs Pillow: pip install 'tinyconv[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                image = ImageOps.exif_transpose(file).convert("RGBA")  # as the camera was held
    except UnidentifiedImageError:
        raise ValueError(f"{os.fspath(path)!r} is not an image. Expected a PNG or JPEG file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"{os.fspath(path)!r} has too many pixels. Expected at most {Image.MAX_IMAGE_PIXELS:,}."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error}") from None
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def ink(image: Any) -> np.ndarray:
    """How much ink each pixel has, from 0 to 1, whether the digit is dark on bright paper or bright on dark."""
    grey = np.asarray(image.convert("L"), np.float32) / 255
    paper = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))  # what surrounds the digit
    if paper > 0.5:
        grey, paper = 1 - grey, 1 - paper
    return np.clip(grey - paper, 0, 1)


def centred(digit: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a digit to fit MNIST's box, and move its centre of mass to the middle of an image of that size."""
    from PIL import Image

    marked = digit > FAINT * digit.max()
    if not marked.any():
        return np.zeros(size, np.float32)
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(round(BOX * size[0]) / digit.shape[0], round(BOX * size[1]) / digit.shape[1])
    height, width = (max(1, round(scale * length)) for length in digit.shape)
    if (height, width) != digit.shape:
        digit = np.asarray(Image.fromarray(digit).resize((width, height), 2))  # 2: bilinear, over all pixels it shrinks
    digit = digit / max(digit.max(), 1e-6)
    mass = digit.sum()
    centre = [float((digit.sum(axis=1 - axis) * np.arange(digit.shape[axis])).sum() / mass) for axis in (0, 1)]
    out = np.zeros(size, np.float32)
    top, left = (
        min(max(round(whole / 2 - 0.5 - middle), 0), whole - length)
        for whole, middle, length in zip(size, centre, digit.shape, strict=True)
    )
    out[top : top + height, left : left + width] = digit
    return out
