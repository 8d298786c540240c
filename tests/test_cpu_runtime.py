"""What is under the CPU kernels: the cache of compiled code, the threads, and what the processor can do.

Most of it happens once in the life of a process, so most of these tests start one, many on a copy of the kernels that
they may damage.
"""

import concurrent.futures
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import numba
import numpy as np
import pytest

import tinyconv.kernels
from tests.strategies import few
from tinyconv.__main__ import main
from tinyconv.commands import warmup
from tinyconv.kernels import cpu
from tinyconv.kernels.cpu.registers import host
from tinyconv.kernels.cpu.runtime import cutting, jit, private, shipped, threads

HERE = Path(__file__).parent
KERNELS = Path(tinyconv.kernels.__file__).parent
X86 = platform.machine() in ("x86_64", "AMD64")

# Calls a kernel, and says what was compiled for it.
ONE_KERNEL = """
import numpy as np
from tinyconv.kernels.cpu import activation; from tinyconv.kernels.cpu.runtime import jit
x = np.array([-1, 0, 2], np.float32)
with jit.compile_watch(lambda: print("compiling")) as watch:
    activation.activation_forward(x, x, "relu", ())
assert x.tolist() == [0, 0, 2], x
print(watch.functions, "in", watch.seconds)
"""

# Compares a few kernels of every kind with the reference.
MANY_KERNELS = """
import numpy as np
from tinyconv.kernels import cpu, reference
from tinyconv.kernels.cpu.runtime import cutting; from tinyconv.kernels.cpu.registers import host
cutting.PIECE = 100
rng = np.random.default_rng(0)
def f32(*shape): return rng.standard_normal(shape).astype(np.float32)
def same(name, outputs, *inputs):
    expected = [output.copy() for output in outputs]
    getattr(cpu, name)(*outputs, *inputs)
    getattr(reference, name)(*expected, *inputs)
    for output, truth in zip(outputs, expected):
        np.testing.assert_allclose(output, truth, rtol=1e-4, atol=1e-5)
    return outputs
x, images, half = f32(5000), f32(2, 9, 8, 19), f32(2, 4, 4, 19)
same("activation_forward", [f32(5000)], x, "tanh", ())
same("activation_forward", [f32(5000)], x, "elu", (1.0,))
_, argmax = same("max_pool2d_forward", [half, np.zeros(half.shape, np.int32)], images, (2, 2), (2, 2), (0, 0))
same("max_pool2d_backward", [f32(*images.shape)], half, argmax, (2, 2), (2, 2), (0, 0))
same("dropout_forward", [f32(7, 301)], f32(7, 301), np.array([3, 0, 9]), 2**63 + 5, 1, 0.3)
same("softmax_cross_entropy_forward", [f32(9), f32(9, 10)], f32(9, 10), np.eye(9, 10, dtype=np.float32))
gradients = [f32(33, 21), f32(21), f32(21)]
same("batch_norm_backward", gradients, f32(33, 21), f32(33, 21), f32(21), f32(21), f32(21) ** 2)
same("adam_update", [x, f32(5000), f32(5000) ** 2], f32(5000), np.array([0, 0, 0]), f32(1), 0.9, 0.999, 1e-7, 0.0)
same("gather_one_hot", [f32(6, 10)], rng.integers(0, 10, 9), rng.permutation(9), np.array([0, 2, 0]))
print(host.LANES, host.REGISTERS)
"""


