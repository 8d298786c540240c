"""The one decorator that compiles the CPU kernels, where it keeps what it compiled, and how to watch it compile.

The flags, explained once:

* ``nogil``: a kernel touches no Python object, so other Python threads may run meanwhile.
* ``error_model="numpy"``: a division by zero gives inf or nan, as in NumPy, and no test for it stops vectorisation.
* ``fastmath``: "contract" lets the compiler fuse a * b + c into one instruction with one rounding. ``reassociate=True``
  also lets it reorder sums, without which a sum cannot be vectorised; the order it picks depends on the shapes alone.
  Never "nnan" or "ninf": a NaN must stay visible.
* ``_nrt=False``: no Numba runtime, so that a kernel that allocated an array would not compile, and that slices of
  arrays cost nothing. With it each slice counts itself in its array's reference count, which all threads fight for.
* ``parallel``: ``prange`` runs on several threads. Only one loop is one (``workers.py``); kernels are serial.

Kernels are compiled when they are first called, for the types they are called with, and kept on disk. Numba's own
cache would do, if it noticed an edit of a function that lies in another file than the cached function that inlined it,
did not raise where the disk is full, read-only or damaged, and did not run what others wrote into its folder
(``private.py``). :class:`KernelCache` cannot do wrong: at worst it is empty.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import re
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core import event
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import _nrt_python
from numba.core.serialize import dumps
from numba.core.types import unliteral

import tinyconv.kernels.cpu.runtime.private as private  # not "from": sources() looks for the file
import tinyconv.kernels.cpu.runtime.shipped as shipped
from tinyconv.kernels.cpu.runtime.threads import SETTINGS

KERNELS = Path(__file__).parents[2]  # of all sets
SUFFIX = ".nbc"


def jit(function=None, *, reassociate=False, **options):
    """Compile a kernel with the flags above, when it is first called. ``options`` are further ones of numba.njit."""
    if function is None:
        return functools.partial(jit, reassociate=reassociate, **options)
    flags = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc"} if reassociate else {"contract"},
        "_nrt": False,
        **options,
    }
    named = under_a_name_of_its_own(function)
    compiled: Any = numba.njit(**flags)(named)
    _take_numbers_as_such(compiled)
    if os.path.exists(function.__code__.co_filename):  # not so in a notebook
        compiled._cache = KernelCache(named, flags)
    return compiled


def _take_numbers_as_such(compiled: Any) -> None:
    """Called with a number that is known when the caller is compiled, ``f(x, 1)``, be no other function than with one
    that is not: Numba would compile it once more for each, which takes seconds and gains nothing."""
    template = compiled.get_call_template

    def get_call_template(args, kws):
        return template(tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()})

    compiled.get_call_template = get_call_template


def under_a_name_of_its_own(function: Callable) -> Callable:
    """The same function, called after what it was made of too, if another function made it.

    Machine code finds the functions that it calls by their names. Numba adds a number to each, but the numbers begin
    anew in every process: two functions of one name that were compiled in two processes, and come from the cache into
    a third, would be taken for one another.
    """
    if not function.__closure__:
        return function
    mark = hashlib.sha256(describe(function).encode()).hexdigest()[:12]
    code, scope = function.__code__, function.__globals__
    named = types.FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)
    functools.update_wrapper(named, function)
    del named.__wrapped__  # type: ignore[attr-defined]
    named.__qualname__ = f"{function.__qualname__}_{mark}"
    return named


class KernelCache(_Cache):
    """One file for each function, signature, processor and set of flags.

    A file is valid only for the sources of *all* functions that it was compiled from, and begins with the hash of its
    content. A file that is missing, stale or damaged is compiled anew and replaced; one that cannot be written is not.
    """

    def __init__(self, function: Callable, flags: dict[str, Any]):
        self._function = function
        self._flags = repr(sorted((name, str(sorted(f)) if name == "fastmath" else f) for name, f in flags.items()))
        self._stamp = source_stamp(function.__code__.co_filename)  # now, not after a later edit
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        folder = cache_folder()
        return None if folder is None else str(folder)

    def load_overload(self, sig, target_context):
        _name_helpers()
        for place in self._places(target_context.codegen()):
            try:
                path, identity = self._locate(sig, place)
                content = private.read(path, place.installed)
                if content.startswith(hashlib.sha256(content[32:]).digest() + identity):
                    return _rebuilt(target_context, *pickle.loads(content[64:]))
            except Exception:  # whatever is wrong with the file, compiling is right
                continue
        return None

    def save_overload(self, sig, data):
        if data.lifted or data.library.has_dynamic_globals:
            return
        try:
            (place,) = self._own(data.codegen)
            path, identity = self._locate(sig, place)
            content = identity + dumps(_reduced(data))
            private.replace(path, hashlib.sha256(content).digest() + content)
        except Exception:  # the disk is full, say: the next process compiles again
            return

    def holds(self, sig, target_context) -> bool:
        """Whether there is a file for the signature that is not stale; ``load_overload`` checks its content."""
        for place in self._places(target_context.codegen()):
            path, identity = self._locate(sig, place)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if file.read(64)[32:] == identity:
                    return True
        return False

    def enable(self):
        self._enabled = True

    def disable(self):
        self._enabled = False

    def flush(self):
        """Nothing to do: a stale file is replaced when its function is compiled again."""

    def _places(self, codegen) -> list[shipped.Place]:
        """Where to look: among what came with the installation, then where what is compiled here is kept."""
        return shipped.places() + self._own(codegen) if self._enabled else []

    def _own(self, codegen) -> list[shipped.Place]:
        folder = cache_folder() if self._enabled else None
        return [] if folder is None else [shipped.Place(folder, codegen.magic_tuple())]

    def _locate(self, sig, place: shipped.Place) -> tuple[Path, bytes]:
        """Where a compiled signature is kept, and the hash of everything that it depends on."""
        key = repr((describe(self._function), self._flags, str(sig), place.target, SETTINGS.BOUNDSCHECK))
        digest = hashlib.sha256(key.encode()).digest()
        module = self._function.__module__.rpartition(".")[2]
        name = f"{module}.{self._function.__qualname__}-{digest.hex()[:16]}{SUFFIX}".replace("<locals>.", "")
        return place.folder / name, hashlib.sha256(digest + self._stamp).digest()


def _reduced(result: CompileResult) -> tuple:
    """What a file keeps of a compiled function: Numba's own parts of it, with the names in its intermediate code in
    place of that, and that."""
    (name, kind, (machine_code, bitcode)), *rest = result._reduce()
    module = llvmlite.binding.parse_bitcode(bitcode)
    defined = [
        each.name for each in (*module.functions, *module.global_variables) if each.name and not each.is_declaration
    ]
    names = "\n".join(f'define void @"{each}"() {{ ret void }}' for each in defined)
    return ((name, kind, (machine_code, llvmlite.binding.parse_assembly(names).as_bitcode())), *rest), bitcode


def _rebuilt(target_context, parts: tuple, bitcode: bytes) -> CompileResult:
    """A function from a file. Its intermediate code, which takes several times the memory of machine code, is for those
    that inline it, and read when one of them is compiled."""
    result = CompileResult._rebuild(target_context, *parts)
    library = result.library

    def module_for_linking():
        if library._shared_module is None:
            library._shared_module = llvmlite.binding.parse_bitcode(bitcode)
        return library._shared_module

    library._shared_module, library._get_module_for_linking = None, module_for_linking
    return result


@functools.cache
def _name_helpers() -> None:
    """Tell LLVM where the functions in C are that machine code may call.

    Numba's own caches have it get ready to compile first, with the types and functions of all that it knows, which
    takes a fifth of a second and some 50 MB. To load what was compiled is possible without; it does so itself when it
    has to compile.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def describe(thing) -> str:
    """What a compiled function depends on beyond the sources: for one made by another function, what it closes over."""
    if isinstance(thing, Dispatcher):
        thing = thing.py_func
    if not inspect.isfunction(thing):
        return repr(thing)
    captured = [describe(cell.cell_contents) for cell in thing.__closure__ or ()]
    return f"{thing.__module__}.{thing.__qualname__}:{thing.__code__.co_firstlineno}({', '.join(captured)})"


