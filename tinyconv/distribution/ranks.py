"""The processes of an MPI job: what they tell each other, and how they wait for each other.

A message goes straight from each rank to each other, so that a rank that waits knows for whom. Waiting begins by asking
again and again, and giving way to other processes in between; when that was in vain, the rank naps between two looks.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tinyconv.checking.extras import need

DATA, TALK, GONE, PLACE = 1, 2, 3, 4  # tags of messages
SPIN = 0.005  # seconds of asking again and again
NAP = 0.0002  # seconds between two looks, then
DOUBT = 2.0  # seconds after which a rank tells those it waits for where it is itself
LAST = 5.0  # seconds of waiting after which Ctrl-C ends it, whatever the others do
PATIENCE = 30.0  # seconds after which a person is told whom the others wait for

WORD, SAMPLES, NUMBERS = "another message", "samples of a batch", "numbers of a batch"  # what ranks wait for
SAME_PROGRAM = (
    "Expected all ranks to run the same program: fit, evaluate and predict are called on all of them, or on none, and "
    "see as many batches."
)

_give_way: Callable[[], Any] = getattr(os, "sched_yield", lambda: time.sleep(0))


class RankError(RuntimeError):
    """Another rank went wrong, and this one has only heard of it."""


class Ranks:
    """All processes of the job; this one is number ``rank`` of ``size``, and the ``neighbour``-th of its machine, which
    has processors for so many ``threads`` of it."""

    def __init__(self) -> None:
        self.mpi = need("Training on several machines, or in several processes, needs", "mpi4py.MPI", "mpi4py")
        self.comm = self.mpi.COMM_WORLD.Dup()
        self.rank: int = self.comm.Get_rank()
        self.size: int = self.comm.Get_size()
        here = self.comm.Split_type(self.mpi.COMM_TYPE_SHARED)
        self.neighbour: int = here.Get_rank()
        processors = here.allgather(_processors())
        self.threads = max(1, min(len(processors[self.neighbour]), len(set().union(*processors)) // here.Get_size()))
        self.thread = threading.get_ident()  # the only one that speaks for this rank
        self.waits = 0  # how often this rank has waited, as all ranks have when they come to the same line
        self.interrupted = False  # Ctrl-C was pressed, and the others do not know it yet
        self.is_alone = False

    @property
    def others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What this rank does inside of it the others do not take part in."""
        before, self.is_alone = self.is_alone, True
        try:
            yield
        finally:
            self.is_alone = before

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside of it Ctrl-C on one rank waits until all know of it: see :attr:`interrupted`; a second one does not.
        At its end it ends all."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: Any) -> None:
            if self.interrupted:
                signal.default_int_handler(number, frame)
            self.interrupted = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
            if any(self.everyone(self.interrupted)):
                raise KeyboardInterrupt
        finally:
            signal.signal(signal.SIGINT, before)
            self.interrupted = False

    # Objects

    def everyone(self, value: Any, what: str = WORD) -> list[Any]:
        """What each rank says, when all have said something; ``what``: what messages call it."""
        heard = self._talk(what, dict.fromkeys(self.others, value), self.others)
        return [heard.get(rank, value) for rank in range(self.size)]

    def first(self, value: Any = None) -> Any:
        """What rank 0 says."""
        return self.deal(0, [value] * self.size, WORD)

    def deal(self, dealer: int, values: Sequence[Any], what: str) -> Any:
        """What the ``dealer`` has for this rank: its ``values`` are for one rank each."""
        if self.rank != dealer:
            return self._talk(what, {}, [dealer])[dealer]
        self._talk(what, {rank: values[rank] for rank in self.others}, [])
        return values[dealer]

    def _talk(self, what: str, values: Mapping[int, Any], sources: Sequence[int]) -> dict[int, Any]:
        """Tell these ranks these values, and hear what the sources say."""
        packed = {id(value): pickle.dumps((what, value)) for value in values.values()}
        sent = {rank: self.comm.Isend(packed[id(value)], rank, TALK) for rank, value in values.items()}
        heard: dict[int, Any] = {}

        def done() -> bool:
            for rank in sources:
                if rank not in heard and (message := self.comm.Improbe(rank, TALK, status := self.mpi.Status())):
                    text = bytearray(status.Get_count(self.mpi.BYTE))
                    message.Recv([text, self.mpi.BYTE])
                    said, heard[rank] = pickle.loads(text)
                    if said != what:
                        raise RankError(
                            f"Rank {self.rank} waits for {what} of rank {rank}, which has sent {said}. {SAME_PROGRAM}"
                        )
            return not missing()

        def missing() -> list[int]:
            kept = {rank for rank, request in sent.items() if not request.Test()}  # not taken yet
            return sorted(kept.union(sources) - (heard.keys() - kept))

        self.wait(what, done, missing)
        return heard

    # Waiting

    def wait(self, what: str, done: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        """Until it is ``done``. Raises RankError if one of the ``missing`` ranks has ended, or waits for something else
        than ``what`` this one waits for."""
        began = time.monotonic()
        patience = PATIENCE
        place, said = (self.waits, what), False
        self.waits += 1
        while not done():
            waited = time.monotonic() - began
            if waited < SPIN:
                _give_way()
                continue
            late = missing()
            if waited > DOUBT and not said:
                self._notes = [self.comm.isend(place, rank, PLACE) for rank in late]
                said = True
            self._look(late, place, lambda: [] if done() else missing())
            if self.interrupted and waited > LAST:
                raise KeyboardInterrupt
            if waited > patience:
                self._complain(late, waited)
                patience *= 2
            time.sleep(NAP)

    def _look(self, late: list[int], place: tuple[int, str], still: Callable[[], list[int]]) -> None:
        """Whether it is in vain to wait for these. One that has ended may have sent what is missing just before: it is
        only when its last word is here that nothing else can come (``still`` missing)."""
        for rank in late:
            if self.comm.Iprobe(rank, GONE) and rank in still():
                raise RankError(
                    f"Rank {rank} has ended, and rank {self.rank} waits for it. {SAME_PROGRAM} Fix: see what it says."
                )
            if self.comm.Iprobe(rank, PLACE):
                number, what = self.comm.recv(source=rank, tag=PLACE)
                if number == place[0] and what != place[1]:
                    raise RankError(
                        f"Rank {self.rank} waits for {place[1]} of rank {rank}, which waits for {what}. {SAME_PROGRAM} "
                        "Fix: data with as many batches on each of them."
                    )

    def _complain(self, late: list[int], waited: float) -> None:
        if late and self.rank == min(set(range(self.size)) - set(late)):  # one is enough to say it
            names = f"rank {late[0]}" if len(late) == 1 else f"ranks {', '.join(map(str, late))}"
            text = f"Waiting for {names} for {waited:.0f} s. A slow one is waited for; Ctrl-C ends the run."
            print(text, file=sys.stderr, flush=True)


def _processors() -> set[int]:
    """Those that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class Exchange:
    """Arrays that this rank sends to each other one, and arrays that take what each of them sends; again and again."""

    def __init__(self, ranks: Ranks, sent: Sequence[Sequence[Any]], received: Sequence[Sequence[Any]]) -> None:
        self.ranks, comm = ranks, ranks.comm
        self._sources = [rank for rank in ranks.others for _ in received[rank]]
        arrays = [array for rank in ranks.others for array in received[rank]]
        self._sizes = [array.nbytes for array in arrays]
        receiving = [comm.Recv_init(array, rank, DATA) for array, rank in zip(arrays, self._sources, strict=True)]
        sending = [comm.Send_init(array, rank, DATA) for rank in ranks.others for array in sent[rank]]
        self._requests = [*receiving, *sending]
        self._pending: list[int] = []  # numbers of requests
        self._status = ranks.mpi.Status()

    def __call__(self) -> None:
        if self._requests:
            self.ranks.mpi.Prequest.Startall(self._requests)
            self._pending = list(range(len(self._requests)))
            self.ranks.wait(NUMBERS, self._done, self._missing)

    def _done(self) -> bool:
        # One after the other, as only MPI_Test says reliably what a persistent request has received.
        self._pending = [number for number in self._pending if not self._has_come(number)]
        return not self._pending

    def _has_come(self, number: int) -> bool:
        come: bool = self._requests[number].Test(self._status)
        if come and number < len(self._sources) and self._status.Get_count(self.ranks.mpi.BYTE) != self._sizes[number]:
            raise RankError(
                f"Rank {self._sources[number]} is not where rank {self.ranks.rank} is. Expected the same calls on all."
            )
        return come

    def _missing(self) -> list[int]:
        return sorted({self._sources[number] for number in self._pending if number < len(self._sources)})