def run(program, folder=None, **environment):
    """Run a program, with the tinyconv of that folder, and return what it prints."""
    paths = [str(folder or KERNELS.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}  # these tests set it
    settings |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compiled(folder, count=1, **environment):
    """The names of the small kernels, of the first ``count``, that calling them had to compile."""
    program = f"""
        from tinyconv.kernels.cpu.runtime import jit; from tinyconv.kernels.cpu import small
        with jit.compile_watch() as watch:
            assert [getattr(small, f"kernel_{{i}}")(10) for i in range({count})] == list(range(10, 10 + {count}))
        print(*watch.functions)
    """
    return run(program, folder, **environment)


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the kernels in a package of the same name, nothing compiled yet, and with kernels that
    compile fast: ``small.kernel_0`` and so on. Only what a program imports is read: the set is not put together."""
    ignore = shutil.ignore_patterns("__pycache__", "shipped", "cuda")
    shutil.copytree(KERNELS, tmp_path / "tinyconv" / "kernels", ignore=ignore)
    (tmp_path / "tinyconv" / "__init__.py").touch()
    cpu_set = tmp_path / "tinyconv" / "kernels" / "cpu"
    (cpu_set / "__init__.py").write_text("from tinyconv.kernels.cpu import environment\n")
    functions = [f"@jit\ndef kernel_{i}(x):\n    return x + {i}\n" for i in range(5)]
    source = "from tinyconv.kernels.cpu.runtime.jit import jit\n" + "".join(functions)
    (cpu_set / "small.py").write_text(source)
    return tmp_path


def cache_folders(folder):
    return {file.parent for file in folder.rglob("*.nbc")}


@pytest.mark.long
def test_a_kernel_is_compiled_once_per_machine(copy):
    first = run(ONE_KERNEL, copy)
    assert first.startswith("compiling")
    assert first.count("compiling") == 1
    assert "'relu'" in first
    assert run(ONE_KERNEL, copy) == "[] in 0.0"
    assert cache_folders(copy) == {copy / "tinyconv" / "kernels" / "cpu" / "__pycache__"}


def test_machine_code_is_loaded_without_getting_ready_to_compile(copy):
    """That takes longer than all the rest, and more memory. What is not in the cache is compiled all the same."""
    program = """
        import sys
        from tinyconv.kernels.cpu import small
        for kernel in {kernels}:
            assert kernel(1) >= 1
        print("numba.np.npyimpl" in sys.modules)
    """
    assert run(program.format(kernels="[small.kernel_0]"), copy) == "True"
    assert run(program.format(kernels="[small.kernel_0]"), copy) == "False"
    assert run(program.format(kernels="[small.kernel_0, small.kernel_1]"), copy) == "True"


@pytest.mark.long
def test_an_edit_of_an_inlined_function_in_another_file_is_noticed(copy):
    folder = copy / "tinyconv" / "kernels" / "cpu"
    (folder / "inner.py").write_text(
        "from tinyconv.kernels.cpu.runtime.jit import jit\n@jit\ndef factor():\n    return 2\n"
    )
    (folder / "outer.py").write_text(
        "from tinyconv.kernels.cpu.runtime.jit import jit\nfrom tinyconv.kernels.cpu.inner import factor\n"
        "@jit\ndef scaled(x):\n    return x * factor()\n"
    )
    program = """
        from tinyconv.kernels.cpu.runtime import jit; from tinyconv.kernels.cpu import outer, small
        with jit.compile_watch() as watch:
            print(outer.scaled(10), small.kernel_0(10), watch.functions)
    """
    assert run(program, copy) == "20 10 ['scaled', 'factor', 'kernel_0']"
    assert run(program, copy) == "20 10 []"
    (folder / "inner.py").write_text((folder / "inner.py").read_text().replace("2", "3"))
    assert run(program, copy) == "30 10 ['scaled', 'factor']"  # and not the kernel that does not use the file


@pytest.mark.long
def test_a_damaged_cache_file_is_compiled_anew(copy):
    damages = [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    ]
    assert compiled(copy, 5) == "kernel_0 kernel_1 kernel_2 kernel_3 kernel_4"
    for number, damage in enumerate(damages):
        (file,) = copy.rglob(f"small.kernel_{number}-*.nbc")
        file.write_bytes(damage(file.read_bytes()))
    assert compiled(copy, 5) == "kernel_0 kernel_1 kernel_2 kernel_3"
    assert compiled(copy, 5) == ""


@pytest.mark.long
def test_another_processor_or_bounds_checks_get_compiled_code_of_their_own(copy):
    assert compiled(copy)
    assert compiled(copy, NUMBA_BOUNDSCHECK="1")
    if X86:
        assert compiled(copy, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="+sse4.2")
    assert not compiled(copy)


@pytest.mark.long
def test_where_the_package_cannot_be_written_the_user_s_folder_keeps_the_cache(copy):
    """A file where the folder should be: that stops the superuser too."""
    (copy / "tinyconv" / "kernels" / "cpu" / "__pycache__").touch()
    home = {"HOME": str(copy / "home"), "XDG_CACHE_HOME": str(copy / "home" / "cache")}
    if sys.platform != "linux":
        pytest.skip("the user's folder is named by other variables here")
    assert compiled(copy, **home)
    (folder,) = cache_folders(copy)
    assert folder.is_relative_to(copy / "home" / "cache")
    assert not compiled(copy, **home)


@pytest.mark.long
def test_where_nothing_can_be_written_kernels_run_uncached(copy):
    (copy / "tinyconv" / "kernels" / "cpu" / "__pycache__").touch()
    (copy / "file").touch()
    nowhere = {"HOME": str(copy / "file"), "XDG_CACHE_HOME": str(copy / "file"), "NUMBA_CACHE_DIR": ""}
    for _ in range(2):
        assert compiled(copy, **nowhere)
    assert not cache_folders(copy)


def test_a_chosen_cache_folder_is_used(copy):
    assert compiled(copy, NUMBA_CACHE_DIR=str(copy / "chosen"))
    (folder,) = cache_folders(copy)
    assert folder.is_relative_to(copy / "chosen")


@pytest.fixture
def mine(tmp_path):
    """A folder that is trusted, wherever pytest made it."""
    try:
        private.prepare(tmp_path)
    except OSError as error:
        pytest.skip(f"tests run in a folder that others may write: {error}")
    return tmp_path


posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users and permissions")
needs_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files away")


@posix
def test_folders_are_made_for_their_owner_alone(mine):
    old = os.umask(0)
    try:
        private.prepare(mine / "a" / "b")
    finally:
        os.umask(old)
    assert [(mine / folder).stat().st_mode & 0o777 for folder in ("a", "a/b")] == [0o700, 0o700]


@posix
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_is_refused(mine, mode):
    (mine / "open").mkdir()
    (mine / "open").chmod(mode)
    with pytest.raises(private.UntrustedError, match=r"other users may write in .*open \(chmod go-w"):
        private.prepare(mine / "open")
    if mode == 0o1777:  # as /tmp: others can put things there, but not exchange this user's
        private.prepare(mine / "open" / "below")
    elif mode & 0o002 or os.geteuid() == 0:  # else it may be the user's own group
        with pytest.raises(private.UntrustedError, match="open "):
            private.prepare(mine / "open" / "below")


@posix
def test_links_are_refused_or_followed_with_care(mine):
    (mine / "there").mkdir(0o700)
    (mine / "link").symlink_to("there")
    with pytest.raises(private.UntrustedError, match="link is a symbolic link"):
        private.prepare(mine / "link")
    private.prepare(mine / "link" / "below")
    (mine / "there").chmod(0o777)
    with pytest.raises(private.UntrustedError, match="there"):
        private.prepare(mine / "link" / "below")
    (mine / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        private.prepare(mine / "circle" / "below")


@needs_root
def test_what_belongs_to_another_user_is_refused(mine):
    (mine / "theirs").mkdir(0o700)
    os.chown(mine / "theirs", 65534, 65534)
    (mine / "link").symlink_to(".")
    os.lchown(mine / "link", 65534, 65534)
    (mine / "file").write_bytes(b"harm")
    os.chown(mine / "file", 65534, 65534)
    for folder in ("theirs", "theirs/below", "link/below"):
        with pytest.raises(private.UntrustedError, match=r"belongs to another user \(number 65534\)"):
            private.prepare(mine / folder)
    with pytest.raises(private.UntrustedError, match="file belongs to another user"):
        private.read(mine / "file")


@posix
def test_only_files_of_one_s_own_are_read(mine):
    file = mine / "file"
    private.replace(file, b"content")
    assert private.read(file) == b"content"
    assert file.stat().st_mode & 0o777 == 0o600
    (mine / "link").symlink_to(file)
    os.mkfifo(mine / "pipe", 0o600)
    for name in ("link", "pipe", "missing", "."):
        with pytest.raises(OSError):  # noqa: PT011  (the system's words)
            private.read(mine / name)
    file.chmod(0o620)
    with pytest.raises(private.UntrustedError, match="other users may write"):
        private.read(file)


def test_what_killed_processes_left_is_swept_and_the_folder_stays_small(mine, monkeypatch):
    monkeypatch.setattr(private, "MOST", 4)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stays = {f"tmp{os.getpid()}_abcdefgh", "tmpabcdefgh", "tmp.txt", "other.pyc"}
    goes = {"tmpabcdefg1", f"tmp{os.getpid()}_abcdefg2", "tmp99999999999999999999_abcdefgh"}
    for name in stays | goes:
        (mine / name).touch()
    for name in goes:
        os.utime(mine / name, (0, 0))
    if os.name == "posix":
        (mine / f"tmp{dead.pid}_abcdefgh").touch()
    for number in range(5):
        (mine / f"{number}.nbc").touch()
        os.utime(mine / f"{number}.nbc", (number, number))
    private.sweep(mine, ".nbc")
    assert {file.name for file in mine.iterdir()} == stays | {"3.nbc", "4.nbc"}


def test_folders_of_installations_that_are_gone_are_swept(mine):
    for name in ("tinyconv_0a", "tinyconv_0b", "tinyconv_0c", "other"):
        (mine / name).mkdir(0o700)
        (mine / name / "file").touch()
    for name in ("tinyconv_0a", "tinyconv_0b", "other"):
        os.utime(mine / name, (0, 0))
    private.sweep_siblings(mine / "tinyconv_0a", "tinyconv_*")
    assert {file.name for file in mine.iterdir()} == {"tinyconv_0a", "tinyconv_0c", "other"}
    assert (mine / "tinyconv_0a").stat().st_mtime > 1e9  # used now


@posix
@pytest.mark.long
def test_a_chosen_folder_that_others_may_write_is_named_and_another_is_used(copy):
    (copy / "shared").mkdir()
    (copy / "shared").chmod(0o777)
    (copy / "tinyconv" / "kernels" / "cpu" / "__pycache__").touch()
    home = {"HOME": str(copy / "home"), "XDG_CACHE_HOME": str(copy / "home")}
    program = """
        import warnings
        from tinyconv.kernels.cpu.runtime import jit
        with warnings.catch_warnings(record=True) as found:
            print(jit.cache_folder())
        print(*[warning.message for warning in found])
    """
    folder, warning = run(program, copy, NUMBA_CACHE_DIR=str(copy / "shared"), **home).splitlines()
    assert folder.startswith(str(copy / "home"))
    assert warning.startswith(f"Compiled kernels are kept in {folder}, not in NUMBA_CACHE_DIR: other users may write")
    (copy / "home").chmod(0o777)
    folder, warning = run(program, copy, NUMBA_CACHE_DIR="", **home).splitlines()
    assert folder == "None"
    assert warning.startswith("Compiled kernels cannot be kept, so every run compiles them again: ")
    assert warning.endswith("Fix: set NUMBA_CACHE_DIR to a folder that you can write, and nobody else.")
    assert str(copy / "home") in warning


# Machine code that came with the installation

FAMILY = shipped.family_here()
of_a_family = pytest.mark.skipif(FAMILY is None, reason="this processor belongs to none of the families")


@pytest.fixture
def carried(copy):
    """The kernels' copy, with the machine code of one of them shipped for processors like this one."""
    asked = {"NUMBA_CPU_NAME": FAMILY, "NUMBA_CPU_FEATURES": shipped.FAMILIES[FAMILY].settings}
    assert compiled(copy, NUMBA_CACHE_DIR=str(copy / "made"), **asked) == "kernel_0"
    (made,) = cache_folders(copy)
    folder = copy / "tinyconv" / "kernels" / "cpu" / "shipped" / FAMILY
    folder.parent.mkdir()
    shutil.copytree(made, folder)
    shutil.rmtree(made)
    return folder


@pytest.mark.long
@of_a_family
def test_shipped_machine_code_is_used_and_only_what_it_lacks_is_compiled(copy, carried):
    (file,) = carried.iterdir()
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert compiled(copy, count=2) == "kernel_1"
    assert compiled(copy, count=2) == ""
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert cache_folders(copy) == {carried, copy / "tinyconv" / "kernels" / "cpu" / "__pycache__"}
    said = run("from tinyconv.kernels.cpu.registers.host import target; print(target())", copy)
    assert said.endswith(f"vectors of {host.LANES} floats, some of it shipped for {FAMILY}")


def damage(file, folder):
    file.write_bytes(file.read_bytes()[:-1])


def open_to_others(file, folder):
    file.chmod(0o666)


def behind_a_link(file, folder):
    file.rename(folder / "elsewhere")
    file.symlink_to(folder / "elsewhere")


def folder_open_to_others(file, folder):
    file.parent.chmod(0o777)


def edit(file, folder):
    with (folder / "tinyconv" / "kernels" / "cpu" / "small.py").open("a") as source:
        source.write("# edited\n")


def give_away(file, folder):
    os.chown(file, 65534, 65534)


@of_a_family
@pytest.mark.parametrize(
    "harm",
    [
        damage,
        edit,
        *(pytest.param(harm, marks=posix) for harm in (open_to_others, behind_a_link, folder_open_to_others)),
        pytest.param(give_away, marks=needs_root),
    ],
)
@pytest.mark.long
def test_shipped_machine_code_that_is_not_to_be_trusted_is_compiled_anew(copy, carried, harm):
    (file,) = carried.iterdir()
    harm(file, copy)
    assert compiled(copy) == "kernel_0"


@of_a_family
@pytest.mark.long
def test_a_processor_that_is_told_to_do_less_does_not_take_a_family_s_machine_code(copy, carried):
    assert compiled(copy, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="+sse4.2") == "kernel_0"


@pytest.mark.parametrize(
    ("has", "lacks", "family"),
    [
        (("x86-64-v4", "x86-64-v3"), "", "x86-64-v4"),
        (("x86-64-v3",), "", "x86-64-v3"),
        (("x86-64-v4",), "avx512vl", None),  # wide vectors, but not the family's: narrow code would not fit
        (("x86-64-v3",), "fma", None),
        ((), "", None),
    ],
)
def test_the_family_of_a_processor(has, lacks, family):
    known = set().union(*(shipped.FAMILIES[name].needs for name in has)) - {lacks}
    features = [f"{'+' if name in known else '-'}{name}" for name in shipped.FAMILIES["x86-64-v4"].needs]
    assert shipped.family_of(",".join(features)) == family


def test_what_keeps_machine_code_from_being_shipped_is_said_before_anything_is_compiled(monkeypatch, capsys, tmp_path):
    assert set(warmup.FAMILIES) == set(shipped.FAMILIES)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "file")
    (tmp_path / "file").touch()
    command = ["warmup", "--for", "x86-64-v3"]
    for more, machine, message in (
        (["--backend", "cuda"], "x86_64", "--for is for the CPU kernels. Expected: --backend cpu."),
        ([], "aarch64", "Kernels for x86-64-v3 are compiled on x86-64. This is aarch64."),
        ([], "AMD64", "[Errno "),
    ):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert main([*command, *more]) == 1
        assert capsys.readouterr().err.startswith(f"tinyconv warmup: {message}")


