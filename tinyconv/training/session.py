"""One run of ``fit``, ``evaluate`` or ``predict``: what they share, and the loop over epochs."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tinyconv import kernels
from tinyconv.callbacks import CallbackList
from tinyconv.callbacks.base import Position
from tinyconv.checking.messages import warn
from tinyconv.training.data import Loop
from tinyconv.training.progress import Progress
from tinyconv.training.trainer import Trainer

FIX = "an iterator without an end, with {} for the batches of an epoch; or a data set that can be iterated again"


class Session:
    """A trainer's passes over data, with callbacks and something to look at, from the warm-up to a clean end.

    Args:
        trainer: what runs the passes.
        loop: the pass: of an epoch of ``fit``, or of the whole run.
        events: the callbacks.
        progress: what a person sees.
        validation: the pass over the validation data, for ``fit``.
    """

    def __init__(
        self, trainer: Trainer, loop: Loop, events: CallbackList, progress: Progress, validation: Loop | None = None
    ) -> None:
        self.trainer, self.loop, self.validation = trainer, loop, validation
        self.events, self.progress = events, progress

    def train(self, start: Position, epochs: int, shuffle: bool, validation_freq: int) -> None:
        """Train from ``start`` until ``epochs`` epochs are done, or until somebody sets ``stop_training``."""
        trainer, events, progress = self.trainer, self.events, self.progress
        with self._under_way(), events, trainer.interruptible():
            self._warm_up()
            trainer.call(events, "on_train_begin", {})
            logs: dict[str, float] = {}
            for epoch in range(start.epoch, epochs):
                position = start if epoch == start.epoch else Position(epoch)
                if not self.loop.has_more():
                    fix = FIX.format("steps_per_epoch")
                    warn(
                        f"x of fit is an iterator that has no batches left, so the training ends after epoch {epoch}. "
                        f"Expected {epochs} epochs. Fix: {fix}."
                    )
                    break
                if shuffle:
                    self.loop.shuffle(partial(trainer.order, done=self.loop.done(position)))
                trainer.call(events, "on_epoch_begin", epoch, {})
                progress.epoch_begin(epoch)
                logs, seconds, samples = trainer.train_epoch(self.loop, events, progress, position)
                if self.validation and (epoch + 1) % validation_freq == 0:
                    logs |= self._validate(self.validation)
                progress.epoch_end(logs, seconds, samples)
                trainer.call(events, "on_epoch_end", epoch, logs)
                if trainer.model.stop_training:
                    break
            trainer.call(events, "on_train_end", logs)

    def _validate(self, loop: Loop) -> dict[str, float]:
        if not loop.has_more():
            fix = FIX.format("validation_steps")
            text = "validation_data is an iterator that has no batches left, so this epoch is not validated."
            warn(f"{text} Fix: {fix}.")
            return {}
        logs, _ = self.trainer.run(loop, self.events, "test")
        return {f"val_{name}": value for name, value in logs.items()}

    def run(self, kind: str) -> dict[str, float]:
        """One pass without training; ``kind`` is "test" or "predict". Returns the logs of a test."""
        trainer = self.trainer
        with self._under_way(), trainer.interruptible() if kind == "test" else contextlib.nullcontext():
            self._warm_up()
            start = time.perf_counter()
            logs, samples = trainer.run(self.loop, self.events, kind)
            self.progress.epoch_end(logs, time.perf_counter() - start, samples)
        return logs

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """The plans must stay what they are while callbacks and other threads have their turn."""
        self.trainer.runs += 1
        try:
            yield
        finally:
            self.trainer.runs -= 1
            self.progress.close()
            for loop in self._loops:
                loop.close()

    @property
    def _loops(self) -> list[Loop]:
        return [self.loop, *([self.validation] if self.validation else [])]

    def _warm_up(self) -> None:
        """Compile what is not compiled yet, before any clock runs, and say so."""
        trainer, progress = self.trainer, self.progress
        turns = [turn for loop in self._loops for turn in loop.kinds()]
        if not trainer.is_cold(turns) or trainer.kernels is kernels.load("reference"):
            return
        if not trainer.warm:
            progress.announce(f"Running on: {trainer.kernels.describe()}.")
        folder: Any = getattr(trainer.kernels, "cache_folder", None)
        kept = ", once; they are kept for the next run" if folder is not None and folder() is not None else ""
        message = f"Compiling the kernels for this machine{kept} ..."
        watch: Any = getattr(trainer.kernels, "compile_watch", contextlib.nullcontext)
        with watch(lambda: progress.announce(message), progress.compiling) as compiled:
            trainer.warm_up(turns)
        if getattr(compiled, "functions", None):
            progress.announce(f"Compiled {len(compiled.functions)} functions in {compiled.seconds:.1f} s.")
