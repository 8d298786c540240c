"""One lock per model, held by whatever reads or writes its weights.

It is *fair* (the thread that has waited longest is next), and its holder can enter it again. A training
run gives way between two batches (:meth:`ModelLock.give_way`), so that others see the weights as they are after a whole
step, and never wait for the end of the run.

A fork copies the forking thread alone. So all locks are taken before it (no weights are half written then), and the
child begins with new ones.
"""

import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

FORK_PATIENCE = 5.0  # seconds that a fork waits for one model; a thread that never lets go must not hold it up for ever


class ModelLock:
    """A fair lock that its holder may enter again. Models that share layers share their lock: see :func:`joined`."""

    def __init__(self) -> None:
        self._joined: ModelLock | None = None  # the lock that stands for this one
        self._reset(None, 0)
        _locks.add(self)

    def _reset(self, holder: int | None, depth: int) -> None:
        self._guard = threading.Lock()  # of the fields below; held for a few lines at a time
        self._holder, self._depth = holder, depth
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    @property
    def root(self) -> "ModelLock":
        """The lock that is held in place of this one: itself, unless it has been joined to another."""
        lock = self
        while lock._joined is not None:
            lock = lock._joined
        return lock

    def acquire(self, timeout: float = -1) -> bool:
        """Wait for the lock; False where ``timeout`` seconds were not enough."""
        while True:
            root = self.root
            if not root._acquire(timeout):
                return False
            if root is self.root:
                return True
            root._release()  # it was joined to another meanwhile

    def release(self) -> None:
        """Leave once; the last time, hand the lock to the thread that has waited longest."""
        self.root._release()

    def _acquire(self, timeout: float) -> bool:
        me = threading.get_ident()
        with self._guard:
            if self._holder in (None, me) and (self._holder == me or not self._waiting):
                self._holder, self._depth = me, self._depth + 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        got = False
        try:
            got = turn.acquire(timeout=timeout)
        finally:
            if not got:  # out of patience, or interrupted
                self._withdraw(me, turn)
        return got

    def _withdraw(self, me: int, turn: threading.Lock) -> None:
        """Wait no longer. The lock may have come just now: then it goes to the next."""
        with self._guard:
            waiting = (me, turn) in self._waiting
            if waiting:
                self._waiting.remove((me, turn))
        if not waiting:
            self._release()

    def _release(self) -> None:
        with self._guard:
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        self._holder = None
        if self._waiting:
            self._holder, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let others in for the length of a with-block, however often this thread has entered."""
        root = self.root
        with root._guard:
            depth, root._depth = root._depth, 0
            root._hand_on()
        try:
            yield
        finally:
            self.acquire()
            self.root._depth = depth

    @property
    def is_wanted(self) -> bool:
        """Whether another thread is waiting."""
        return bool(self.root._waiting)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def __deepcopy__(self, memo: Any) -> "ModelLock":
        return ModelLock()

    def __reduce__(self) -> tuple[type["ModelLock"], tuple[()]]:
        return ModelLock, ()  # a copy of a model has a lock of its own


def join(locks: Iterable[ModelLock]) -> None:
    """Make these one lock, from now on: what they guard is shared. As often as this thread has entered them, it has
    entered the one."""
    while True:
        roots = sorted({lock.root for lock in locks}, key=id)
        for root in roots:
            root._acquire(-1)
        settled = all(root is root.root for root in roots)
        if settled:
            entered = sum(root._depth - 1 for root in roots)
            for root in roots[1:]:
                root._joined, root._depth = roots[0], 1
            roots[0]._depth = entered + 1
        for root in roots:
            root._release()  # whoever waited for one of them finds that another stands for it
        if settled:
            return


_locks: weakref.WeakSet[ModelLock] = weakref.WeakSet()
_held_for_fork: list[ModelLock] = []


def _before_fork() -> None:
    _held_for_fork[:] = [lock for lock in list(_locks) if lock is lock.root and lock.acquire(FORK_PATIENCE)]


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().release()


def _after_fork_in_child() -> None:
    me = threading.get_ident()
    for lock in list(_locks):
        depth = lock._depth - (lock in _held_for_fork) if lock._holder == me else 0
        lock._reset(me if depth else None, depth)  # what this thread had entered before the fork, it will leave
    _held_for_fork.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class Locked(Protocol):
    """Whatever has a model's lock."""

    @property
    def _lock(self) -> ModelLock: ...


Self = TypeVar("Self", bound=Locked)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def locked(
    method: Callable[Concatenate[Self, Arguments], Result],
) -> Callable[Concatenate[Self, Arguments], Result]:
    """A method that holds its object's lock while it runs."""

    @functools.wraps(method)
    def holding(self: Self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self._lock:
            return method(self, *args, **kwargs)

    return holding