@pytest.mark.slow
@of_a_family
def test_an_installation_that_carries_its_kernels_compiles_nothing(tmp_path):
    """Even a first step of the example: ``warmup --for`` in a copy of the package, then a process without a cache."""
    package = KERNELS.parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    said = run(f"import tinyconv.__main__ as m; m.main(['warmup', '--for', '{FAMILY}'])", tmp_path)
    assert re.search(rf"\n\d{{3}} kernels for {FAMILY} in .*: \d+\.\d MB\.\n", said)
    program = """
        import numpy as np, tinyconv
        from tinyconv.commands import common, course, warmup
        from tinyconv.kernels import cpu
        with cpu.compile_watch() as watch:
            model = common.compiled((28, 28, 1), 10, "cpu")
            x = np.random.default_rng(0).random((256, 28, 28, 1), np.float32)
            history = model.fit(x, np.arange(256) % 10, batch_size=128, epochs=2, verbose=0).history
            model.predict(x)
        assert np.isfinite(history["loss"]).all(), history
        with cpu.compile_watch() as all_of_them, cpu.compiling_only():
            for model, optimizer, loss in course.networks():
                warmup.train(model, optimizer, loss, "cpu")
        print(watch.functions, all_of_them.functions)
    """
    assert run(program, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "empty")) == "[] []"


