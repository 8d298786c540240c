"""A mistake: a line of the reference written wrong, in a copy of its file."""

import contextlib
import difflib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tinyconv.kernels import reference

_making = threading.RLock()


@dataclass(frozen=True)
class Mistake:
    """A line of a reference kernel, and what someone wrote instead.

    ``name``: to ask for it by. ``says``: what is wrong, in a sentence. ``kernel``: the function of the contract that
    then computes something else; ``also``: another with the same line. ``helper``: the function that has the line, if
    it is not the kernel itself. ``right`` and ``wrong``: the text, and what stands in its place. ``network``: the one
    of :data:`~tinyconv.inspect.mistakes.networks.NETWORKS` that shows it. ``seen``: whether a gradient check can see
    it; one that sits in the optimiser, say, leaves all gradients right.
    """

    name: str
    says: str
    kernel: str
    right: str
    wrong: str
    network: str = "cnn"
    helper: str = ""
    also: str = ""
    seen: bool = True

    @property
    def module(self) -> ModuleType:
        """The file of the reference that has the line."""
        return sys.modules[getattr(reference, self.kernel).__module__]

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions that have the line."""
        return tuple(filter(None, (self.helper or self.kernel, self.also)))

    def sources(self, function: str) -> tuple[str, str]:
        """A function as it stands in the reference, and with the mistake."""
        source = inspect.getsource(getattr(self.module, function))
        if source.count(self.right) != 1:
            raise RuntimeError(f"The mistake {self.name!r} is out of date: {function} has no such line any more.")
        return source, source.replace(self.right, self.wrong)

    @property
    def diff(self) -> str:
        """The right lines with a minus before them, the wrong ones with a plus."""
        pairs = (self.sources(function) for function in self.functions)
        lines = [line for a, b in pairs for line in difflib.ndiff(a.splitlines(), b.splitlines())]
        return "\n".join(line for line in lines if line.startswith(("-", "+")))

    @functools.cached_property
    def kernels(self) -> dict[str, Callable[..., None]]:
        """The kernels of that file, from a copy that has the mistake."""
        text = inspect.getsource(self.module)
        for function in self.functions:
            text = text.replace(*self.sources(function))
        copy = ModuleType(self.module.__name__)
        exec(compile(text, f"<{self.name}>", "exec"), copy.__dict__)
        own = {name: value for name, value in vars(copy).items() if name in reference.__all__}
        return {name: value for name, value in own.items() if value.__module__ == copy.__name__}

    def __str__(self) -> str:
        return f"{self.name}: {self.says}"


def _not_fused(kernel: Callable[..., None]) -> Callable[..., None]:
    """In place of a fused kernel, which would quietly do without the mistake."""

    @functools.wraps(kernel)  # so that it has the kernel's arguments, for whoever asks what these are
    def refuse(*arguments: Any, **named: Any) -> None:
        raise ValueError("A mistake is made in a kernel that a fused step does not call. Fix: compile(fuse=False).")

    return refuse


FUSED = {name: _not_fused(getattr(reference, name)) for name in reference.__all__ if "_relu_" in name}


@contextlib.contextmanager
def made(mistake: Mistake) -> Iterator[None]:
    """Inside of the block the reference computes with the mistake; behind it, as before.

    It takes effect on what is lowered within: a model must be compiled with ``backend="reference", fuse=False``, and
    fitted or traced for the first time inside. That model's plans keep the mistake. One block at a time: another thread
    waits.

    >>> with made(MISTAKES["filters-not-turned"]):
    ...     model.compile("adam", "sparse_categorical_crossentropy", backend="reference", fuse=False)
    ...     model.fit(x, y)
    ...     print(model.trace(x[:8], y[:8]).check())
    """
    with _making:
        changed = {**FUSED, **mistake.kernels}
        before = {name: getattr(reference, name) for name in changed}
        try:
            for name, kernel in changed.items():
                setattr(reference, name, kernel)
            yield
        finally:
            for name, kernel in before.items():
                setattr(reference, name, kernel)
