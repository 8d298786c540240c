"""Where seeds come from: one place to make a whole run repeatable."""

import random
import secrets
from numbers import Integral

import numpy as np

from tinyconv.checking import invalid
from tinyconv.checking.messages import explained

_generator: np.random.Generator | None = None  # None until a seed is set: then seeds come from the operating system
_last: int | None = None


@explained
def set_random_seed(seed: int) -> None:
    """Make everything random repeatable: initial weights, shuffling, dropout; also Python's and NumPy's own generators.

    The same seed followed by the same calls gives the same weights bit for bit, whatever the number of threads.
    ``seed`` is an integer from 0 to 2**32 - 1, the range NumPy takes.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise invalid("", "seed", "an integer from 0 to 2**32 - 1", seed)
    global _generator, _last
    _last = seed = int(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as Keras does: the user's own np.random calls are seeded too
    _generator = np.random.Generator(np.random.Philox(seed))


def last_seed() -> int | None:
    """The seed that was set last; None: none was."""
    return _last


def next_seed() -> int:
    """A fresh seed for a model or an initialiser, from 0 to 2**63 - 1 (so that compiled code sees an int64).

    After :func:`set_random_seed` it is the next number of a fixed sequence, else it is the operating system's entropy.
    """
    if _generator is None:
        return secrets.randbits(63)
    return int(_generator.integers(2**63))
