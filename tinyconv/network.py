"""What callbacks, loops, files and pictures need of a model.

A protocol, so that these rooms, which models import, need not import models.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tinyconv.layers import InputLayer, Layer
from tinyconv.losses import Loss
from tinyconv.metrics import Metric
from tinyconv.optimizers import Optimizer
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import Graph
from tinyconv.plan.locks import ModelLock

Moments = Mapping[str, Mapping[str, np.ndarray]]  # of an optimiser: by slot and by "layer/weight"


class Network(Protocol):
    """A model, as seen from below: see :class:`tinyconv.Sequential` for what each of these is."""

    seed: Any
    stop_training: Any

    @property
    def name(self) -> str: ...
    @property
    def trainable(self) -> bool: ...
    @property
    def built(self) -> bool: ...
    @property
    def layers(self) -> list[Layer]: ...
    @property
    def input_shape(self) -> tuple[int | None, ...]: ...
    @property
    def output_shape(self) -> tuple[int | None, ...]: ...
    @property
    def optimizer(self) -> Optimizer | None: ...
    @property
    def loss(self) -> Loss | None: ...
    @property
    def metrics(self) -> Iterable[Metric]: ...

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer: ...
    def get_weights(self) -> list[np.ndarray]: ...
    def set_weights(self, weights: Sequence[np.ndarray]) -> None: ...
    def optimizer_state(self) -> Moments: ...
    def set_optimizer_state(self, moments: Moments) -> None: ...
    def restart(self, seed: int, iterations: int, moments: Moments) -> None: ...
    def totals(self) -> np.ndarray: ...

    _input: InputLayer | None
    _arenas: tuple[Arena, Arena] | None
    _compiled: dict[str, Any] | None
    _lock: ModelLock

    def _need_built(self) -> None: ...
    def _graph(self) -> Graph: ...
