"""Images in folders as a data set that gives batches; the files, their order and their labels are Keras'."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Self

import numpy as np

from tinyconv.checking import boolean, console, integer, invalid, number
from tinyconv.checking.arguments import choice, unknown
from tinyconv.checking.messages import explained, received, refuse
from tinyconv.random import next_seed
from tinyconv.utils.images import MODES, opened, pillow, size_of
from tinyconv.utils.resizing import METHODS, middle, resized

FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
ONLY_KERAS: dict[str, tuple[Any, ...]] = {
    "pad_to_aspect_ratio": (False,),
    "data_format": (None, "channels_last"),
    "format": ("tf",),
}


class ImageDataset:
    """What :func:`image_dataset_from_directory` returns: batches of images, decoded when they are asked for.

    It can be iterated again and again, in another order each time if it shuffles; ``len(...)`` is the number of
    batches. ``class_names`` are the names of the labels, or None, and ``file_paths`` the files.
    """

    def __init__(
        self, file_paths: Sequence[str], labels: np.ndarray | None, class_names: list[str] | None, settings: dict
    ) -> None:
        self.file_paths, self.labels, self.class_names = list(file_paths), labels, class_names
        self._settings, self._rounds = settings, 0
        self._functions: list[Callable[..., Any]] = []  # of map

    def __len__(self) -> int:
        return -(-len(self.file_paths) // self._settings["batch_size"])

    def __iter__(self) -> Iterator[Any]:
        return map(self._by_number(), range(len(self)))

    def _by_number(self) -> Callable[[int], Any]:
        """What reads the batches by their numbers, in an order that is drawn anew for each call of this."""
        order, size = np.arange(len(self.file_paths)), self._settings["batch_size"]
        if self._settings["shuffle"]:
            key = [self._settings["seed"], self._rounds]
            order = np.random.Generator(np.random.Philox(key=key)).permutation(len(order))
            self._rounds += 1
        return lambda number: self._batch(order[number * size : (number + 1) * size])

    def _batch(self, chosen: np.ndarray) -> Any:
        images = np.stack([self._image(self.file_paths[i]) for i in chosen])
        batch = (images,) if self.labels is None else (images, self.labels[chosen])
        for function in self._functions:
            found = function(*batch)
            batch = found if isinstance(found, tuple) else (found,)
        return batch if len(batch) > 1 else batch[0]

    def take(self, count: int) -> Iterator[Any]:
        """The first batches, so many."""
        return islice(iter(self), integer("take", "count", count, at_least=0))

    def map(self, map_func: Callable[..., Any], num_parallel_calls: int | None = None) -> Self:
        """A data set whose batches are ``map_func(images, labels)``, or ``map_func(images)`` where there are no labels.
        How many calls are made at once says tf.data; here it is one."""
        if not callable(map_func):
            raise invalid("map", "map_func", "a function of images and labels", map_func)
        mapped = copy.copy(self)
        mapped._functions = [*self._functions, map_func]
        return mapped

    def prefetch(self, buffer_size: int | None = None) -> Self:
        """This data set: fit() prepares the next batch in advance anyway."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"An ImageDataset has no attribute {name!r}: it is no tf.data.Dataset. Expected a loop over it, take(), "
            "map(), class_names or file_paths. Fix: leave it out, as fit() prepares batches in advance anyway; or a "
            "utils.PyDataset of your own."
        )

    def __repr__(self) -> str:
        return f"<ImageDataset: {len(self.file_paths):,} files in {len(self):,} batches>"

    def _image(self, path: str) -> np.ndarray:
        mode, size = MODES[self._settings["color_mode"]], self._settings["image_size"]
        image = opened(path)
        if image.mode.startswith("I"):  # grey of 16 bits
            image = pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if self._settings["crop_to_aspect_ratio"]:
            pixels = middle(pixels, size)
        return resized(pixels, size, self._settings["interpolation"])


