"""The thread that prepares the next batches while this one is trained."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinyconv.checking.messages import warn

AHEAD = 2  # batches that are prepared before they are asked for: so many, and the one in use, are in memory
LOOK_UP = 0.01  # seconds of waiting after which others may use the model
PATIENCE = 5.0  # seconds that a run waits at its end for a thread that is in somebody else's code


@dataclass(frozen=True)
class _Failure:
    """What went wrong in the thread, on its way to the caller."""

    error: BaseException


class Reader:
    """Batches from an iterator, read and prepared in a thread of its own, never more than :data:`AHEAD` in advance.

    Args:
        batches: the iterator. The thread is the only one to use it, until the reader is closed.
        prepare: what makes of each the arrays that the kernels take; called in the thread.
        finish: called in the thread at the end, also after an error.
    """

    def __init__(self, batches: Iterator[Any], prepare: Callable[[Any], Any], finish: Callable[[], Any]) -> None:
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._free = threading.Semaphore(AHEAD)
        self._closed = False
        self._held: list[Any] = []  # what peek() has seen
        arguments = (batches, prepare, finish)
        self._thread = threading.Thread(target=self._work, args=arguments, name="tinyconv-reader", daemon=True)
        self._thread.start()

    def next(self, meanwhile: Callable[[], None]) -> Any:
        """The next batch, None after the last one; raises what was raised in the thread. While there is nothing to do
        but wait, ``meanwhile`` is called now and then."""
        item = self._held.pop() if self._held else self._take(meanwhile)
        if isinstance(item, _Failure):
            raise item.error
        if item is None:
            self._held.append(None)  # the end stays the end
        return item

    def is_at_end(self, meanwhile: Callable[[], None]) -> bool:
        """Whether no batch is left; waits until that is known."""
        if not self._held:
            self._held.append(self._take(meanwhile))
        return self._held[0] is None

    def close(self) -> None:
        """End the thread, and wait for it for a while."""
        self._closed = True
        self._free.release()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            warn(
                f"The data's own code has not returned a batch for {PATIENCE:g} s. The thread that called it ends as "
                "soon as it does."
            )

    def _take(self, meanwhile: Callable[[], None]) -> Any:
        while True:
            try:
                item = self._ready.get(timeout=LOOK_UP)
            except queue.Empty:
                if not self._thread.is_alive() and self._ready.empty():
                    raise RuntimeError("The thread that reads the data is gone: a fork has not copied it.") from None
                meanwhile()
            else:
                self._free.release()
                return item

    def _work(self, batches: Iterator[Any], prepare: Callable[[Any], Any], finish: Callable[[], Any]) -> None:
        try:
            try:
                for item in self._prepared(batches, prepare):
                    self._ready.put(item)
                    del item  # it is the taker's now
            finally:
                finish()
            self._ready.put(None)
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the data
            self._ready.put(_Failure(error))

    def _prepared(self, batches: Iterator[Any], prepare: Callable[[Any], Any]) -> Iterator[Any]:
        while True:
            self._free.acquire()
            if self._closed:
                return
            try:
                batch = next(batches)
            except StopIteration:
                return
            batch = prepare(batch)
            yield batch
            del batch
