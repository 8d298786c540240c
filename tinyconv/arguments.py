"""Checks of the arguments of compile, fit, evaluate and predict."""

import os
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.messages import refuse, suggest


def resolve_backend(backend: str | None) -> str:
    """The backend asked for, by argument or environment; checked, but "auto" is not decided yet."""
    source = "backend" if backend is not None else "TINYCONV_BACKEND"
    backend = backend if backend is not None else os.environ.get("TINYCONV_BACKEND") or "auto"
    if backend not in ("auto", *kernels.NAMES):
        raise ValueError(f"Unknown {source}: {backend!r}. {suggest(backend, ['auto', *kernels.NAMES])}")
    return backend


def load_backend(backend: str) -> ModuleType:
    """The kernel set of that name; "auto": CUDA where a GPU is usable, else the CPU's."""
    if backend != "auto":
        return kernels.load(backend)
    return kernels.load("cuda" if kernels.cuda_usable() else "cpu")


def refuse_compile_arguments(unsupported: dict[str, Any]) -> None:
    """compile's further arguments in Keras: accepted where they change nothing."""
    neutral: dict[str, tuple[Any, ...]] = {
        "loss_weights": (None,),
        "weighted_metrics": (None, []),
        "run_eagerly": (False,),
        "steps_per_execution": (1,),
        "jit_compile": ("auto", True, False),
        "auto_scale_loss": (True, False),
    }
    refuse("compile()", unsupported, neutral)


def refuse_fit_arguments(unsupported: dict[str, Any]) -> None:
    """fit's further arguments in Keras: accepted where they change nothing."""
    names = ("class_weight", "sample_weight", "steps_per_epoch", "validation_steps")
    refuse("fit()", unsupported, dict.fromkeys(names, (None,)))


def count_of(name: str, value: Any, default: int, at_least: int = 1) -> int:
    """An integer of at least ``at_least``; ``default`` for None."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"Invalid {name}. Expected an integer of at least {at_least}. Received: {value!r}.")
    return int(value)
