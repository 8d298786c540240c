"""Whole models in Keras 3's archive: a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``.

Members are read by exactly these names and never extracted, and must be stored as they are (Keras compresses nothing),
so that an archive holds no more than its own size. zip's CRC-32 guards each of them.

``metadata.json`` also keeps the model's seed, which Keras ignores: with it, training that goes on draws the orders
and the dropout masks that it would have drawn without the interruption.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.files import checked_json, hdf5, keras_config, keras_weights
from tinyconv.network import Network

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
KERAS_VERSION = "3.15.0"  # whose format this is
DIRECTORY_ENTRY, MOST_MEMBERS = b"PK\1\2", 100  # what each entry of a zip's directory begins with
LARGEST_CONFIG = 4 << 20
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # instead of the time, so that the same model makes the same file


def dumps(model: Network) -> bytes:
    """A model, its compilation and its optimiser's state as the bytes of an archive."""
    config = keras_config.of_model(model)
    members = {
        METADATA: _json({"keras_version": KERAS_VERSION, "tinyconv": {"seed": model.seed}}, "The model's metadata"),
        CONFIG: _json(config, "The model's configuration"),
        WEIGHTS: keras_weights.dumps(model),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), content)
    return buffer.getvalue()


def _json(value: Any, what: str) -> bytes:
    text = json.dumps(value, allow_nan=False).encode()
    checked_json.check_size(text, what, LARGEST_CONFIG)  # what is written must be readable
    return text


@dataclass(frozen=True)
class Archive:
    """What an archive holds, checked; no model is made of it yet."""

    model: keras_config.SavedModel  # without weights
    weights: list[np.ndarray]
    seed: int | None  # if tinyconv wrote the file
    compilation: dict[str, Any] | None  # the arguments of compile
    groups: hdf5.Groups  # with the optimiser's state


def loads(content: bytes, where: str, compile: bool = True) -> Archive:
    """What an archive holds; with its compilation if ``compile``."""
    parts = _members(content, where)
    config = checked_json.loads(parts[CONFIG], f"{CONFIG} of {where}", LARGEST_CONFIG)
    model = keras_config.to_model(config, where)
    groups = hdf5.by_group(hdf5.loads(parts[WEIGHTS], f"{WEIGHTS} of {where}"))
    weights = keras_weights.fitting_weights(model.shapes(None)[1], groups, where)  # before anything is allocated
    compilation = None
    if compile and config.get("compile_config"):
        if not isinstance(config["compile_config"], dict):
            raise ValueError(f"{where} is damaged: its compile_config is not an object.")
        compilation = keras_config.to_compilation(config["compile_config"], where)
    return Archive(model, weights, _seed(parts[METADATA], where), compilation, groups)


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Whatever is wrong with a file's content is a ValueError that names the file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:  # two layers of one name, an impossible initialiser, ...
        raise ValueError(str(error) if where in str(error) else f"{where}: {error}") from None


def _seed(metadata: bytes, where: str) -> int | None:
    """The model's seed, if tinyconv wrote the file."""
    content = checked_json.loads(metadata, f"{METADATA} of {where}")
    ours = content.get("tinyconv") if isinstance(content, dict) else None
    if ours is None:
        return None
    seed = ours.get("seed") if isinstance(ours, dict) else None
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ValueError(f"{where} is damaged: expected a seed from 0 to 2**63 - 1. Received: {seed!r}.")
    return seed


def _members(content: bytes, where: str) -> dict[str, bytes]:
    """The three members of an archive."""
    if content.count(DIRECTORY_ENTRY) > MOST_MEMBERS:  # zipfile would make an object of each of them
        raise ValueError(f"{where} is not a .keras archive. Expected 3 members. Received: more than {MOST_MEMBERS}.")
    with _unzipping(where):
        archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    return {name: _read(archive, name, names.count(name), where) for name in (METADATA, CONFIG, WEIGHTS)}


def _read(archive: zipfile.ZipFile, name: str, count: int, where: str) -> bytes:
    if count != 1:
        raise ValueError(f"{where} is not a .keras archive. Expected one member {name!r}. Received: {count}.")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{where}: {name!r} is compressed, which Keras does not do. Fix: store it as it is.")
    with _unzipping(where):
        return archive.read(info)


@contextlib.contextmanager
def _unzipping(where: str) -> Iterator[None]:
    """Whatever zipfile stumbles over: there are many kinds of error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where} is not a complete .keras archive: {error or type(error).__name__}.") from None
