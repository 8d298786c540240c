"""More machines: one model trained by the processes of an MPI job, to the same bits however many they are.

Every batch is cut into a fixed number of shards. A shard's gradients are computed in the same way whichever process, or
"rank", has it; those of all shards are added in a fixed order, and every rank takes the same step with the sum. So the
number of ranks decides how long a run takes, and nothing else.

* :mod:`~tinyconv.distribution.parallel`: Keras' names;
* :mod:`~tinyconv.distribution.shards`: how a batch is cut, and in which order sums are added;
* :mod:`~tinyconv.distribution.ranks`: what ranks tell each other, and how they wait;
* :mod:`~tinyconv.distribution.faults`: how all of them end when one does;
* :mod:`~tinyconv.distribution.receipts`: what shows that two runs had the same result.

The work itself is in :mod:`tinyconv.training.sharded`.
"""

from typing import TYPE_CHECKING

from tinyconv.checking.absent import getter
from tinyconv.distribution.parallel import (
    DataParallel,
    distribution,
    get_device_count,
    initialize,
    list_devices,
    set_distribution,
)
from tinyconv.distribution.receipts import Receipt, receipt

__all__ = [
    "DataParallel",
    "Receipt",
    "distribution",
    "get_device_count",
    "initialize",
    "list_devices",
    "receipt",
    "set_distribution",
]

if not TYPE_CHECKING:
    __getattr__ = getter("distribution", __all__)