def test_what_only_compiles_leaves_all_arrays_as_they_are_and_other_threads_work():
    x, other = np.full(3, -1, np.float32), np.full(3, -1, np.float32)
    with cpu.compiling_only(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        cpu.activation_forward(x, x, "relu", ())
        pool.submit(cpu.activation_forward, other, other, "relu", ()).result()
    assert (x == -1).all()
    assert (other == 0).all()
    cpu.activation_forward(x, x, "relu", ())
    assert (x == 0).all()


def test_a_full_disk_is_no_error(monkeypatch):
    def full(path, content):
        raise OSError("No space left on device")

    @jit.jit
    def twice(x):
        return 2 * x

    monkeypatch.setattr(private, "replace", full)
    assert twice(4) == 8


@pytest.mark.long
def test_functions_made_by_a_function_and_compiled_apart_do_not_take_each_other_s_place(copy):
    """Numba numbers functions of one name, from 1 in every process: in the third one, two have one name and number."""
    (copy / "made.py").write_text(
        "from tinyconv.kernels.cpu.runtime.jit import jit\nfrom tinyconv.kernels.cpu.registers.tile import stay_apart\n"
        "def make(factor):\n    @jit\n    def inner(x):\n        stay_apart()\n        return factor * x\n"
        "    @jit\n    def made(x):\n        return inner(x) + 1\n    return made\n"
    )
    program = "from made import make\nprint(*[make(factor)(10) for factor in {}])"
    assert run(program.format([2]), copy) == "21"
    assert run(program.format([3]), copy) == "31"
    assert run(program.format([2, 3]), copy) == "21 31"
    assert run(program.format([3, 2]), copy) == "31 21"


@pytest.mark.long
def test_functions_made_by_a_function_are_told_apart(copy):
    (copy / "made.py").write_text(
        "from tinyconv.kernels.cpu.runtime.jit import jit\ndef make(factor, inner):\n    @jit\n    def made(x):\n"
        "        return factor * inner(x)\n    return made\n@jit\ndef plus(x):\n    return x + 1\n"
        "@jit\ndef minus(x):\n    return x - 1\n"
    )
    program = """
        from made import make, minus, plus
        from tinyconv.kernels.cpu.runtime import jit
        with jit.compile_watch() as watch:
            print(*[make(factor, inner)(10) for factor in (2, 3) for inner in (plus, minus)], len(watch.functions))
    """
    assert run(program, copy) == "22 18 33 27 6"
    assert run(program, copy) == "22 18 33 27 0"


@pytest.mark.long
def test_two_cold_processes_at_once(copy):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert any(pool.map(compiled, [copy, copy]))
    assert not compiled(copy)
    assert len(list(copy.rglob("small.kernel_0-*.nbc"))) == 1
    assert not list(copy.rglob("tmp*")), "left-over temporary files"


def test_importing_compiles_nothing():
    program = """
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            import tinyconv.kernels.cpu
        print(len(recorder.buffer))
    """
    assert run(program) == "0"


def test_compile_watch_says_when_and_how_long(monkeypatch, tmp_path):
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)  # or it would compile only once in this test's life
    calls, progress = [], []

    @jit.jit
    def inner(x):
        return x + 1

    @jit.jit
    def plus(x):
        return inner(x)

    with jit.compile_watch(lambda: calls.append("first"), lambda *so_far: progress.append(so_far)) as watch:
        plus(1)
        plus(1.5)
        plus(2)
    assert calls == ["first"]
    assert len(watch.functions) == 4
    assert [functions for functions, _ in progress] == [1, 2, 3, 4]
    seconds = [seconds for _, seconds in progress]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= watch.seconds


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("NUMBA_DISABLE_JIT", "1", 'unset it, or use backend="reference"'),
        ("NUMBA_NUM_THREADS", "0", "correct or unset it"),
        pytest.param("NUMBA_NUM_THREADS", "-2", "correct or unset it", marks=pytest.mark.long),
        pytest.param("NUMBA_NUM_THREADS", "two", "correct or unset it", marks=pytest.mark.long),
        pytest.param("NUMBA_NUM_THREADS", "99999999999", "correct or unset it", marks=pytest.mark.long),
        ("NUMBA_THREADING_LAYER", "openmp", "unset it, or install the library"),
        pytest.param("NUMBA_THREADING_LAYER_PRIORITY", "omp omp omp", "correct or unset it", marks=pytest.mark.long),
    ],
)
def test_settings_that_numba_cannot_work_with_are_named_at_the_first_use(variable, value, fix):
    """One clear line, before the first kernel; the rest of tinyconv works."""
    program = """
        import numpy as np
        import tinyconv
        model = tinyconv.Sequential([tinyconv.Input((2,)), tinyconv.layers.Dense(1)])
        model.compile(backend="reference")
        assert model.predict(np.ones((1, 2), np.float32), verbose=0).shape == (1, 1)
        for use in (lambda: tinyconv.kernels.load("cpu"), lambda: tinyconv.set_threads(1)):
            try:
                use()
            except RuntimeError as error:
                print(error)
    """
    first, second = run(program, **{variable: value}).splitlines()
    assert first == second
    assert variable in first
    assert first.endswith(f"Fix: {fix}." if "install" not in fix else "(pip install tbb).")


