"""Images as Pillow has them, as arrays, and as files, with Keras' names."""

import io
import os
import pathlib
from typing import Any

import numpy as np

from tinyconv.checking import boolean, choice, invalid, numbers, several
from tinyconv.checking.arguments import integer, unknown
from tinyconv.checking.extras import need
from tinyconv.checking.messages import explained, received, refuse, warn

MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}
FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3, "hamming": 5, "box": 4, "lanczos": 1}  # Pillow's numbers
CHANNELS_LAST = {"data_format": (None, "channels_last")}


def pillow() -> Any:
    return need("Images need", "PIL.Image")


@explained
def load_img(
    path: Any,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
) -> Any:
    """The image in a file, as an object of Pillow's.

    Args:
        path: the file, or an io.BytesIO that holds it.
        color_mode: "rgb", "rgba" or "grayscale" (which stays as it is with 16 or 32 bits).
        target_size: (height, width) to resize it to; None: as it is.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        keep_aspect_ratio: whether to cut off what would be distorted, on both sides alike.
    """
    choice("load_img", "color_mode", color_mode, MODES)
    choice("load_img", "interpolation", interpolation, FILTERS)
    keep = boolean("load_img", "keep_aspect_ratio", keep_aspect_ratio)
    size = None if target_size is None else size_of("load_img", "target_size", target_size)
    image = opened(path)
    whole = image.mode in ("L", "I;16", "I") if color_mode == "grayscale" else image.mode == MODES[color_mode]
    image = image if whole else image.convert(MODES[color_mode])
    if size is None or image.size == size[::-1]:
        return image
    box = None
    if keep:
        height, width = min(image.height, image.width * size[0] // size[1]), image.width
        width = min(width, image.height * size[1] // size[0])
        left, top = (image.width - width) // 2, (image.height - height) // 2
        box = (left, top, left + width, top + height)
    return image.resize(size[::-1], FILTERS[interpolation], box=box)


def opened(path: Any) -> Any:
    """The decoded image in a file."""
    module, errors = pillow(), need("Images need", "PIL")
    if isinstance(path, bytes | bytearray):
        path = os.fsdecode(bytes(path))
    if not isinstance(path, str | os.PathLike | io.BytesIO):
        raise invalid("load_img", "path", "the path of a file, or an io.BytesIO", path)
    try:
        image = module.open(path if isinstance(path, io.BytesIO) else io.BytesIO(pathlib.Path(path).read_bytes()))
        image.load()
        return image
    except errors.UnidentifiedImageError:
        raise ValueError(f"{received(path)} is not an image. Expected a file that Pillow can read.") from None
    except (SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{received(path)} is damaged: {error}. Expected an image.") from None


@explained
def img_to_array(img: Any, data_format: str | None = None, dtype: Any = None) -> np.ndarray:
    """An image of Pillow's as an array (height, width, channels), of type float32 if ``dtype`` is None."""
    refuse("img_to_array()", {"data_format": data_format}, CHANNELS_LAST)
    array = numbers("The img of img_to_array", img)
    if array.ndim not in (2, 3):
        raise invalid("img_to_array", "img", "an image, (height, width) or (height, width, channels)", array)
    return np.array(array[..., None] if array.ndim == 2 else array, _type("img_to_array", dtype))


@explained
def array_to_img(x: Any, data_format: str | None = None, scale: bool = True, dtype: Any = None) -> Any:
    """An array (height, width, 1, 3 or 4) as an image of Pillow's.

    With ``scale`` its smallest number becomes 0 and its largest 255; without, numbers are colours already. ``dtype``,
    float32 if None, is what is computed with.
    """
    refuse("array_to_img()", {"data_format": data_format}, CHANNELS_LAST)
    array = numbers("The x of array_to_img", x).astype(_type("array_to_img", dtype))
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise invalid("array_to_img", "x", "one image, (height, width, 1, 3 or 4)", array)
    if boolean("array_to_img", "scale", scale):
        array = array - array.min()
        most = array.max()
        array = array / (most if most else 1) * 255
    if array.shape[2] == 1 and array.max() > 255:  # grey of 32 bits
        return pillow().fromarray(array[..., 0].astype("int32"))
    whole = array.astype("uint8")
    return pillow().fromarray(whole[..., 0] if whole.shape[2] == 1 else whole)


@explained
def save_img(
    path: Any, x: Any, data_format: str | None = None, file_format: str | None = None, scale: bool = True, **kwargs: Any
) -> None:
    """Write an array (height, width, channels) as an image.

    Args:
        path: the file, or a file object.
        x, scale: as for :func:`array_to_img`.
        file_format: "png", "jpeg", ...; None: as the path ends.
        kwargs: what else Pillow's ``save`` takes.
    """
    refuse("save_img()", {"data_format": data_format}, CHANNELS_LAST)
    if file_format is None and isinstance(path, str | os.PathLike):
        file_format = pathlib.Path(path).suffix[1:]
    if not isinstance(file_format, str) or not file_format:
        raise invalid("save_img", "file_format", "the name of a format, or a path with a suffix", file_format)
    file_format = "jpeg" if file_format.lower() == "jpg" else file_format.lower()
    image = array_to_img(x, scale=scale)
    if image.mode == "RGBA" and file_format == "jpeg":
        warn("A JPEG file cannot be transparent: the fourth channel is left out.")
        image = image.convert("RGB")
    known = pillow().registered_extensions()
    if file_format.upper() not in known.values():
        raise unknown("save_img", "file_format", file_format, sorted({name.lower() for name in known.values()}))
    image.save(path, format=file_format, **kwargs)


def size_of(where: str, name: str, value: Any) -> tuple[int, int]:
    """(height, width); one number stands for both."""
    sizes = [integer(where, name, value)] * 2 if isinstance(value, int) else several(where, name, value, integer)
    if len(sizes) != 2:
        raise invalid(where, name, "(height, width)", value)
    return sizes[0], sizes[1]


def _type(where: str, dtype: Any) -> np.dtype:
    try:
        found = np.dtype("float32" if dtype is None else dtype)
    except TypeError:
        raise invalid(where, "dtype", "the name of a type of numbers, such as 'float32'", dtype) from None
    if found.kind not in "biuf":
        raise invalid(where, "dtype", "the name of a type of numbers, such as 'float32'", dtype)
    return found