@functools.cache
def source_stamp(file: str) -> bytes:
    """The hash of all that a function of that file is compiled from: the sources, and the compiler."""
    versions = f"{numba.__version__} {llvmlite.__version__} {sys.implementation.cache_tag}"
    contents = (read(path) for path in sorted(sources(Path(file))))
    return hashlib.sha256(b"\0".join([versions.encode(), *contents])).digest()


def sources(file: Path) -> set[Path]:
    """The file, the kernel files that it imports, and those that they import."""
    found, todo = set(), [file]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            modules = re.findall(rb"^\s*(?:from|import) tinyconv\.kernels\.([\w.]+)", read(path), re.MULTILINE)
            for module in modules:
                whole = KERNELS.joinpath(*module.decode().split("."))
                todo += whole.glob("*.py") if whole.is_dir() else [whole.with_suffix(".py")]
    return found


@functools.cache
def read(path: Path) -> bytes:
    return path.read_bytes()


@functools.cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR, else beside the sources, else in the user's cache folder; None
    if none of them is one that this user, and nobody else, can write."""
    from numba.misc.appdirs import user_cache_dir

    own = "tinyconv_" + hashlib.sha256(str(KERNELS).encode()).hexdigest()[:16]  # every installation has its own
    chosen = [Path(SETTINGS.CACHE_DIR, own).absolute()] if SETTINGS.CACHE_DIR else []
    of_user = Path(user_cache_dir("numba", False), own)  # begins with "~" where nobody knows the user's home
    problems = []
    for folder in (*chosen, KERNELS / "cpu" / "__pycache__", *([of_user] if of_user.is_absolute() else [])):
        try:
            private.prepare(folder)
        except OSError as error:
            problems.append(str(error))
            continue
        if problems and chosen:
            warnings.warn(
                f"Compiled kernels are kept in {folder}, not in NUMBA_CACHE_DIR: {problems[0]}.", stacklevel=2
            )
        private.sweep(folder, SUFFIX)
        private.sweep_siblings(folder, "tinyconv_" + "[0-9a-f]" * 16)
        return folder
    warnings.warn(
        f"Compiled kernels cannot be kept, so every run compiles them again: {'; '.join(problems)}. Fix: set "
        "NUMBA_CACHE_DIR to a folder that you can write, and nobody else.",
        stacklevel=2,
    )
    return None


class CompileWatch(event.Listener):
    """What has been compiled meanwhile: ``functions``, their names, and ``seconds``, how long it took."""

    def __init__(
        self,
        on_first: Callable[[], None] | None = None,
        on_each: Callable[[int, float], None] | None = None,
    ):
        self.functions: list[str] = []
        self.seconds = 0.0
        self._on_first = on_first
        self._on_each = on_each
        self._done = 0
        self._depth = 0  # compiling a function compiles those it calls

    def on_start(self, event):
        self._depth += 1  # before anything that Ctrl-C could interrupt
        if self._depth == 1:
            self._start = time.perf_counter()
        first = not self.functions
        self.functions.append(event.data["dispatcher"].py_func.__qualname__)
        if first and self._on_first:
            self._on_first()

    def on_end(self, event):
        if self._depth == 0:
            return  # begun before the watch, by another thread
        self._depth -= 1
        self._done += 1
        meanwhile = time.perf_counter() - self._start
        if self._on_each:
            self._on_each(self._done, self.seconds + meanwhile)
        if self._depth == 0:
            self.seconds += meanwhile


@contextlib.contextmanager
def compile_watch(
    on_first: Callable[[], None] | None = None, on_each: Callable[[int, float], None] | None = None
) -> Iterator[CompileWatch]:
    """Watch the compiler inside a with-block. ``on_first()`` is called before it compiles its first function there, and
    ``on_each(functions, seconds)`` after each: how many it has compiled, and how long that took so far.

    Nothing is compiled, and nothing called, where all functions are found in the cache.
    """
    watch = CompileWatch(on_first, on_each)
    with event.install_listener("numba:compile", watch):
        yield watch
