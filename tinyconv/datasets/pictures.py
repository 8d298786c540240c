"""Photographs and drawings of digits as a network that learned MNIST expects them.

MNIST's digits were made by one recipe: bright ink on black, scaled to fit a square of 20 x 20 pixels without being
distorted, and placed in 28 x 28 so that their centre of mass is in the middle. A network that has only ever seen such
images reads others only after the same treatment.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998), section
III.A; http://yann.lecun.com/exdb/mnist.
"""

import contextlib
import itertools
import math
import os
import stat
import warnings
from typing import Any

import numpy as np

from tinyconv.checking.extras import need
from tinyconv.checking.messages import warn

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
EXPECTED = "Expected a PNG, JPEG, WebP, BMP, GIF or TIFF file"
MOST_PIXELS = 10_000_000  # to decode, four bytes each and some copies; a larger JPEG is decoded at a half to an eighth
LARGEST_JPEG = 100_000_000  # pixels
FAINT = 0.1  # of the brightest ink: what is fainter is paper
BLANK, PALE = 0.02, 0.2  # the most ink that is none, or little
BOX = 20 / 28  # of the image, for the digit
ORIENTATION = 0x0112  # the tag in a photograph's notes
BILINEAR = 2  # Pillow's number: the mean over all pixels when it shrinks


