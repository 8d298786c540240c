"""Keras' names for training on several devices: here, in the processes of an MPI job."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from tinyconv.checking import choice, integer, invalid
from tinyconv.checking.messages import explained, refuse
from tinyconv.distribution.faults import Watch
from tinyconv.distribution.ranks import Ranks

SHARDS = 8

_ranks: Ranks | None = None
_watch: Watch | None = None
_distribution: "DataParallel | None" = None


@explained
def initialize(job_addresses: None = None, num_processes: None = None, process_id: None = None) -> None:
    """Begin to be one of the processes that ``mpiexec -n N python program.py`` has started.

    :class:`DataParallel` does it too. Keras' arguments are for programs that find each other without mpiexec; they must
    be None.

    Raises:
        ImportError: mpi4py is not installed: pip install 'tinyconv[mpi]'.
    """
    given = {"job_addresses": job_addresses, "num_processes": num_processes, "process_id": process_id}
    refuse("initialize()", given, dict.fromkeys(given, (None,)))
    global _ranks, _watch
    if _ranks is None:
        _ranks = Ranks()
        _watch = Watch(_ranks)


@explained
def list_devices(device_type: str | None = None) -> list[str]:
    """The devices of the job: ["cpu:0", "cpu:1", ...], one for each process; of other types than "cpu", none."""
    if device_type is not None and choice("list_devices", "device_type", device_type, ["cpu", "gpu", "tpu"]) != "cpu":
        return []
    initialize()
    assert _ranks is not None
    return [f"cpu:{rank}" for rank in range(_ranks.size)]


@explained
def get_device_count(device_type: str | None = None) -> int:
    """How many devices :func:`list_devices` lists."""
    return len(list_devices(device_type))


class DataParallel:
    """Every batch is shared by all processes of the job, which hold a copy of the model each.

    >>> keras.distribution.set_distribution(keras.distribution.DataParallel())
    >>> model.fit(...)  # under mpiexec -n N, on every process

    All processes run the same program with the same data; the weights are rank 0's. Only rank 0 prints, calls callbacks
    and writes files; what callbacks change, all take over. ``fit``, ``evaluate``, ``predict``, ``train_on_batch`` and
    ``test_on_batch`` are calls of all of them together; everything else is each one's own, a call of the model and
    ``predict_on_batch`` too. The bits of the result depend on ``shards``, and not on the number of processes.

    Of arrays each process takes its samples. Of data sets each batch is read once, by one process that hands the others
    their samples: a PyDataset and a folder of images by all in turns, if the first batch is the same when it is read
    twice, and on all of them; a batch must then depend on its number alone, and on the epoch. A data set of which that
    is not so is read by rank 0, in order, and so is what cannot be read by number: a generator, a tf.data.Dataset, a
    DataLoader. ``predict`` gives each process whole batches, and all of them the outputs of all.

    Args:
        device_mesh: Keras' only; must be None.
        devices: must be None, or all that :func:`list_devices` lists.
        auto_shard_dataset: must be True: each process is given the same data, and takes its part.
        shards: into how many parts a batch is cut, a power of two: as many processes can take part.

    Raises:
        ImportError: mpi4py is not installed.
        ValueError: there are more processes than shards, or an argument is not supported.
    """

    @explained
    def __init__(
        self,
        device_mesh: None = None,
        devices: Sequence[str] | None = None,
        auto_shard_dataset: bool = True,
        *,
        shards: int = SHARDS,
    ) -> None:
        given = {"device_mesh": device_mesh, "auto_shard_dataset": auto_shard_dataset}
        refuse("DataParallel", given, {"device_mesh": (None,), "auto_shard_dataset": (True,)})
        self.shards = integer("DataParallel", "shards", shards)
        if self.shards & (self.shards - 1):
            raise invalid("DataParallel", "shards", "a power of two", shards)
        known = list_devices()
        if devices is not None and list(devices) != known:
            raise invalid("DataParallel", "devices", f"None, or {known}", devices)
        if len(known) > self.shards:
            raise ValueError(
                f"A batch of {self.shards} shards cannot be shared by {len(known)} processes. Expected at most "
                f"{self.shards}. Fix: fewer processes, or DataParallel(shards=...) with a larger power of two, which "
                "changes the bits of the result."
            )
        assert _ranks is not None
        self.ranks = _ranks

    @property
    def auto_shard_dataset(self) -> bool:
        """True: each process takes its part of the data itself."""
        return True

    @property
    def rank(self) -> int:
        """The number of this process; 0 is the one that prints, calls callbacks and writes files."""
        return self.ranks.rank

    def __repr__(self) -> str:
        return f"<DataParallel rank {self.ranks.rank} of {self.ranks.size}, {self.shards} shards>"


@explained
def set_distribution(value: DataParallel | None) -> None:
    """From now on models are trained like that; None: by this process alone."""
    global _distribution
    if value is not None and not isinstance(value, DataParallel):
        raise invalid("set_distribution", "value", "a DataParallel, or None", value)
    _distribution = value


def distribution() -> DataParallel | None:
    """What :func:`set_distribution` was given last."""
    return _distribution


def together() -> DataParallel | None:
    """The distribution, if what happens now happens on all ranks: not so in callbacks, nor in other threads."""
    current = _distribution
    if current is None or current.ranks.is_alone or threading.get_ident() != current.ranks.thread:
        return None
    return current


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What this process does inside of it the others take no part in: pictures of a model, say."""
    current = together()
    with contextlib.nullcontext() if current is None else current.ranks.alone():
        yield


def leads() -> bool:
    """Whether this process speaks for all: prints, calls callbacks, writes files."""
    current = together()
    return current is None or current.ranks.rank == 0
