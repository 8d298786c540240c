"""Batches from anything that gives them: iterators, data sets that are read by number, or iterated anew each epoch.

One adapter for all of them, by what they can do and not by what they are: no other library is imported here.
"""

import hashlib
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from typing import Any

from tinyconv.checking import invalid
from tinyconv.distribution.parallel import DataParallel, together
from tinyconv.training.data import STEPS, Draw, warn_of_end
from tinyconv.training.dealer import Dealer
from tinyconv.training.py_dataset import HOOKS, SETTINGS, PyDataset, check_no_processes
from tinyconv.training.reader import Reader

ENDLESS = -1  # as a length; tf.data says so too
Prepare = Callable[[Any], Any]


class Stream:
    """The batches of a data set, epoch after epoch.

    A source is one of three things: an iterator, which is read once and belongs to whoever made it; a data set that is
    read by number, with ``__getitem__`` and a length (PyDataset), or with ``_by_number()``, which draws an order and
    returns what reads batches in it (ImageDataset); or one that is iterated again and again (tf.data.Dataset,
    DataLoader). With ``steps`` an epoch goes on where the last one ended; a source that has ended begins anew with the
    next epoch, but for an iterator, with which all is over.

    Ranks that share a run read what is read by number in turns, each a batch that it deals out (:class:`Dealer`), if
    the first batch is the same when it is read again, and for all of them. Everything else is read by rank 0 alone.

    Args:
        source: what gives the batches.
        argument: what messages call it: "x of fit".
        steps: the number of batches of an epoch; None: all there are.
        anew: whether each epoch begins with the first batch, whatever the last one has seen (not so of an iterator).
    """

    def __init__(self, source: Any, argument: str, steps: int | None = None, anew: bool = True) -> None:
        self.source, self.argument, self.steps = source, argument, steps
        numbered = hasattr(source, "__getitem__") and (hasattr(source, "__len__") or hasattr(source, "num_batches"))
        self.once = hasattr(source, "__next__") and not numbered
        self.anew = not self.once and (anew or steps is None)
        length = None if self.once else _length(source, argument)
        self.by_number = numbered and length is not None
        begin = (lambda: source.__getitem__) if self.by_number else getattr(source, "_by_number", None)
        self._begin: Callable[[], Callable[[int], Any]] | None = begin
        self.in_turns = False  # ranks share the reading
        self.again: Any = None  # the first batch, read by these once more
        self.length = None if length == ENDLESS else length
        if length == ENDLESS and steps is None:
            expected = "how many of its batches to take"
            raise ValueError(f"{self._named} has no end. Expected {expected}. Fix: {self._steps_name}=...")
        self.epochs = 1  # how many there will be: an iterator is not read further
        self.skip = 0  # batches to pass over, when the source is first begun
        self.draw: Draw | None = None  # the order of the batches, where they are read by number
        self._first: list[Any] = []  # a batch that has been read in advance, and the iterator that it came from
        self._reader: Reader | Dealer | None = None
        self._over = False  # an iterator has nothing left

    @property
    def count(self) -> int | None:
        """The number of batches of an epoch, if it is known."""
        return self.steps or self.length

    @property
    def _named(self) -> str:
        return f"The data set {self.argument}"

    @property
    def _steps_name(self) -> str:
        return STEPS.get(self.argument, "steps")

    def first(self, hold: bool = True) -> Any:
        """A batch, as the source gives it, before anything is trained on it. Unless it is to ``hold``, the source is
        begun anew for the first epoch: one that can be begun only once at a time may have begun for others meanwhile.
        """
        if not self._first:
            team = None if self._begin else together()
            self._first = self._begun(hold) if team is None or team.rank == 0 else [None]
            if team is not None:
                self._first[0] = team.ranks.first(self._first[0])
        return self._first[0]

    def _begun(self, hold: bool) -> list[Any]:
        """The first batch, and what the next ones come from if it is not begun anew for them."""
        if self.length == 0:
            raise self._empty()
        if self._begin is not None:
            read = self._begin()
            batch, self.again = read(0), together() and read(0)
            return [batch, read] if hold else [batch]
        batches = iter(self.source)
        try:
            batch = next(batches)
        except StopIteration:
            raise self._empty() from None
        if hold or self.once:
            return [batch, batches]
        getattr(batches, "close", int)()
        return [batch]

    def _empty(self) -> ValueError:
        fix = " An iterator that has been read to its end stays empty. Fix: make a new one." if self.once else ""
        return ValueError(f"{self._named} is empty. Expected at least one batch.{fix}")

    def has_more(self, meanwhile: Callable[[], None]) -> bool:
        """Whether there is anything left for another epoch."""
        if self.once and self._reader is not None:
            self._over = self._over or self._reader.is_at_end(meanwhile)
        return not self._over

    def epoch(self, begin: int, prepare: Prepare, meanwhile: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """The batches of an epoch with their numbers, from number ``begin`` on. ``prepare`` is called on each in the
        reader's thread, ``meanwhile`` now and then while there is none."""
        _call(self.source, "on_epoch_begin")
        number, fresh = begin, self._reader is None
        while self.steps is None or number < self.steps:
            self._reader = self._reader or self._open(prepare)
            batch = self._reader.next(meanwhile)
            if batch is None:
                self.close()
                if not fresh and number == begin and not self.once:  # the last epoch has taken them all
                    fresh = True
                    continue
                self._ended(number)
                break
            yield number, batch
            del batch
            number += 1
        if self.anew:
            self.close()
        _call(self.source, "on_epoch_end")

    def _ended(self, number: int) -> None:
        """There is no batch of this number."""
        self._over = self.once
        if number == 0:
            raise ValueError(
                f"{self._named} gives no batch when it is iterated again. Expected all of them each time. Fix: a data "
                f"set whose __iter__ begins anew, or {self._steps_name} and an iterator that does not end."
            )
        if self.steps is not None:
            warn_of_end(self.argument, self.steps, number)

    def reset(self) -> None:
        """Before a run: what a data set changes at the end of an epoch it changes before the first one too, as in
        Keras."""
        _call(self.source, "on_epoch_end")

    def close(self) -> None:
        """End the reader's thread. The iterator that it used is closed, unless it is somebody else's."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _open(self, prepare: Prepare) -> Reader | Dealer:
        """Begin the source; or go on, with an iterator. Of ranks that share a run each begins what it reads itself."""
        team, share = together(), slice(None)
        if team is not None and self.in_turns and self._is_hooked:
            self.in_turns = self._agrees(team)
        found: Reader | Dealer
        if team is None:
            found = self._reader_of(share, prepare)
        else:
            reads = self.in_turns or team.rank == 0
            share = slice(team.rank, None, team.ranks.size) if self.in_turns else share
            found = Dealer(team.ranks, self._reader_of(share, prepare) if reads else None, self.in_turns)
        self._first, self.skip = [], 0
        return found

    @property
    def _is_hooked(self) -> bool:
        """Whether the data set can be another one in the next epoch."""
        return any(getattr(type(self.source), hook, None) not in (None, getattr(PyDataset, hook)) for hook in HOOKS)

    def _agrees(self, team: DataParallel) -> bool:
        """Whether all ranks would read the same: they do not if each draws for itself what changes between epochs."""
        number = next(itertools.islice(self._numbers(), self.skip, None), None)
        batch = None if number is None else self.source[number]
        return len(set(team.ranks.everyone(hashlib.sha256(pickle.dumps(batch)).digest()))) == 1

    def _reader_of(self, share: slice, prepare: Prepare) -> Reader:
        """What reads this share of the batches that are to come."""
        first, held = self._first if len(self._first) == 2 else (None, None)
        most = None if self.steps is None else self.skip + self.steps * (1 if self.anew else self.epochs)
        batches: Iterator[Any]
        if self._begin is not None:
            numbers = itertools.islice(self._numbers(), self.skip, most)
            numbers = itertools.islice(numbers, share.start, None, share.step)
            batches = own = _by_number(self.source, held or self._begin(), numbers)
        else:
            own = iter(self.source) if held is None else held
            batches = itertools.islice(own if held is None else itertools.chain([first], own), self.skip, most)
        close = None if self.once else getattr(own, "close", None)
        return Reader(batches, prepare, close or (lambda: None))

    def _numbers(self) -> Iterator[int]:
        if self.length is None:
            return itertools.count()
        if self.by_number and self.draw is not None:
            return iter(self.draw(self.length).tolist())
        return iter(range(self.length))


def parts_of(batch: Any, argument: str) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights of samples, or None where a batch has none."""
    if not isinstance(batch, list | tuple):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        expected = "(x,), (x, y) or (x, y, sample_weight); several inputs are a tuple in place of x"
        raise ValueError(
            f"The data set {argument} gives something that is no batch. Expected {expected}. Received: a "
            f"{type(batch).__name__} of {len(batch)}."
        )
    x, y, weights = (*batch, None, None)[:3]
    return x, y, weights


def _length(source: Any, argument: str) -> int | None:
    """The number of batches; ENDLESS, or None where nobody knows."""
    if callable(getattr(source, "cardinality", None)):  # tf.data
        count = int(source.cardinality())
        return None if count < ENDLESS else count
    if hasattr(source, "num_batches"):  # PyDataset
        count = source.num_batches
        if count is not None and (not isinstance(count, Integral) or count < 0):
            raise invalid(argument, "num_batches", "the number of batches, or None", count)
        return ENDLESS if count is None else int(count)
    try:
        return len(source)
    except (TypeError, NotImplementedError):  # of a DataLoader: its data set has no length
        return None


def _by_number(source: Any, read: Callable[[int], Any], numbers: Iterator[int]) -> Iterator[Any]:
    """The batches of these numbers, in order; with several workers some are made at once."""
    workers, most = (getattr(source, name, SETTINGS[name]) for name in ("workers", "max_queue_size"))
    check_no_processes(getattr(source, "use_multiprocessing", False))
    if workers <= 1:
        for number in numbers:
            yield read(number)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tinyconv-worker")
    try:
        waiting = deque(pool.submit(read, number) for number in itertools.islice(numbers, most))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(read, number) for number in itertools.islice(numbers, 1))
            yield batch
            del batch
    finally:
        pool.shutdown(cancel_futures=True)


def _call(source: Any, hook: str) -> None:
    """What a PyDataset does between epochs."""
    if callable(getattr(source, hook, None)):
        getattr(source, hook)()