def read(path: str | os.PathLike, shape: tuple[int, ...]) -> np.ndarray:
    """The picture in a file as float32 of ``shape``, from 0 to 1: what a model of such samples takes.

    ``shape`` is (height, width), (height, width, 1) or, flat, (height * width,) of a square: the picture is taken for
    a digit, which is centred and scaled as MNIST's. Or it is (height, width, 3): the picture is resized.

    PNG, JPEG, WebP, BMP, GIF (its first frame) and TIFF, in any mode, of at most 10 megapixels; JPEG photographs of at
    most 100. A picture that is blank, pale or seems to hold several digits is read with a warning.
    """
    height, width, channels = _layout(shape)
    image = _open(path)
    name = repr(os.fspath(path))
    if channels == 3:
        image = _on_paper(image)
        found = np.asarray(image.resize((width, height), BILINEAR), np.float32) / 255
        if float(np.ptp(np.asarray(image, np.float32), axis=(0, 1)).max()) / 255 <= BLANK:
            warn(f"{name} is blank: all of it has one colour.")
        return found
    amount = ink(image)
    _warn_of_doubtful(amount, name)
    return centred(amount, (height, width)).reshape(shape)


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of the samples of a model."""
    if len(shape) == 3 and shape[-1] in (1, 3):
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) == 1 and shape[0] > 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
        return math.isqrt(shape[0]), math.isqrt(shape[0]), 1
    raise ValueError(
        f"Cannot show images to a model of samples of shape {shape}. Expected (height, width, 1 or 3), (height, "
        "width), or the number of pixels of a square."
    )


# Decoding


def _open(path: str | os.PathLike) -> Any:
    """The decoded picture as RGBA of 8 bits, the right way up."""
    image_module, ops, errors = (
        need("Reading images needs", module) for module in ("PIL.Image", "PIL.ImageOps", "PIL")
    )
    name = repr(os.fspath(path))
    if stat.S_ISDIR((status := os.stat(path)).st_mode):
        raise IsADirectoryError(f"{name} is a folder. {EXPECTED}.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is a device or a pipe. {EXPECTED}.")
    if not status.st_size:
        raise ValueError(f"{name} is empty. {EXPECTED}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: its own limit is above ours
            with image_module.open(path, formats=FORMATS) as file:
                _check_size(file, name)
                deep = file.format == "PNG" and any("16" in str(tile[3]) for tile in file.tile)
                file.load()
                image = _eight_bits(file, deep, image_module)
                with contextlib.suppress(Exception):  # damaged notes about the picture, not a damaged picture
                    image.getexif()[ORIENTATION] = file.getexif().get(ORIENTATION, 1)
                    image = ops.exif_transpose(image)  # as the camera was held
                return image
    except errors.UnidentifiedImageError:
        raise ValueError(f"{name} is not an image. {EXPECTED}.") from None
    except image_module.DecompressionBombError:
        raise ValueError(f"{name} has too many pixels. Expected at most {MOST_PIXELS:,}.") from None
    except (FileNotFoundError, PermissionError, _TooLarge):
        raise
    except Exception as error:  # decoders raise whatever comes to them
        raise ValueError(f"{name} is damaged: {error}") from None


class _TooLarge(ValueError):
    """A picture whose header says more pixels than are decoded here."""


def _check_size(file: Any, name: str) -> None:
    """Refuse too many pixels before any is decoded; of a large JPEG, only a half, a quarter or an eighth is decoded."""
    most = MOST_PIXELS
    received = f"{file.width:,} x {file.height:,}"
    if file.format == "JPEG" and most < file.width * file.height <= LARGEST_JPEG:
        scale = math.sqrt(most / (file.width * file.height))
        for part in (2, 4, 8):
            if 1 / part <= scale:
                file.draft(None, (file.width // part, file.height // part))
                break
    if file.width * file.height > most:
        raise _TooLarge(f"{name} has too many pixels. Expected at most {most:,}. Received: {received}.")


def _eight_bits(file: Any, deep: bool, image_module: Any) -> Any:
    """A decoded picture of any mode as RGBA; ``deep``: its file has 16 bits for each colour."""
    if file.mode.startswith(("I", "F")):
        grey, opaque = _grey_of_numbers(file)
        return image_module.fromarray(np.stack([grey, grey, grey, opaque], axis=-1), "RGBA")
    clear = file.info.get("transparency")
    if deep and isinstance(clear, tuple):
        file.info["transparency"] = tuple(value >> 8 for value in clear)
    if file.mode == "La":
        file = file.convert("LA")
    if file.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        file = file.convert("RGB")
    image = file.convert("RGBA")
    image.info = {}
    return image


def _grey_of_numbers(file: Any) -> tuple[np.ndarray, np.ndarray]:
    """Grey and opacity from 0 to 255 of a picture of 16-bit or 32-bit integers, or of floats."""
    values = np.nan_to_num(np.asarray(file).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    most = values.max(initial=0)
    if file.mode.startswith("I;16"):
        top = 65535.0
    else:  # nothing says which number is white: the first usual one that none is above
        usual = (1.0,) if file.mode == "F" else ()
        top = next((white for white in (*usual, 255.0, 65535.0) if most <= white), float(most))
    grey = np.clip(np.floor(values * (255 / top) + 0.5), 0, 255).astype(np.uint8)
    clear = file.info.get("transparency")
    opaque = np.full(grey.shape, 255, np.uint8)
    if isinstance(clear, int):
        opaque[values == clear] = 0
    return grey, opaque


def _on_paper(image: Any) -> Any:
    """RGBA as RGB on white; on black, where white would hide it."""
    module = need("Reading images needs", "PIL.Image")
    pixels = np.asarray(image, np.float32) / 255
    seen = pixels[..., 3] > 0.5
    ground = "white"
    if not seen.all() and seen.any() and pixels[seen][:, :3].min() > 1 - PALE:
        ground = "black"
    return module.alpha_composite(module.new("RGBA", image.size, ground), image).convert("RGB")


# Ink and paper


def ink(image: Any) -> np.ndarray:
    """How much ink each pixel has, from 0 to 1, whatever colours ink and paper have.

    Paper is what surrounds the digit. Ink is what differs from it, brighter or darker, whichever there is more of; on
    a transparent ground it is what is opaque.
    """
    pixels = np.asarray(image.convert("RGBA"), np.float32) / 255
    colours, opacity = pixels[..., :3], pixels[..., 3]
    if np.median(_border(opacity)) < 0.5:
        seen = opacity > 0.5
        if not _is_sheet(colours, seen):
            return opacity
        rows, columns = _extent(seen)  # paper that was cut out
        colours, opacity = colours[rows, columns], opacity[rows, columns]
    seen = opacity > 0.5
    paper = np.median(_border(colours)[_border(seen)], axis=0) if _border(seen).any() else np.ones(3, np.float32)
    if seen.any() and not seen.all() and _contrast(colours[seen]) <= PALE:
        return 1 - opacity  # a digit that was cut out of the paper
    difference = (colours - paper) * opacity[..., None]
    grey = difference @ np.array([0.299, 0.587, 0.114], np.float32)
    colourful = np.abs(difference).max(axis=-1)
    if np.abs(grey).max(initial=0) < 0.5 * colourful.max(initial=0):
        return colourful  # ink and paper of one brightness
    brighter, darker = np.clip(grey, 0, 1), np.clip(-grey, 0, 1)
    return brighter if (brighter**2).sum() >= (darker**2).sum() else darker


def _border(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])


def _contrast(colours: np.ndarray) -> float:
    """How far apart the darkest and the brightest of these pixels are, but for a few."""
    low, high = np.percentile(colours, [1, 99], axis=0)
    return float((high - low).max())


def _is_sheet(colours: np.ndarray, seen: np.ndarray) -> bool:
    """Whether what is opaque is a sheet of paper with ink on it, rather than the ink itself."""
    if not seen.any():
        return False
    return bool(seen[_extent(seen)].mean() > 0.8) and _contrast(colours[seen]) > PALE


def _extent(marked: np.ndarray) -> tuple[slice, slice]:
    """The rows and the columns from the first to the last that is marked."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def centred(digit: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a digit to fit MNIST's box, and move its centre of mass to the middle of an image of that size."""
    module = need("Reading images needs", "PIL.Image")
    if digit.max(initial=0) <= BLANK:
        return np.zeros(size, np.float32)
    digit = digit[_extent(digit > FAINT * digit.max())]
    scale = min(round(BOX * size[0]) / digit.shape[0], round(BOX * size[1]) / digit.shape[1])
    height, width = (max(1, round(scale * length)) for length in digit.shape)
    if (height, width) != digit.shape:
        digit = np.asarray(module.fromarray(digit).resize((width, height), BILINEAR))
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


