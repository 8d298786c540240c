"""Files that are either there whole or not at all.

A file that is written in place is torn if the process dies half-way. So the bytes go to a temporary file in the same
folder, are forced to the disk, and then take the target's name in one step that the operating system does not divide.
A process that dies leaves at most its temporary file, which the next one to write the same file takes away.
"""

import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted and so needs no lock to say that it is in use
    fcntl = None

SUFFIX = ".tinyconv-partial"


def write(path: str | os.PathLike, data: bytes) -> None:
    """Write a file atomically. After an error or a crash the old file, if there was one, is still whole."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(target.parent)!r} to save {target.name!r} in.")
    sweep(target)
    handle, partial = _create(target)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            if fcntl is not None:  # elsewhere an open file cannot be renamed
                os.replace(partial, target)
        if fcntl is None:
            os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(target.parent)


def sweep(path: str | os.PathLike) -> None:
    """Take away what processes that died while writing ``path`` have left. Files in use are locked, and stay."""
    target = Path(os.path.realpath(path))
    for stray in target.parent.glob(f".{glob.escape(target.name)}.*{SUFFIX}"):
        with suppress(OSError), open(stray, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stray.unlink()
        if fcntl is None:
            with suppress(OSError):
                stray.unlink()


def _create(target: Path) -> tuple[int, Path]:
    """A new, empty, locked file beside the target."""
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}{SUFFIX}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return handle, partial
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:  # else another process swept it before it was locked
                return handle, partial
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename in that folder survive a power failure, where folders can be synchronised."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                os.fsync(handle)
        finally:
            os.close(handle)
