"""Files that are either there whole or not at all.

A file that is written in place is torn if the process dies half-way. So the bytes go to a temporary file in the same
folder, are forced to the disk, and then take the target's name in one step that the operating system does not divide.
A process that dies leaves at most its temporary file, which the next one to write the same file takes away.

Symbolic links are followed, and the permissions of a file that was there are kept. Other hard links to it keep the old
content.
"""

import errno
import hashlib
import os
import platform
import re
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from tinyconv.checking.messages import received

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted and so needs no lock to say that it is in use
    fcntl = None

AnyPath = str | bytes | os.PathLike

SUFFIX = ".tinyconv-partial"
LONGEST_NAME = 255  # bytes, where the file system does not say
FORGOTTEN = 24 * 3600  # seconds after which a temporary file of an unknown process counts as abandoned
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # what a file system says that cannot do it
FIXES = {
    errno.ENOSPC: "free some space on that disk, or save elsewhere",
    errno.EDQUOT: "free some of your quota on that disk, or save elsewhere",
    errno.EIO: "the disk or the network fails; save elsewhere",
    errno.ENAMETOOLONG: "a shorter name",
    errno.ELOOP: "the link points to itself; save elsewhere",
}


def text_of(path: AnyPath) -> str:
    """A path as text, checked to be one that can name a file."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise TypeError(
            f"Invalid path. Expected a text or a pathlib.Path. Received: {received(path)} ({type(path).__name__})."
        ) from None
    if not text or "\0" in text:
        raise ValueError(f"Invalid path. Expected the name of a file. Received: {text!r}.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"Invalid path. This system's file names cannot hold {text!r} ({error.reason}).") from None
    return text


def target_of(path: AnyPath, parents: bool = False) -> Path:
    """The file that writing ``path`` would make or replace; an error if that cannot work.

    ``parents``: folders that are missing will be made first.
    """
    text = text_of(path)
    target = Path(os.path.realpath(text))
    if text.endswith(("/", os.sep)) or os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "This is a folder. Expected the name of a file to save", text)
    folder, names = target.parent, [target.name]
    while parents and not os.path.lexists(folder):
        names.append(folder.name)
        folder = folder.parent
    if not os.path.exists(folder):
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r} to save {target.name!r} in. Fix: make it, or save elsewhere."
        )
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, "This is a file, not a folder to save in", str(folder))
    longest, size = _longest_name(folder), max(len(os.fsencode(name)) for name in names)
    if size > longest:
        raise OSError(errno.ENAMETOOLONG, f"The name is too long: {size} bytes. Expected at most {longest}", text)
    with _explained(text):
        if os.path.islink(target):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if os.path.lexists(target):
            if not os.path.isfile(target):
                raise OSError(errno.EINVAL, "This is a device or a pipe. Expected the name of a file to save")
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, "The file is read-only")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"You may not write in the folder {str(folder)!r}")
    return target


def write(path: AnyPath, data: bytes) -> None:
    """Write a file atomically. After an error or a crash the old file, if there was one, is still whole."""
    target = target_of(path)
    with _explained(os.fspath(target)):
        sweep(target)
        while not _replace(target, data):
            pass
    _sync_folder(target.parent)


def probe(path: AnyPath, parents: bool = False) -> None:
    """Raise what writing that file would raise, as far as an empty one can tell."""
    target = target_of(path, parents)
    if target.parent.is_dir():
        with _explained(os.fspath(target)):
            partial = _partial(target)
            try:
                os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            finally:
                with suppress(OSError):
                    os.unlink(partial)


def sweep(path: AnyPath) -> None:
    """Take away what processes that died while writing ``path`` have left. Files in use stay."""
    target = Path(os.path.realpath(os.fsdecode(path)))
    ours = re.compile(rf"\.{re.escape(_label(target))}\.(?:(\w+)-(\d+)-)?\w+{re.escape(SUFFIX)}")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if match := ours.fullmatch(name):
                with suppress(OSError):
                    _sweep(target.with_name(name), *match.groups())


def _sweep(stray: Path, host: str | None, process: str | None) -> None:
    """Delete a temporary file that nobody uses: one that can be locked, and that another computer on the same network
    disk, whose locks may not be seen here, has not been writing either. Without locks, one whose process is gone."""
    if fcntl is None:
        stray.unlink()
        return
    with open(stray, "r+b") as file:
        locked = _lock(file.fileno())
        here = host in (None, _this_host())
        gone = here and (locked or _is_dead(process))
        if locked is not False and (gone or time.time() - os.fstat(file.fileno()).st_mtime > FORGOTTEN):
            stray.unlink()


def _replace(target: Path, data: bytes) -> bool:
    """Write a file beside the target, and give it the target's name; False if another process swept it before it was
    locked."""
    partial, before = _partial(target), None
    with suppress(FileNotFoundError):
        before = os.stat(target)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666 if before is None else before.st_mode & 0o666)

    try:
        with open(partial, "xb", opener=opener) as file:
            if fcntl is not None:
                if _lock(file.fileno()) is False or not os.path.lexists(partial):
                    return False
                if before is not None:
                    _keep_owner_and_mode(file.fileno(), before)
            file.write(data)
            file.flush()
            _sync(file.fileno())
            if fcntl is not None:  # elsewhere an open file cannot be renamed
                os.replace(partial, target)
        if fcntl is None:
            os.replace(partial, target)
    finally:
        with suppress(OSError):
            os.unlink(partial)
    return True


def _keep_owner_and_mode(handle: int, before: os.stat_result) -> None:
    """Make the new file's owner, group and permissions those of the old one, as far as this user may."""
    mode = stat.S_IMODE(before.st_mode) & 0o777
    with suppress(OSError):
        if os.fstat(handle).st_uid != before.st_uid:
            os.fchown(handle, before.st_uid, -1)
    try:
        if os.fstat(handle).st_gid != before.st_gid:
            os.fchown(handle, -1, before.st_gid)
    except OSError:  # then the old group's rights are not the new group's
        mode = mode & 0o707 | (mode & 0o007) << 3
    with suppress(OSError):
        os.fchmod(handle, mode)


# Names


def _partial(target: Path) -> Path:
    """A new name for a temporary file beside the target, which says whose it is."""
    owner = f"{_this_host()}-{os.getpid()}-{secrets.token_hex(6)}"
    return target.with_name(f".{_label(target)}.{owner}{SUFFIX}")


def _label(target: Path) -> str:
    """The target's name, or its hash where there is no room for the name and all that :func:`_partial` adds."""
    name = os.fsencode(target.name)
    room = _longest_name(target.parent) - len(SUFFIX) - 44
    return target.name if len(name) <= room else hashlib.sha256(name).hexdigest()[:16]


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, or a file system that does not say
        return LONGEST_NAME


def _this_host() -> str:
    """This computer, in letters that tell it from others; a container has processes of its own, and so is one."""
    processes = ""
    with suppress(OSError, AttributeError):
        processes = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


# What the operating system does


def _lock(handle: int) -> bool | None:
    """Lock an open file for as long as it is open; False: somebody else has, None: this file system has no locks."""
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_dead(process: str | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is another user's
        return False
    return False


def _sync(handle: int) -> None:
    """Force a file to the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in that folder survive a power failure, where folders can be synchronised."""
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class _explained:
    """Whatever the operating system objects to in here names the file, and says what to do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            code = error.errno or errno.EIO
            fix = FIXES.get(code, "save elsewhere")
            raise OSError(code, f"{error.strerror or error}. Nothing was changed. Fix: {fix}", self.name) from error