# Doubts


def _warn_of_doubtful(amount: np.ndarray, name: str) -> None:
    """Warn of a picture of which any answer would be a guess."""
    most = float(amount.max(initial=0))
    if most <= BLANK:
        warn(f"{name} is blank: nothing in it differs from its border. Whatever the network says of it means nothing.")
    elif most < PALE:
        warn(f"{name} has little contrast: {most:.0%} between ink and paper. The answer may be a guess.")
    elif (count := _digits(amount)) > 1:
        warn(f"{name} seems to hold {count} digits. Expected one: the network takes them for a single one.")


def _digits(amount: np.ndarray) -> int:
    """How many digits there seem to be: parts of ink that do not touch, beside or above one another, of a size."""
    marked = amount[_extent(amount > FAINT * amount.max())] > 0.4 * amount.max()
    step = max(1, -(-max(marked.shape) // 96))
    rows, columns = (-(-length // step) for length in marked.shape)
    padded = np.zeros((rows * step, columns * step), bool)
    padded[: marked.shape[0], : marked.shape[1]] = marked
    small: Any = padded.reshape(rows, step, columns, step).any(axis=(1, 3))
    parts = [part for part in _parts(small) if part.sum() >= 0.15 * small.sum()]
    boxes = [_extent(part) for part in parts]
    tall = [box for box in boxes if box[0].stop - box[0].start >= 0.5 * rows]
    if len(tall) > 1 and _apart([box[1] for box in tall]):
        return len(tall)
    upright = [box for box in boxes if box[0].stop - box[0].start >= 0.3 * rows]
    if len(upright) > 1 and rows > 1.6 * columns and _apart([box[0] for box in upright]):
        return len(upright)
    return 1


def _apart(ranges: list[slice]) -> bool:
    """Whether the ranges overlap by less than half of the shorter one."""
    ranges = sorted(ranges, key=lambda part: part.start)
    return all(
        one.stop - other.start < 0.5 * min(one.stop - one.start, other.stop - other.start)
        for one, other in itertools.pairwise(ranges)
    )


def _parts(marked: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask, neighbours at the corners included."""
    left, parts = marked.copy(), []
    while left.any():
        part = np.zeros_like(left)
        part[np.unravel_index(int(left.argmax()), left.shape)] = True
        size = 0
        while size != (size := int(part.sum())):
            grown = np.pad(part, 1)
            height, width = part.shape
            part = left & np.any([grown[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
        parts.append(part)
        left &= ~part
    return parts