@pytest.mark.skipif(not X86, reason="names processors of another kind")
@pytest.mark.slow  # CI has tests/test_cpu_conv.py for narrower vectors
def test_narrower_processors_compute_the_same():
    """Both at once, as they spend their time in the compiler."""

    def vectors(name, features):
        settings = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
        return run(MANY_KERNELS, **settings)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(pool.map(vectors, ("haswell", "nehalem"), ("+avx,+avx2,+fma", ""))) == ["8 16", "4 16"]


def test_vectors_of_this_processor():
    assert host.LANES in (4, 8, 16)
    assert host.REGISTERS in (16, 32)
    if X86 and sys.platform == "linux":
        assert (host.LANES == 16) == (" avx512f " in Path("/proc/cpuinfo").read_text())


@pytest.mark.long
def test_kernels_stay_within_bounds():
    assert run(MANY_KERNELS, NUMBA_BOUNDSCHECK="1") == f"{host.LANES} {host.REGISTERS}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.name for file in HERE.glob("test_cpu_*.py") if file != Path(__file__)))
def test_all_kernels_stay_within_bounds(name):
    """The kernels' own tests again, with bounds checks."""
    settings = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=1800)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.long
def test_bounds_checks_find_a_label_out_of_range(threads):
    program = """
        import numpy as np
        from tinyconv.kernels import cpu
        try:
            cpu.gather_one_hot(np.zeros((1, 3), np.float32), np.array([3]), np.array([0]), np.zeros(3, np.int64))
        except IndexError as error:
            print(error)
    """
    found = run(program, NUMBA_BOUNDSCHECK="1", NUMBA_NUM_THREADS=threads)
    assert found == "An index was out of bounds in the kernel _gather_one_hot."


