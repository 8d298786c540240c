"""Where a file is written to: file systems without locks, full disks, long names, permissions, and what cannot be."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import tinyconv
from tests.test_saving import make
from tinyconv import export, saving
from tinyconv.checking.extras import EXTRAS, need
from tinyconv.files import atomic

KINDS = [".keras", ".weights.h5", ".safetensors"]


def save(model, path):
    model.save(path) if str(path).endswith(".keras") else model.save_weights(path)


def open_files(folder):
    """What this process holds open below a folder. (How many files it holds in all may change at any time.)"""
    targets = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return [target for target in targets if target.startswith(f"{os.path.realpath(folder)}{os.sep}")]


def failing(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


def killed_writer(path, locks):
    """A process that dies in the middle of a write."""
    code = f"""
import fcntl, os, signal
from tinyconv.files import atomic
def flock(handle, how): raise OSError({errno.ENOSYS}, "none")
if not {locks}: fcntl.flock = flock
atomic._sync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
atomic.write({str(path)!r}, b"half")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


# File systems


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "EBADF", "EIO", "EACCES"])
@pytest.mark.parametrize("suffix", KINDS)
def test_saving_needs_no_locks(tmp_path, monkeypatch, code, suffix):
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, code)))
    model = make()
    for _ in range(2):
        save(model, tmp_path / f"m{suffix}")
    assert open_files(tmp_path) == []
    assert os.listdir(tmp_path) == [f"m{suffix}"]


@pytest.mark.parametrize("locks", [True, False])
def test_what_a_killed_process_left_is_swept(tmp_path, monkeypatch, locks):
    path = tmp_path / "m.keras"
    killed_writer(path, locks)
    (stray,) = os.listdir(tmp_path)
    assert stray.endswith(atomic.SUFFIX)
    if not locks:
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    atomic.write(path, b"whole")
    assert os.listdir(tmp_path) == ["m.keras"]


def test_without_locks_nobody_sweeps_what_may_be_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    path = tmp_path / "m.keras"
    ours = atomic._partial(path)
    other_host = path.with_name(f".m.keras.0a0a0a0a-1-aaaa{atomic.SUFFIX}")
    unknown = path.with_name(f".m.keras.bbbb{atomic.SUFFIX}")
    for stray in (ours, other_host, unknown):
        stray.write_bytes(b"half")
    atomic.write(path, b"whole")
    assert {ours.name, other_host.name, unknown.name} < set(os.listdir(tmp_path))
    for stray in (ours, other_host, unknown):  # but not for ever
        long_ago = time.time() - 2 * atomic.FORGOTTEN
        os.utime(stray, (long_ago, long_ago))
    atomic.write(path, b"whole")
    assert os.listdir(tmp_path) == ["m.keras"]


def test_another_computer_s_file_is_not_swept_though_its_lock_is_not_seen(tmp_path):
    path = tmp_path / "m.keras"
    path.with_name(f".m.keras.0a0a0a0a-{1 << 30}-aaaa{atomic.SUFFIX}").write_bytes(b"half")
    atomic.write(path, b"whole")
    assert len(os.listdir(tmp_path)) == 2


def test_a_longer_name_s_file_is_not_swept(tmp_path):
    stray = tmp_path / f".m.keras.bak.aaaa{atomic.SUFFIX}"
    stray.write_bytes(b"half")
    atomic.write(tmp_path / "m.keras", b"whole")
    assert stray.exists()


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "ENOTSUP"])
def test_a_file_system_that_cannot_synchronise_is_written_to(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, code)))
    atomic.write(tmp_path / "m", b"whole")
    assert (tmp_path / "m").read_bytes() == b"whole"


# Errors half-way


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("suffix", KINDS)
def test_a_failed_write_names_the_file_and_the_fix_and_leaves_the_old_one(tmp_path, monkeypatch, code, step, suffix):
    path, model = tmp_path / f"m{suffix}", make()
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, failing(getattr(errno, code)))
    with pytest.raises(OSError, match=r"Nothing was changed. Fix: ") as caught:
        save(model, path)
    assert caught.value.errno == getattr(errno, code)
    assert os.strerror(caught.value.errno) in str(caught.value)
    assert repr(str(path)) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]
    assert open_files(tmp_path) == []


