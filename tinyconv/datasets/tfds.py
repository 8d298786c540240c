"""Any image-classification set of TensorFlow Datasets, as arrays.

TensorFlow is slow to import and to read one example at a time, so a set is read in bulk once and kept as one .npz
file: the second load needs neither TensorFlow nor the network.
"""

import hashlib
import io
import json
import math
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.checking import LARGEST, affordable
from tinyconv.checking.extras import need
from tinyconv.checking.messages import received
from tinyconv.datasets import mnist
from tinyconv.datasets.official import ENVIRONMENT, cache_folder
from tinyconv.files import atomic, checked_json

Arrays = tuple[np.ndarray, np.ndarray]
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A set of labelled images: ``(x_train, y_train), (x_test, y_test) = dataset`` unpacks it.

    Images are as stored (mostly uint8), of shape (samples, height, width, channels); labels are int64, and
    ``class_names[label]`` is what a label means.
    """

    name: str  # with its version, for example "mnist/3.0.1"
    splits: tuple[str, str]
    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]

    def __iter__(self) -> Iterator[Arrays]:
        yield self.train
        yield self.test

    def __repr__(self) -> str:
        sizes = " and ".join(f"{split!r} {x.dtype} {x.shape}" for split, (x, _) in zip(self.splits, self, strict=True))
        return f"<Dataset {self.name}: {sizes}, {len(self.class_names)} classes>"


def load(
    name: str,
    split: tuple[str, str] | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Read an image-classification set of TensorFlow Datasets (needs the extra ``datasets``).

    >>> (x_train, y_train), (x_test, y_test) = load("cifar10")

    Arguments:
        name: a name of https://www.tensorflow.org/datasets/catalog, if wanted with its configuration and version:
            "cifar10", "cifar10:3.0.2", "emnist/letters". "mnist" is prepared from the files inside tinyconv, without
            network; its order is not the official one, which ``datasets.mnist.load_data`` has.
        split: what to train on and what to test on, in TFDS' notation: ("train[:90%]", "train[90%:]"). If None,
            "train" and "test", or "validation" where there is no "test".
        image_size: (height, width) to resize every image to; needed where they differ in size.
        data_dir: where TFDS keeps its prepared sets (its own default: ~/tensorflow_datasets).
        manual_dir: a folder with files you downloaded yourself.
        cache_dir: where the arrays are kept (default: tinyconv/datasets in the user's cache folder). To read a set
            afresh, delete its file there.

    Raises ValueError for a set, split or size that does not fit, ImportError without the extra, RuntimeError, with
    what to do about it, where a set could not be downloaded.
    """
    _check(name, split, image_size, {"data_dir": data_dir, "manual_dir": manual_dir, "cache_dir": cache_dir})
    if manual_dir is None and re.split("[:/]", name)[0] == "mnist":
        manual_dir = mnist.FOLDER
    cache = _cache_file(cache_dir, name, split, image_size, data_dir, manual_dir)
    dataset = _read_cache(cache)
    if dataset is None:
        tfds = _tensorflow_datasets()
        builder = _builder(tfds, name, data_dir)
        keys = _keys(tfds, builder)
        _check_size(builder, keys[0], image_size)  # before a long download, not after it
        if not builder.is_prepared():
            _prepare(tfds, builder, name, manual_dir)
        dataset = _read(builder, keys, split, image_size)
        _write_cache(cache, dataset)
    return dataset


def instead_of_files(name: str, title: str, files: list[str], folder: str, source: str) -> Dataset:
    """A set whose official files are nowhere; or a RuntimeError that says what to do."""
    try:
        return load(name)
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"{title} is not on this computer, and TensorFlow Datasets cannot get it ({reason}).\n"
            "What to do, one of:\n"
            f"  - put {', '.join(files)} from {source} into {cache_folder() / folder},\n"
            f"    or into another folder, load_data(data_dir=...); or into {folder!r} in the folder that the\n"
            f"    environment variable {ENVIRONMENT} names;\n"
            "  - pip install 'tinyconv[datasets]', with a network: TensorFlow Datasets downloads it once."
        ) from error


