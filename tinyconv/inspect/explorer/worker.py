"""What training and breaking have in common: both work in the background of the page, on copies of the model."""

import threading
from typing import Any

import numpy as np

from tinyconv.initializers import drawn


class Worker:
    """A thread of its own, which runs :meth:`_live`. It begins when it is first roused; what others ask of it they
    write down while they hold ``_wake``."""

    def __init__(self) -> None:
        self._wake, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._live, daemon=True)

    def _rouse(self) -> None:
        """Let the thread look at what is asked for; ``_wake`` is held."""
        if not self._thread.is_alive() and not self._closed:
            self._thread.start()
        self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(10)

    def _live(self) -> None:
        raise NotImplementedError


def fresh_weights(model: Any, seed: int) -> list[np.ndarray]:
    """Weights as a new model would have them, in the order of ``set_weights``."""
    rng = np.random.default_rng(seed)
    return [drawn(repr(name), spec.initializer, spec.shape, rng) for name, _, spec in model._specs()]


def compiled_again(model: Any, optimizer: Any = None, **changes: Any) -> Any:
    """A copy, compiled as it was but for these changes; without metrics, unless some are given."""
    if model._compiled is None:
        model.compile(**changes)
    else:
        kept = {name: model._compiled[name] for name in ("loss_weights", "backend", "fuse")}
        model.compile(model.optimizer if optimizer is None else optimizer, model.loss, **{**kept, **changes})
    return model
