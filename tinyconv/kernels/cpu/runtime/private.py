"""Files that nobody but their owner can have written: the compiled kernels on disk.

They are loaded by ``pickle``, and a pickle may run any code. So nothing is read that another user could have put there:
not from a folder that others own or may write, not from one below a folder in which others could exchange it, not from
a file of theirs, and not through a symbolic link. (Where the system has no users' numbers, on Windows, the folders'
own access lists must do.)
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
MOST = 1000  # files in a folder: several times as many as there are kernels
HOUR, HALF_A_YEAR = 3600, 180 * 24 * 3600

_TEMPORARY = re.compile(r"tmp((?P<process>\d+)_)?[a-z0-9_]{8}")


class UntrustedError(OSError):
    """Others could have written there; says where, why, and what to do."""


def prepare(folder: Path) -> None:
    """Make a folder, if need be, that only its owner may enter. Raises OSError if it cannot be written, or can be by
    others."""
    folder = folder.absolute()
    for path in (*reversed(folder.parents), folder):
        if not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(path, 0o700)
    folder.stat()  # a circle of links would lead nowhere
    if hasattr(os, "geteuid"):
        check_path(folder)
        _check_own(folder, os.lstat(folder), stat.S_ISDIR)
    tempfile.TemporaryFile(dir=folder).close()


def check_path(path: Path) -> None:
    """Whether nobody else could exchange one of the folders above, or a link on the way."""
    trusted = (0, os.geteuid())
    for above in reversed(path.parents):
        status = os.lstat(above)
        if status.st_uid not in trusted:
            raise UntrustedError(f"{above} belongs to another user (number {status.st_uid})")
        if stat.S_ISLNK(status.st_mode):
            target = above.parent / os.readlink(above)
            check_path(target / "below")
        elif status.st_mode & OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX and not _group_of_one(status):
            raise UntrustedError(f"other users may write in {above} (chmod go-w would forbid it)")


def _check_own(path: Path, status: os.stat_result, is_kind, installed: bool = False) -> None:
    """Whether a file or folder is what it should be, this user's (or the superuser's), and written by nobody else."""
    if not is_kind(status.st_mode):
        raise UntrustedError(f"{path} is a symbolic link, or no {'folder' if is_kind is stat.S_ISDIR else 'file'}")
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid() and not (installed and status.st_uid == 0):
        raise UntrustedError(f"{path} belongs to another user (number {status.st_uid})")
    if status.st_mode & OTHERS_MAY_WRITE and not (installed and _group_of_one(status)):
        raise UntrustedError(f"other users may write in {path} (chmod go-w would forbid it)")


def _group_of_one(status: os.stat_result) -> bool:
    """Whether only the user's own group may write, the one of his name with nobody else in it. Many systems give each
    user such a group, and let it write in every folder he makes."""
    import grp
    import pwd

    if status.st_mode & stat.S_IWOTH or os.geteuid() == 0:
        return False
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return (user.pw_name, user.pw_gid) == (group.gr_name, group.gr_gid) and set(group.gr_mem) <= {user.pw_name}


def read(path: Path, installed: bool = False) -> bytes:
    """A file's content. It is opened once, so that what is checked is what is read. ``installed``: the superuser may
    have put it there, or this user with a program that lets his own group write."""
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    with open(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:
        _check_own(path, os.fstat(file.fileno()), stat.S_ISREG, installed)
        return file.read()


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: other processes see the old one or the whole new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"tmp{os.getpid()}_")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def sweep(folder: Path, suffix: str) -> None:
    """Remove what killed processes left half written, and the oldest files beyond :data:`MOST`. At worst another
    process, on another machine say, cannot keep what it just compiled."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        kept = [folder / name for name in names if name.endswith(suffix)]
        surplus = sorted(kept, key=_age)[MOST // 2 :] if len(kept) > MOST else []
        for path in (*surplus, *(folder / name for name in names if _is_stray(folder, name))):
            path.unlink(missing_ok=True)


def _is_stray(folder: Path, name: str) -> bool:
    """Whether a file is a temporary one whose writer is dead, or has been at it for an hour."""
    found = _TEMPORARY.fullmatch(name)
    if found is None:
        return False
    if found["process"] and os.name == "posix":
        try:
            os.kill(int(found["process"]), 0)  # sends nothing
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            pass  # somebody else's, so alive
    return _age(folder / name) > HOUR


def sweep_siblings(folder: Path, pattern: str) -> None:
    """Remove the folders beside this one that match the pattern, and that nobody has used for half a year."""
    with contextlib.suppress(OSError):
        if _age(folder) > HALF_A_YEAR / 100:
            os.utime(folder)  # used
        for sibling in folder.parent.glob(pattern):
            if sibling != folder and _age(sibling) > HALF_A_YEAR:
                _check_own(sibling, sibling.lstat(), stat.S_ISDIR)
                shutil.rmtree(sibling, ignore_errors=True)


def _age(path: Path) -> float:
    """For how many seconds a file or folder has not been written."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