@explained
def image_dataset_from_directory(
    directory: str | os.PathLike,
    labels: Any = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int | None = 32,
    image_size: tuple[int, int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    data_format: str | None = None,
    format: str = "tf",
    verbose: bool = True,
) -> Any:
    """Images in a folder (BMP, GIF, JPEG, PNG), for ``fit``, ``evaluate`` and ``predict``: an :class:`ImageDataset`.

    Its batches are float32 (samples, height, width, channels) from 0 to 255, with their labels where there are any.

    Args:
        directory: the folder. If ``labels`` are inferred, it has a folder for each class.
        labels: "inferred"; None; or a list of integers, one for each file in the order of their sorted paths.
        label_mode: "int": int32 (samples,); "categorical": float32 (samples, classes); "binary": float32 (samples, 1);
            None: no labels.
        class_names: the folders to use, in the order of their labels; None: all, sorted.
        color_mode: "rgb", "rgba" or "grayscale".
        batch_size: images of a batch.
        image_size: (height, width) to resize them to.
        shuffle: whether to mix the files, and the order of each epoch.
        seed: an integer that makes the order repeatable; needed to split what is shuffled.
        validation_split: the share of the files to validate on.
        subset: "training", "validation", or "both" (a list of both).
        interpolation: "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic".
        follow_links: whether to go into folders that are links.
        crop_to_aspect_ratio: whether to cut off what would be distorted.
        pad_to_aspect_ratio, data_format, format: Keras' only; must have their defaults.
        verbose: whether to say how many files there are.
    """
    where = "image_dataset_from_directory"
    given = {"pad_to_aspect_ratio": pad_to_aspect_ratio, "data_format": data_format, "format": format}
    refuse(f"{where}()", given, ONLY_KERAS)
    if label_mode is not None:
        choice(where, "label_mode", label_mode, ("int", "categorical", "binary"))
    settings: dict[str, Any] = {
        "color_mode": choice(where, "color_mode", color_mode, CHANNELS),
        "batch_size": integer(where, "batch_size", batch_size),
        "image_size": size_of(where, "image_size", image_size),
        "shuffle": boolean(where, "shuffle", shuffle),
        "interpolation": choice(where, "interpolation", interpolation, METHODS),
        "crop_to_aspect_ratio": boolean(where, "crop_to_aspect_ratio", crop_to_aspect_ratio),
        "seed": next_seed() % 2**31 if seed is None else integer(where, "seed", seed, at_least=0),
    }
    share = _share(where, validation_split, subset, settings["shuffle"] and seed is None)
    boolean(where, "verbose", verbose)
    labels = None if label_mode is None else labels
    paths, numbers, names = _files(directory, labels, class_names, boolean(where, "follow_links", follow_links))
    if verbose:
        classes = "" if names is None else f" belonging to {len(names)} classes"
        console.write(f"Found {len(paths)} files{classes}.")
    if settings["shuffle"]:
        paths, numbers = _shuffled(paths, numbers, settings["seed"])
    targets = None if numbers is None else _encoded(numbers, str(label_mode), names or [])
    held = int(share * len(paths))
    parts = {"training": slice(len(paths) - held), "validation": slice(len(paths) - held, None), None: slice(None)}
    found = []
    for name in ("training", "validation") if subset == "both" else (subset,):
        part, fixed = parts[name], {"shuffle": False} if subset == "both" and name == "validation" else {}
        if name and verbose:
            console.write(f"Using {len(paths[part])} files for {name}.")
        if not paths[part]:
            raise ValueError(
                f"There are no {name + ' ' if name else ''}images in {os.fspath(directory)!r}. Expected files that end "
                f"in {', '.join(FORMATS)}. Received: {len(paths)} in all."
            )
        labels_of_part = None if targets is None else targets[part]
        found.append(ImageDataset(paths[part], labels_of_part, names, settings | fixed))
    return found if subset == "both" else found[0]


def _shuffled(paths: list[str], numbers: np.ndarray | None, seed: int) -> tuple[list[str], np.ndarray | None]:
    """In an order drawn as Keras draws it."""
    order = np.arange(len(paths))
    np.random.RandomState(seed).shuffle(order)
    return [paths[i] for i in order], None if numbers is None else numbers[order]


def _share(where: str, validation_split: Any, subset: Any, order_unknown: bool) -> float:
    """The share of the files that is for validation; 0 where nothing is split."""
    if subset is not None and subset not in ("training", "validation", "both"):
        raise unknown(where, "subset", subset, ("training", "validation", "both"))
    share = 0.0
    if validation_split is not None:
        share = number(where, "validation_split", validation_split, at_least=0, below=1)
    if bool(share) != (subset is not None):
        raise ValueError(
            f"{where}: validation_split and subset belong together. Expected both or none of them. Received: "
            f"validation_split={received(validation_split)}, subset={received(subset)}."
        )
    if share and order_unknown:
        raise ValueError(
            f"{where}: a split of shuffled files needs a seed, or training and validation would share files. "
            "Expected an integer. Received: seed=None. Fix: seed=..., the same for both, or shuffle=False."
        )
    return share


def _files(
    directory: Any, labels: Any, class_names: Any, follow_links: bool
) -> tuple[list[str], np.ndarray | None, list[str] | None]:
    """The sorted files, their labels, and the labels' names."""
    where = "image_dataset_from_directory"
    if not isinstance(directory, str | os.PathLike) or not os.path.isdir(directory):
        raise invalid(where, "directory", "the path of a folder", directory)
    folder = os.fspath(directory)
    inferred = isinstance(labels, str) and labels == "inferred"
    if class_names is not None and not inferred:
        raise invalid(where, "class_names", 'None, unless labels="inferred"', class_names)
    if inferred:
        there = sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name)))
        there = [name for name in there if not name.startswith(".")]
        names = there if class_names is None else list(class_names)
        if not set(names) <= set(there):
            raise invalid(where, "class_names", f"some of the folders {', '.join(map(repr, there))}", class_names)
        each = [_below(os.path.join(folder, name), follow_links) for name in names]
        numbers = np.repeat(np.arange(len(names), dtype=np.int32), [len(paths) for paths in each])
        return [path for paths in each for path in paths], numbers, names
    paths = _below(folder, follow_links)
    if labels is None:
        return paths, None, None
    whole = isinstance(labels, list | tuple | np.ndarray)
    if not whole or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in labels):
        raise invalid(where, "labels", '"inferred", None, or a list of integers', labels)
    if len(labels) != len(paths):
        raise invalid(where, "labels", f"one label for each of the {len(paths)} files in {folder!r}", labels)
    return paths, np.array(labels, np.int32), [str(label) for label in sorted(set(labels))]


def _below(folder: str, follow_links: bool) -> list[str]:
    """The images in a folder and in those in it, sorted folder by folder."""
    tree = sorted((root, sorted(files)) for root, _, files in os.walk(folder, followlinks=follow_links))
    return [os.path.join(root, file) for root, files in tree for file in files if file.lower().endswith(FORMATS)]


def _encoded(labels: np.ndarray, label_mode: str, names: Sequence[str]) -> np.ndarray:
    if label_mode == "int":
        return labels
    if label_mode == "binary":
        if len(names) != 2:
            expected = f'label_mode="binary" needs two classes. Expected 2. Received: {len(names)}'
            raise ValueError(f"image_dataset_from_directory: {expected}: {', '.join(map(repr, names))}.")
        return labels.astype(np.float32)[:, None]
    return (labels[:, None] == np.arange(len(names))).astype(np.float32)