# Two Python threads call a parallel kernel at the same time.
TWO_THREADS = """
import threading
import numpy as np
from tinyconv.kernels.cpu import activation; from tinyconv.kernels.cpu.runtime import threads
wrong = []
def work(value):
    x, out = np.full(100000, value, np.float32), np.zeros(100000, np.float32)
    for _ in range(30):
        out[:] = 0
        activation.activation_forward(out, x, "relu", ())
        if (out != value).any():
            wrong.append(value)
        activation.softmax_forward(out.reshape(-1, 10), x.reshape(-1, 10))
        if (abs(out - 0.1) > 1e-6).any():
            wrong.append(value)
workers = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(threads.LAYER, threads.threading_layer(), len(wrong))
"""

WITHOUT_TBB = 'import sys; sys.modules["numba.np.ufunc.tbbpool"] = None\n'
has_omp = pytest.mark.skipif(not threads._importable("omppool"), reason="no OpenMP library here")


OMP = pytest.param("omp", marks=[has_omp, pytest.mark.long])


@pytest.mark.parametrize("layer", [*few(["default", "workqueue"]), OMP])
def test_two_python_threads_may_call_kernels_at_once(layer):
    expected = threads.LAYER if layer == "default" else layer
    assert run(TWO_THREADS, NUMBA_THREADING_LAYER=layer) == f"{expected} {expected} 0"


