"""What a person sees while a model trains: one row per epoch, and in a terminal a bar for the epoch under way."""

import os
import sys
import time
from typing import IO, Any, Literal, cast

from tinyconv.checking import console

Verbosity = Literal["auto", 0, 1, 2] | bool
VERBOSITY = ("auto", 0, 1, 2)
PLAIN_TERMINALS = ("dumb", "unknown")


class Progress:
    """Rows for ``fit``, one line for ``evaluate``; silent, plain or with a bar.

    Arguments:
        verbose: as in Keras. 0: silent. 1: a bar. 2: one line per epoch. "auto": 1 in a terminal or a notebook, else
            2. A bar needs a terminal that can move its cursor, and a notebook gets a line that is written anew, so 1
            means 2 in a file or a pipe.
        epochs: how many epochs there will be. 0 for an evaluation or a prediction: a single, unnumbered pass.
        samples: how many samples one epoch has; None: nobody knows before the first one has ended.
        stream: where to write; the standard output if None.

    The calls, in order: ``epoch_begin``, any number of ``update``, ``epoch_end``, again for every epoch, and at last
    ``close``, also after an error, since a bar has hidden the cursor. ``announce`` and ``compiling`` may come at any
    time.
    """

    def __init__(self, verbose: str | int, epochs: int, samples: int | None, stream: IO[str] | None = None) -> None:
        if verbose not in VERBOSITY:
            raise ValueError(
                f"Invalid verbose. Expected one of {', '.join(map(repr, VERBOSITY))}. Received: {verbose!r}."
            )
        self.epochs, self.samples = epochs, samples
        self.stream = stream or sys.stdout
        self.silent = verbose == 0 or self.stream is None
        live = verbose in ("auto", 1) and not self.silent
        self._line = _Line(self.stream) if live and _can_rewrite(self.stream) else None
        self._bar: _Bar | _Line | None = self._line
        if self._line and not console.is_notebook(self.stream):
            self._bar = _Bar(self.stream, samples)
        self._epoch = 0
        self._began = time.perf_counter()
        self._columns: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether :meth:`update` shows anything. If not, there is no need to look up the values to pass."""
        return self._bar is not None

    def announce(self, text: str) -> None:
        """Say something that is not part of an epoch, for example that kernels are being compiled."""
        if self.silent:
            return
        if self._line:
            self._line.stop()
        if self._bar:
            self._bar.print(text)
        else:
            console.write(text, self.stream)

    def compiling(self, functions: int, seconds: float) -> None:
        """A sign of life: so many functions are compiled so far, which took so many seconds."""
        if self._line:
            self._line.show(f"  {functions} function{'s' * (functions != 1)} compiled, {seconds:.0f} s ...")

    def epoch_begin(self, epoch: int) -> None:
        """An epoch starts; ``epoch`` counts from 0, as in Keras' callbacks."""
        self._epoch = epoch
        self._began = time.perf_counter()
        if self._line:
            self._line.stop()
        if self._bar:
            self._bar.begin(self._name(), self.samples)

    def update(self, samples_done: int, logs: dict[str, float]) -> None:
        """``samples_done`` samples of this epoch are done, and ``logs`` are their mean loss and metrics."""
        if self._bar:
            rate = samples_done / max(time.perf_counter() - self._began, 1e-9)
            left = "? left"
            if self.samples is not None:
                to_do = max(self.samples * max(self.epochs - self._epoch, 1) - samples_done, 0)
                left = f"{_duration(to_do / rate)} left" if rate else ""
            values = [f"{name} {_number(value)}" for name, value in logs.items()]
            self._bar.update(samples_done, "  ".join([*values, f"{rate:,.0f} images/s", left]))

    def epoch_end(self, logs: dict[str, float], seconds: float, samples: int | None = None) -> None:
        """The epoch is over: its row. ``seconds`` is the time its samples took, without compiling or validation, and
        ``samples`` their number, if not as expected."""
        count = samples if samples is not None else self.samples or 0
        if self.epochs:
            self._row(logs, seconds, count)
        else:
            values = [f"{name} {_number(value)}" for name, value in logs.items()]
            self.announce("  ".join([f"{count:,} images", f"{seconds:.2f} s", *values]))
        if self.samples is None:
            self.samples = count

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        if self._line:
            self._line.stop()
        if self._bar:
            self._bar.stop()

    def _name(self) -> str:
        return f"{self._epoch + 1}/{self.epochs}" if self.epochs else ""

    def _row(self, logs: dict[str, float], seconds: float, samples: int) -> None:
        """One row of the table of epochs; the heading comes first, and again when a column is new."""
        widths = {name: max(len(name), 7) for name in logs}
        if tuple(logs) != self._columns:
            self._columns = tuple(logs)
            headings = [f"{name:>{width}}" for name, width in widths.items()]
            self.announce("  ".join([f"{'epoch':>7}", f"{'time':>7}", f"{'images/s':>9}", *headings]))
        rate = f"{samples / max(seconds, 1e-9):,.0f}"
        values = [f"{_number(logs[name]):>{width}}" for name, width in widths.items()]
        self.announce("  ".join([f"{self._name():>7}", f"{seconds:>5.2f} s", f"{rate:>9}", *values]))