def test_a_disk_that_is_full_says_so(tmp_path):
    """A real one: a process may write no larger file than its limit."""
    code = f"""
import resource, signal, tinyconv
from tinyconv.files import atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic.write({str(tmp_path / "m.keras")!r}, bytes(5000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27] File too large. Nothing was changed. Fix: save elsewhere:" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod", "lexists"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_the_old_file_and_no_stray(tmp_path, monkeypatch, step, error):
    path = tmp_path / "m.keras"
    path.write_bytes(b"old")

    def interrupt(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os.path if step == "lexists" else os, step, interrupt)
        with pytest.raises(error):
            atomic.write(path, b"new")
        assert open_files(tmp_path) == []
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.keras"]


# Names


NAMES = ["a" * (255 - len(".weights.h5")), "é" * 122, "模" * 81, "a" * 190, "a" * 200, "a" * 210]


@pytest.mark.parametrize("name", NAMES, ids=len)
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    path = tmp_path / f"{name}.weights.h5"
    model = make()
    for _ in range(2):
        save(model, path)
    make(seed=1).load_weights(path)
    assert os.listdir(tmp_path) == [path.name]


def test_strays_of_long_names_are_swept_too(tmp_path):
    path = tmp_path / ("b" * 249 + ".keras")
    killed_writer(path, locks=True)
    assert len(os.listdir(tmp_path)) == 1
    atomic.write(path, b"whole")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["a" * 250 + ".keras", "模" * 84 + ".keras"])
def test_a_name_that_is_too_long_is_refused_before_anything_is_done(tmp_path, name):
    with pytest.raises(OSError, match=r"The name is too long: 2\d\d bytes. Expected at most 255") as caught:
        saving.check_target(tmp_path / name, ".keras")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_bytes_and_path_objects_name_files_too(tmp_path):
    model = make()
    model.save(os.fsencode(tmp_path / "b.keras"))
    model.save(tmp_path / "p.keras")
    tinyconv.saving.load_model(os.fsencode(tmp_path / "b.keras"), backend="reference")
    assert sorted(os.listdir(tmp_path)) == ["b.keras", "p.keras"]


WRONG = [
    (5, TypeError, "Invalid path. Expected a text or a pathlib.Path. Received: 5"),
    (None, TypeError, "Invalid path. Expected a text or a pathlib.Path. Received: None"),
    (["m.keras"], TypeError, "Invalid path. Expected a text"),
    ("", ValueError, "Invalid path. Expected the name of a file. Received: ''"),
    ("a\0.keras", ValueError, r"Expected the name of a file. Received: 'a\\x00.keras'"),
    ("\ud800.keras", ValueError, "file names cannot hold"),
]


@pytest.mark.parametrize(("path", "error", "message"), WRONG, ids=repr)
def test_what_is_no_path_is_refused_in_clear_words(path, error, message):
    model = make()
    for use in (model.save, model.save_weights, model.load_weights, saving.load_model, saving.check_target):
        with pytest.raises(error, match=message):
            use(path)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "d.keras").mkdir()
    for path in (tmp_path / "d.keras", f"{tmp_path}/d.keras/"):
        with pytest.raises((IsADirectoryError, ValueError), match=r"This is a folder|Expected a name that ends in"):
            make().save(path)
    with pytest.raises(IsADirectoryError, match="This is a folder"):
        atomic.write(f"{tmp_path}/new/", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"This is a file, not a folder to save in: .*file'"):
        saving.check_target(tmp_path / "file" / "m.keras", ".keras")


def test_a_device_or_a_pipe_is_neither_replaced_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.keras")
    with pytest.raises(OSError, match="a device or a pipe"):
        make().save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m.keras' is a device or a pipe. Expected a file"):
        saving.load_model(tmp_path / "m.keras")
    assert stat.S_ISFIFO(os.stat(tmp_path / "m.keras").st_mode)


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "m.keras").symlink_to("m.keras")
    with pytest.raises(OSError, match=r"Fix: the link points to itself") as caught:
        make().save(tmp_path / "m.keras")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "m.keras").is_symlink()


# Permissions


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o755], ids=oct)
def test_the_permissions_of_an_existing_file_are_kept(tmp_path, mode):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"")
    path.chmod(mode)
    make().save_weights(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_permissions_are_the_link_s_target_s(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    atomic.write(tmp_path / "link", b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_another_group_gets_no_rights_that_were_not_its_own(tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_bytes(b"")
    path.chmod(0o640)
    before = os.stat_result((*path.stat()[:5], path.stat().st_gid + 1, *path.stat()[6:]))
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    with open(path, "r+b") as file:
        atomic._keep_owner_and_mode(file.fileno(), before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_hard_link_keeps_the_old_content(tmp_path):
    (tmp_path / "m").write_bytes(b"old")
    os.link(tmp_path / "m", tmp_path / "kept")
    atomic.write(tmp_path / "m", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"


AS_NOBODY = """
import os, sys
from tinyconv.saving import check_target
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    check_target(sys.argv[1], ".safetensors")
except PermissionError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_folder_or_a_file_that_may_not_be_written_is_refused_before_the_run():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)

        def said(path):
            code = [sys.executable, "-c", AS_NOBODY, path]
            return subprocess.run(code, capture_output=True, text=True, check=True).stdout

        assert "You may not write in the folder" in said(f"{folder}/m.safetensors")
        os.chmod(folder, 0o777)
        with open(f"{folder}/m.safetensors", "wb"):
            pass
        os.chmod(f"{folder}/m.safetensors", 0o644)
        assert "The file is read-only. Nothing was changed" in said(f"{folder}/m.safetensors")