@pytest.mark.skipif("NUMBA_THREADING_LAYER" in os.environ, reason="the user has chosen another")
def test_tbb_is_found_where_pip_installed_it():
    try:
        metadata.version("tbb")
    except metadata.PackageNotFoundError:
        pytest.skip("no TBB here")
    assert threads.LAYER == threads.threading_layer() == "tbb"


@has_omp
@pytest.mark.long
def test_without_tbb_it_is_openmp_whose_threads_sleep_while_they_wait():
    program = TWO_THREADS + "import os; print(os.environ['OMP_WAIT_POLICY'])"
    assert run(WITHOUT_TBB + program) == "omp omp 0\npassive"
    assert run(WITHOUT_TBB + program, OMP_WAIT_POLICY="active") == "omp omp 0\nactive"


@pytest.mark.long
def test_without_either_it_is_workqueue():
    without = WITHOUT_TBB + 'sys.modules["numba.np.ufunc.omppool"] = None\n'
    assert run(without + TWO_THREADS) == "workqueue workqueue 0"


@pytest.mark.skipif(threads.LAYER != "tbb" or not hasattr(os, "fork"), reason="only TBB survives a fork")
def test_a_forked_child_may_call_kernels():
    program = """
        import os
        import numpy as np
        from tinyconv.kernels.cpu import activation
        x = np.ones(100000, np.float32)
        out = np.zeros_like(x)
        rows = x.reshape(-1, 10), out.reshape(-1, 10)
        activation.activation_forward(out, x, "relu", ())
        activation.softmax_forward(*rows[::-1])
        child = os.fork()
        if child == 0:
            out[:] = 0
            activation.activation_forward(out, x, "relu", ())
            right = out.all()
            out[:] = 0
            activation.softmax_forward(*rows[::-1])
            os._exit(7 if right and (abs(out - 0.1) < 1e-6).all() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        activation.activation_forward(out, x, "relu", ())
    """
    assert run(program) == "7"


