"""Files to read and to write: what their names say, and whether they can be."""

import os
import stat

from tinyconv.checking.extras import need
from tinyconv.files import atomic, hdf5

SAFETENSORS, KERAS_H5, KERAS_ARCHIVE = ".safetensors", ".weights.h5", ".keras"
WRITERS = {
    KERAS_H5: hdf5.WRITER,
    KERAS_ARCHIVE: hdf5.WRITER,
    ".onnx": ("Exporting needs", "onnx"),
}


def check_target(path: atomic.AnyPath, *suffixes: str, parents: bool = False, overwrite: bool = True) -> str:
    """Raise at once what saving to ``path`` would raise at the end of a run; the suffix that its name has.

    Args:
        path: the file to be written.
        suffixes: what its name may end in; none: anything. For ".keras", ".weights.h5" and ".onnx" the package that
            writes them must be installed.
        parents: whether folders that are missing will be made.
        overwrite: whether there may be such a file already.
    """
    kind = kind_of(path, *suffixes) if suffixes else os.path.splitext(atomic.text_of(path))[1]
    if kind in WRITERS:
        need(*WRITERS[kind])
    atomic.probe(path, parents)
    if not overwrite and os.path.exists(path):
        raise FileExistsError(f"{atomic.text_of(path)!r} exists already. Fix: overwrite=True, or another name.")
    return kind


def kind_of(path: atomic.AnyPath, *suffixes: str) -> str:
    """Which of these suffixes a file's name has."""
    name = os.path.basename(atomic.text_of(path))
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    raise ValueError(f"Unknown kind of file. Expected a name that ends in {' or '.join(suffixes)}. Received: {path!r}.")


def read(path: atomic.AnyPath) -> tuple[bytes, str]:
    """The bytes of a file, and its name for error messages."""
    name = atomic.text_of(path)
    try:
        opened = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {name!r} to load. Expected one that was saved there.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name!r} is a folder. Expected a file.") from None
    except PermissionError:
        raise PermissionError(f"{name!r} may not be read by this user. Fix: its permissions.") from None
    with opened as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{name!r} is a device or a pipe. Expected a file.")
        return file.read(), repr(name)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait for ever