def _check(name: Any, split: Any, image_size: Any, folders: dict[str, Any]) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"load expects the name of a data set. Received: {received(name)}.")
    two = isinstance(split, list | tuple) and len(split) == 2
    if split is not None and not (two and all(isinstance(part, str) for part in split)):
        raise ValueError(f'split expects two names: split=("train", "test"). Received: {received(split)}.')
    two = isinstance(image_size, list | tuple) and len(image_size) == 2
    if image_size is not None and not (two and all(_is_size(n) for n in image_size)):
        raise ValueError(f"image_size expects (height, width). Received: {received(image_size)}.")
    for argument, folder in folders.items():
        if folder is not None and (not isinstance(folder, str | os.PathLike) or not os.fspath(folder)):
            raise ValueError(f"{argument} expects the path of a folder. Received: {received(folder)}.")
    manual_dir = folders["manual_dir"]
    if manual_dir is not None and not Path(manual_dir).is_dir():
        raise ValueError(f"manual_dir expects an existing folder. Received: {os.fspath(manual_dir)!r}.")


def _is_size(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 < int(value) <= LARGEST


# --- TensorFlow Datasets --------------------------------------------------------------------------------------------


def _tensorflow_datasets() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    # TFDS does not say that it needs importlib_resources, nor TensorFlow to prepare and to read
    tensorflow_datasets = need("datasets.load needs", "tensorflow_datasets", "tensorflow", "importlib_resources")
    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


def _builder(tfds: Any, name: str, data_dir: Any) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        from difflib import get_close_matches

        close = get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
        catalog = "Expected a name of https://www.tensorflow.org/datasets/catalog."
        raise ValueError(f"Unknown data set. {hint}{catalog} Received: {name!r}.") from error
    except (AssertionError, ValueError) as error:  # a version or a configuration that does not exist
        raise ValueError(f"TensorFlow Datasets has no {name!r}: {error}") from error


def _keys(tfds: Any, builder: Any) -> tuple[str, str]:
    """The names of a set's image and of its label."""
    features = builder.info.features
    kinds = {}
    for kind in (tfds.features.Image, tfds.features.ClassLabel):
        named = [key for key, feature in features.items() if type(feature) is kind]
        main = [key for key in named if key in (builder.info.supervised_keys or ())]
        kinds[kind] = main if len(main) == 1 else named
    if any(len(keys) != 1 for keys in kinds.values()):
        raise ValueError(
            f"{builder.name!r} is not an image-classification dataset. Expected one image and one class label. "
            f"Received: {', '.join(f'{key} ({type(feature).__name__})' for key, feature in features.items())}."
        )
    (image,), (label,) = kinds.values()
    return image, label


def _check_size(builder: Any, image: str, image_size: tuple[int, int] | None) -> None:
    shape = builder.info.features[image].shape
    if image_size is None and None in shape[:2]:
        raise ValueError(
            f"The images of {builder.name!r} differ in size (shape {shape}). Expected images of one size. "
            f"Fix: load({builder.name!r}, image_size=(96, 96)) resizes them."
        )


def _prepare(tfds: Any, builder: Any, name: str, manual_dir: Any) -> None:
    try:
        _check_network(builder, manual_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except Exception as error:
        raise RuntimeError(_failed(builder, name, error)) from error


def _check_network(builder: Any, manual_dir: Any) -> None:
    """Raise OSError if a file must be downloaded whose server cannot be reached: TFDS would try for minutes."""
    import socket
    import urllib.parse
    import urllib.request

    if urllib.request.getproxies():
        return  # then only the proxy needs to be reached
    for url, info in (builder.url_infos or {}).items():
        if manual_dir is not None and info.filename and (Path(manual_dir) / info.filename).exists():
            continue
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and parts.scheme in PORTS:
            try:
                socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), timeout=10).close()
            except OSError as error:
                raise OSError(f"no connection to {parts.hostname} ({error})") from error


def _failed(builder: Any, name: str, error: Exception) -> str:
    """What to say, and what to do, where a set could not be prepared."""
    lines = [f"Cannot prepare {name!r}: {type(error).__name__}: {str(error).strip()}", "What to do, one of:"]
    lines += ["  - check the network and try again;"]
    files = [f"{url} ({info.size})" for url, info in (builder.url_infos or {}).items()]
    if files:
        shown = files[:5] + [f"and {len(files) - 5} more"] * (len(files) > 5)
        lines += ["  - download elsewhere, into one folder that you pass as manual_dir=..., without renaming:"]
        lines += [f"      {file}" for file in shown]
    lines += [
        f"  - run tensorflow_datasets.load({name!r}) on a machine with network, copy its folder",
        "    ~/tensorflow_datasets, and pass the copy as data_dir=...",
    ]
    return "\n".join(lines)


