"""Callbacks: code that is told what training is doing, with Keras' names, arguments and hooks in Keras' order."""

from tinyconv.callbacks.base import Callback, CallbackList, History
from tinyconv.callbacks.checkpoints import BackupAndRestore, ModelCheckpoint
from tinyconv.callbacks.monitors import EarlyStopping, Monitor, ReduceLROnPlateau, TerminateOnNaN
from tinyconv.callbacks.observers import CSVLogger, LambdaCallback, LearningRateScheduler

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
    "Monitor",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
