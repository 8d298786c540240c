"""Text for a stream that may not know all characters, may be no terminal, and may have been closed."""

import contextlib
import os
import shutil
import sys
from typing import IO

PLAIN = str.maketrans({"─": "-", "→": "->", "µ": "u", "\N{MULTIPLICATION SIGN}": "x", "…": "...", "—": "-", "└": "-"})
WIDEST = 200  # columns, where there is no terminal whose width could be asked


def encodable(text: str, stream: IO[str] | None = None) -> str:
    """``text`` as ``stream`` (None: the standard output) can encode it: what it has no character for, in ASCII."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):  # in memory, or nowhere at all
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN)
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.translate(PLAIN).encode("ascii", "backslashreplace").decode("ascii")
    return text


def write(text: str, stream: IO[str] | None = None, end: str = "\n") -> None:
    """Print, and go on where nobody listens any more: a run is worth more than what it says."""
    stream = sys.stdout if stream is None else stream
    if stream is None or getattr(stream, "closed", False):
        return
    with contextlib.suppress(BrokenPipeError):
        print(encodable(text, stream), file=stream, end=end, flush=True)


def is_notebook(stream: IO[str] | None) -> bool:
    """Whether the stream is a notebook's, in which a line can be written again from its beginning."""
    return any(kind.__name__ == "OutStream" for kind in type(stream).__mro__)


def width() -> int:
    """The columns of the terminal, or of the environment's COLUMNS; wide where nothing is known."""
    return shutil.get_terminal_size((WIDEST, 24)).columns


def discard_output() -> None:
    """After a broken pipe: let Python's last flush at exit go nowhere, rather than complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
