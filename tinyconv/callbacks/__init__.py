"""Callbacks: code that is told what training is doing, with Keras' names, arguments and hooks in Keras' order."""

from typing import Any

from tinyconv.callbacks.base import Callback, CallbackList, History
from tinyconv.callbacks.checkpoints import BackupAndRestore, ModelCheckpoint
from tinyconv.callbacks.monitors import EarlyStopping, MonitorCallback, ReduceLROnPlateau, TerminateOnNaN
from tinyconv.callbacks.observers import CSVLogger, LambdaCallback, LearningRateScheduler
from tinyconv.checking.messages import suggest

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "MonitorCallback",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]

# What to use instead of a callback of Keras that tinyconv does not have.
INSTEAD = {
    "OrbaxCheckpoint": "ModelCheckpoint, or BackupAndRestore for a run that may be interrupted",
    "ProgbarLogger": "fit(verbose=1), which shows a bar",
    "RemoteMonitor": "LambdaCallback(on_epoch_end=...) with a function that sends the logs",
    "SwapEMAWeights": "a Callback of your own that averages model.get_weights() in on_train_batch_end",
    "TensorBoard": "CSVLogger for a table, History.plot() for curves, or LambdaCallback",
}


def __getattr__(name: str) -> Any:
    if name in INSTEAD:
        raise AttributeError(f"tinyconv.callbacks has no {name}, which Keras has. Fix: {INSTEAD[name]}.")
    hint = "" if name.startswith("_") else f" {suggest(name, __all__)}"
    raise AttributeError(f"module 'tinyconv.callbacks' has no attribute {name!r}.{hint}")