# Before the run


def test_a_target_is_checked_without_leaving_anything(tmp_path):
    for name, suffix in (("m.keras", ".keras"), ("m.weights.h5", ".weights.h5"), ("m.onnx", ".onnx")):
        assert saving.check_target(tmp_path / name, suffix) == suffix
    assert saving.check_target(tmp_path / "curve.png") == ".png"
    assert saving.check_target(tmp_path / "a" / "b" / "m.keras", ".keras", parents=True) == ".keras"
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*b'.* Fix: make it"):
        saving.check_target(tmp_path / "a" / "b" / "m.keras", ".keras")
    with pytest.raises(OSError, match="The name is too long"):
        saving.check_target(tmp_path / ("a" * 300) / "m.keras", ".keras", parents=True)
    with pytest.raises(ValueError, match=r"Expected a name that ends in .keras. Received: .*m.pt"):
        saving.check_target(tmp_path / "m.pt", ".keras")


@pytest.mark.parametrize("code", ["EROFS", "ENOSPC", "EDQUOT", "EACCES"])
def test_a_folder_that_takes_no_new_file_is_found_out(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "open", failing(getattr(errno, code)))
    with pytest.raises(OSError, match=rf"{os.strerror(getattr(errno, code))}. Nothing was changed. Fix: "):
        saving.check_target(tmp_path / "m.safetensors", ".safetensors")


@pytest.mark.parametrize(("module", "suffix"), [("h5py", ".keras"), ("h5py", ".weights.h5"), ("onnx", ".onnx")])
def test_a_missing_package_is_found_out(tmp_path, monkeypatch, module, suffix):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}: pip install 'tinyconv\[{EXTRAS[module]}\]'"):
        saving.check_target(tmp_path / f"m{suffix}", suffix)
    if suffix == ".onnx":
        with pytest.raises(ImportError, match="Exporting needs onnx"):
            export.to_onnx(make(), tmp_path / "m.onnx")


def test_an_export_to_nowhere_fails_before_the_graph_is_made(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export.to_onnx(make(), tmp_path / "nowhere" / "m.onnx")


def test_a_package_that_is_there_and_broken_says_why(tmp_path, monkeypatch):
    (tmp_path / "h5py.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "h5py")
    with pytest.raises(ImportError, match=r"with h5py \(No module named 'no_such_library'\): pip install"):
        need("Keras' formats are written with", "h5py")


def test_the_bytes_are_those_of_the_weights(tmp_path):
    """What is written through all of this is what is read again."""
    model = make()
    model.save_weights(tmp_path / "m.safetensors")
    other = make(seed=5)
    other.load_weights(tmp_path / "m.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
