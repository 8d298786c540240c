"""The base class of data sets that are read by number of batch, with Keras' interface."""

import itertools
from collections.abc import Iterator
from typing import Any

from tinyconv.checking import integer
from tinyconv.checking.messages import refuse

SETTINGS: dict[str, Any] = {"workers": 1, "use_multiprocessing": False, "max_queue_size": 10}
HOOKS = ("on_epoch_begin", "on_epoch_end")


class PyDataset:
    """Batches by their numbers: override ``__getitem__`` and ``__len__``.

    >>> class Squares(PyDataset):
    ...     def __len__(self):
    ...         return 100
    ...     def __getitem__(self, index):
    ...         x = np.full((32, 1), index)
    ...         return x, x**2

    ``self[index]`` is a whole batch: ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``. ``len(self)`` is the number of
    batches; override the property ``num_batches`` instead to return None, where there is no end. ``fit`` reads the
    batches in another order each epoch unless ``shuffle=False``. It calls ``on_epoch_begin`` and ``on_epoch_end``
    around each epoch, and ``on_epoch_end`` once before the first, as Keras does.

    Args:
        workers: how many threads call ``__getitem__``.
        use_multiprocessing: Keras' only; must be False.
        max_queue_size: the most batches that several workers prepare in advance.
    """

    workers, use_multiprocessing, max_queue_size = SETTINGS.values()  # of a class that does not call ours

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10) -> None:
        self.workers = integer("PyDataset", "workers", workers, at_least=0)
        self.max_queue_size = integer("PyDataset", "max_queue_size", max_queue_size)
        check_no_processes(use_multiprocessing)
        self.use_multiprocessing = False

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__(index), which returns a batch.")

    def __iter__(self) -> Iterator[Any]:
        count = self.num_batches
        for index in itertools.count() if count is None else range(count):
            yield self[index]

    @property
    def num_batches(self) -> int | None:
        """The number of batches; None: there is no end."""
        if hasattr(self, "__len__"):
            return len(self)
        raise NotImplementedError(f"{type(self).__name__} has no __len__(), which returns the number of batches.")

    def on_epoch_begin(self) -> None:
        """Called at the beginning of an epoch."""

    def on_epoch_end(self) -> None:
        """Called at the end of an epoch."""


def check_no_processes(use_multiprocessing: Any) -> None:
    """Refuse workers that are processes."""
    refuse("PyDataset", {"use_multiprocessing": use_multiprocessing}, {"use_multiprocessing": (False,)})