class _Line:
    """A line that is written again from its beginning: what a notebook can show, and any terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._name, self._shown = stream, "", 0

    def begin(self, name: str, samples: int | None) -> None:
        self._name = name

    def update(self, samples_done: int, status: str) -> None:
        self.show(f"{self._name:>7}  {samples_done:,} images  {status}")

    def show(self, text: str) -> None:
        text = text[: console.width() - 1]
        console.write(f"\r{text:<{self._shown}}", self._stream, end="")
        self._shown = len(text)

    def print(self, text: str) -> None:
        self.stop()
        console.write(text, self._stream)

    def stop(self) -> None:
        """Take the line away."""
        if self._shown:
            console.write(f"\r{' ' * self._shown}\r", self._stream, end="")
            self._shown = 0


class _Bar:
    """The epoch under way as one line that is redrawn in place; whatever is printed goes above it."""

    def __init__(self, stream: IO[str], samples: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # Cut off without rich's "…", which not every terminal has. A metric's name may hold brackets: no markup.
        name, status = (
            TextColumn(
                f"{{task.{field}}}", markup=False, table_column=Column(no_wrap=True, overflow="crop", min_width=7)
            )
            for field in ("description", "fields[status]")
        )
        columns: list[Any] = [name, BarColumn(None), status]
        self._stream = stream
        # No refresh thread: it would take time from the kernels. ``update`` redraws.
        self._display = Progress(
            *columns,
            console=Console(file=cast(IO[str], _Listener(stream))),
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._display.add_task("", total=samples, status="", visible=False)

    def begin(self, name: str, samples: int | None) -> None:
        self._display.start()
        self._display.reset(self._task, total=samples, description=f"{name:>7}", status="", visible=True)
        self._display.refresh()

    def update(self, samples_done: int, status: str) -> None:
        status = console.encodable(status, self._stream)
        self._display.update(self._task, completed=samples_done, status=status, refresh=True)

    def print(self, text: str) -> None:
        self._display.console.print(console.encodable(text, self._stream), markup=False, highlight=False, emoji=False)

    def stop(self) -> None:
        self._display.stop()


class _Listener:
    """A terminal that may go away: rich ends the process then, and a run is worth more than what it says."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        console.write(text, self._stream, end="")
        return len(text)

    def flush(self) -> None:
        """Every write has done so."""


def _can_rewrite(stream: IO[str]) -> bool:
    """Whether a line can be redrawn there: a notebook, or a terminal with a cursor to move and no other bar in it."""
    from rich.file_proxy import FileProxy  # what the standard output is while a bar is up

    if console.is_notebook(stream):
        return True
    terminal = stream.isatty() if hasattr(stream, "isatty") and not getattr(stream, "closed", False) else False
    return terminal and os.environ.get("TERM") not in PLAIN_TERMINALS and not isinstance(stream, FileProxy)


def _number(value: float) -> str:
    """Four decimals, or two digits and a power of ten for what they would round away."""
    return f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"


def _duration(seconds: float) -> str:
    """ "8 s", "2:05" or "1:02:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}" if minutes else f"{seconds} s"
