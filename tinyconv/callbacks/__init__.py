"""Callbacks: code that is told what training is doing, with Keras' names, arguments and hooks in Keras' order."""

from typing import TYPE_CHECKING

from tinyconv.callbacks.base import Callback, CallbackList, History
from tinyconv.callbacks.checkpoints import BackupAndRestore, ModelCheckpoint
from tinyconv.callbacks.monitors import EarlyStopping, MonitorCallback, ReduceLROnPlateau, TerminateOnNaN
from tinyconv.callbacks.observers import CSVLogger, LambdaCallback, LearningRateScheduler
from tinyconv.checking.absent import getter

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

if not TYPE_CHECKING:
    __getattr__ = getter("callbacks", __all__)