def test_setting_the_number_of_threads():
    most = numba.config.NUMBA_NUM_THREADS
    try:
        threads.set_threads(1)
        assert threads.get_threads() == 1
        threads.set_threads(most)
        assert threads.get_threads() == most
        threads.set_threads(np.int64(1))
        assert threads.get_threads() == 1
        expected = rf"Expected a whole number from 1 to {most}\. Received: count="
        for count in (0, -1, most + 1, 10**30):
            with pytest.raises(ValueError, match=f"{expected}{count}"):
                threads.set_threads(count)
        for count in (1.0, 1.5, True, np.True_, "2", None, float("nan"), float("inf"), [1], np.ones(2)):
            with pytest.raises(TypeError, match=expected + re.escape(repr(count))):
                threads.set_threads(count)
        assert threads.get_threads() == 1
    finally:
        threads.set_threads(most)


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_threads_of_a_process():
    program = """
        import hashlib
        import numpy as np
        from tinyconv.kernels import cpu
        rng = np.random.default_rng(0)
        digest = hashlib.sha256()
        x = rng.standard_normal((3000, 50)).astype(np.float32)
        out, mean, inv_std, a, b = (np.zeros(shape, np.float32) for shape in (x.shape, 50, 50, 50, 50))
        cpu.batch_norm_forward(out, mean, inv_std, a, b, x, a, b, 0.9, 1e-3)
        digest.update(mean), digest.update(inv_std)
        cpu.activation_forward(out.reshape(-1), x.reshape(-1), "sigmoid", ())
        digest.update(out)
        cpu.softmax_forward(out, x)
        digest.update(out)
        print(digest.hexdigest())
    """
    assert len({run(program, NUMBA_NUM_THREADS=count) for count in ("1", "2", "5")}) == 1


def test_shares_cover_every_element_once():
    for size in (0, 1, 15, 16, 17, cutting.PIECE - 1, cutting.PIECE, cutting.PIECE + 1, 5 * cutting.PIECE + 7):
        for tasks in {1, 3, cutting.pieces(size), cutting.pieces(size, 4)}:
            for share in (cutting.share, cutting.share_in_lines):
                covered = np.zeros(size, int)
                for task in range(tasks):
                    start, stop = share(task, tasks, size)
                    covered[start:stop] += 1
                assert (covered == 1).all()


def test_the_set_has_the_memory_functions():
    array = cpu.allocate((3, 5), np.float32)
    assert array.ctypes.data % 64 == 0
    cpu.upload(array, np.ones((3, 5), np.float32))
    cpu.record([(cpu.activation_forward, (array.reshape(-1), -array.reshape(-1), "relu", ()))])()
    assert (array == 0).all()