def _read(builder: Any, keys: tuple[str, str], split: Any, image_size: Any) -> Dataset:
    train, test = split or _default_split(builder)
    class_names = tuple(builder.info.features[keys[1]].names)
    arrays = [_read_split(builder, part, keys, image_size) for part in (train, test)]
    return Dataset(builder.info.full_name, (train, test), arrays[0], arrays[1], class_names)


def _default_split(builder: Any) -> tuple[str, str]:
    names = list(builder.info.splits)
    split = ("train", "validation" if "validation" in names and "test" not in names else "test")
    missing = [part for part in split if part not in names]
    if names and missing:
        raise ValueError(
            f"{builder.name!r} has no split {missing[0]!r}. Its splits: {', '.join(map(repr, names))}. "
            f'Fix: say what to train and to test on, for example split=("{names[0]}[:90%]", "{names[0]}[90%:]").'
        )
    return split


def _read_split(builder: Any, split: str, keys: tuple[str, str], image_size: Any, batch: int = 1000) -> Arrays:
    """One split as arrays, always in the same order."""
    import tensorflow as tf

    image, label = keys

    def pick(example: Any) -> tuple[Any, Any]:
        x = example[image]
        if image_size is not None:
            x = tf.cast(tf.round(tf.image.resize(x, image_size, antialias=True)), x.dtype)
        return x, example[label]

    try:
        examples = builder.as_dataset(split=split, shuffle_files=False)
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"{builder.name!r} cannot give the split {split!r}. Expected one of, or a part of, "
            f"{', '.join(map(repr, builder.info.splits))}. {error}"
        ) from error
    count = int(examples.cardinality())
    feature = builder.info.features[image]
    size = tuple(image_size or feature.shape[:2])
    affordable(
        repr(builder.name), f"split {split!r}", (count, *size, feature.shape[2]), np.dtype(feature.np_dtype).itemsize
    )
    x = np.empty((count, *size, feature.shape[2]), feature.np_dtype)
    y = np.empty(count, np.int64)
    done = 0
    for images, labels in examples.map(pick, num_parallel_calls=tf.data.AUTOTUNE).batch(batch).as_numpy_iterator():
        x[done : done + len(labels)], y[done : done + len(labels)] = images, labels
        done += len(labels)
    if done != count or (y < 0).any():
        raise ValueError(
            f"The split {split!r} of {builder.name!r} has no labels, or not all of them. "
            f"Choose others of {', '.join(map(repr, builder.info.splits))}: split=(..., ...)."
        )
    return x, y


# --- The cache: one .npz file a request -----------------------------------------------------------------------------


def _cache_file(cache_dir: Any, name: str, *request: Any) -> Path:
    """The file for exactly this request."""
    cache_dir = cache_folder() if cache_dir is None else cache_dir
    told = json.dumps([name, *request], default=lambda path: str(Path(path).absolute()))
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    return Path(cache_dir) / f"{re.sub('[^A-Za-z0-9.]+', '-', name)}-{digest}.npz"


def _read_cache(path: Path) -> Dataset | None:
    """The set kept in that file; None if there is none, or if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = checked_json.loads(str(_kept(archive, "about")).encode(), repr(str(path)))
            x_train, y_train, x_test, y_test = (_kept(archive, name) for name in ARRAYS)
        names, splits = tuple(about["class_names"]), tuple(about["splits"])
        whole = len(x_train) == len(y_train) and len(x_test) == len(y_test) and len(splits) == 2
        return Dataset(str(about["name"]), splits, (x_train, y_train), (x_test, y_test), names) if whole else None
    except Exception:  # zipfile and NumPy stumble over damage in many ways; the set is prepared anew
        return None


def _kept(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of a .npz file that is as large as it says before memory is taken for it."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or file.tell() + size != info.file_size:
            raise ValueError(f"{name} is not as it was written")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _write_cache(path: Path, dataset: Dataset) -> None:
    """Keep the set; a file that cannot be written costs only the time to prepare it again."""
    about = json.dumps({"name": dataset.name, "splits": dataset.splits, "class_names": dataset.class_names})
    (x_train, y_train), (x_test, y_test) = dataset
    file = io.BytesIO()
    np.savez(file, about=np.array(about), x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, file.getvalue())
    except OSError as error:
        warnings.warn(f"The data set is not kept for the next time: {error}. Fix: cache_dir=...", stacklevel=3)
