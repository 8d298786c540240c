"""What a run writes, on every kind of stream: a terminal, a notebook, a file, one that has gone away, none at all.

No test looks at a clock: a rate may be any number, but the lines, their order and their characters may not.
"""

import io
import re

import pytest

from tinyconv.checking import console
from tinyconv.training.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


class OutStream(io.StringIO):
    """A notebook's standard output, by the name of its class: no terminal, and yet its line can be written again."""

    def isatty(self):
        return False


class Derived(OutStream):
    """What Colab and others make of it."""


class Broken(Terminal):
    """A terminal or a pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class BrokenWhenFlushed(Terminal):
    """The same, noticed later."""

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """A terminal of 60 columns, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def encoded(encoding, errors="strict"):
    """A text stream of that encoding, and the bytes behind it."""
    raw = io.BytesIO()
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline=""), raw


def train(progress, epochs=1):
    """A run, and what it writes between its epochs."""
    progress.announce("Compiling the kernels …")
    progress.compiling(1, 0.4)
    progress.compiling(12, 3.2)
    for epoch in range(epochs):
        progress.epoch_begin(epoch)
        progress.update(50, {"loss": 0.75})
        progress.update(100, {"loss": 0.5})
        progress.epoch_end({"loss": 0.5}, 0.25)
    progress.close()


ROWS = ["  epoch     time   images/s     loss", "    1/1   0.25 s        400   0.5000"]


def screen(text):
    """The lines that a reader sees: "\\r" goes back to the beginning of a line, and what follows covers it."""
    lines, column = [""], 0
    for part in re.split(r"([\r\n])", text):
        if part == "\n":
            lines.append("")
            column = 0
        elif part == "\r":
            column = 0
        else:
            lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


# --- a notebook


@pytest.mark.parametrize("kind", [OutStream, Derived])
@pytest.mark.parametrize("verbose", ["auto", 1])
def test_a_notebook_has_a_live_line(kind, verbose):
    stream = kind()
    progress = Progress(verbose, 2, 100, stream)
    assert progress.is_live
    progress.epoch_begin(1)
    progress.update(50, {"loss": 0.75})
    (line,) = screen(stream.getvalue())
    assert re.fullmatch(r"    2/2  50 images  loss 0\.7500  [\d,]+ images/s  .*", line)
    progress.update(100, {"loss": 0.5})
    (line,) = screen(stream.getvalue())
    assert line.startswith("    2/2  100 images  loss 0.5000  ")
    assert "\n" not in stream.getvalue()  # the same line, again and again
    assert "\x1b" not in stream.getvalue()  # a notebook has no cursor


def test_a_notebook_keeps_only_the_rows():
    stream = OutStream()
    train(Progress("auto", 1, 100, stream))
    assert screen(stream.getvalue()) == ["Compiling the kernels …", *ROWS, ""]


def test_verbose_2_has_no_live_line_in_a_notebook():
    stream = OutStream()
    progress = Progress(2, 1, 100, stream)
    assert not progress.is_live
    train(progress)
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().splitlines()[1:] == ROWS


def test_a_live_line_is_no_wider_than_its_terminal():
    stream = OutStream()
    progress = Progress(1, 1, 100, stream)
    progress.epoch_begin(0)
    progress.update(50, {f"a_long_name_{number}": 0.5 for number in range(9)})
    assert max(map(len, stream.getvalue().split("\r"))) == 59


def test_a_shorter_line_leaves_nothing_of_a_longer_one():
    stream = OutStream()
    progress = Progress(1, 1, 100, stream)
    progress.compiling(1000000, 100.0)
    progress.compiling(2, 5.0)
    assert screen(stream.getvalue()) == ["  2 functions compiled, 5 s ..."]


# --- compiling


@pytest.mark.parametrize("kind", [OutStream, Terminal])
def test_compiling_shows_a_sign_of_life_and_takes_it_away(kind):
    stream = kind()
    progress = Progress(1, 1, 100, stream)
    progress.compiling(1, 0.4)
    assert screen(stream.getvalue()) == ["  1 function compiled, 0 s ..."]
    progress.compiling(12, 3.2)
    assert screen(stream.getvalue()) == ["  12 functions compiled, 3 s ..."]
    progress.announce("done")
    assert [line for line in screen(stream.getvalue()) if line] == ["done"]


@pytest.mark.parametrize("end", [Progress.close, lambda progress: progress.epoch_begin(0)])
def test_the_compiling_line_goes_when_an_epoch_begins_or_the_run_ends(end):
    stream = OutStream()
    progress = Progress(1, 1, 100, stream)
    progress.compiling(12, 3.2)
    end(progress)
    assert screen(stream.getvalue()) == [""]


@pytest.mark.parametrize(("verbose", "kind"), [(0, Terminal), (2, Terminal), (1, io.StringIO), ("auto", io.StringIO)])
def test_compiling_is_not_shown_where_no_line_can_be_written_again(verbose, kind):
    stream = kind()
    Progress(verbose, 1, 100, stream).compiling(12, 3.2)
    assert stream.getvalue() == ""


# --- nobody listens


@pytest.mark.parametrize("verbose", ["auto", 0, 1, 2])
def test_without_a_standard_output_a_run_is_silent(verbose, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as under pythonw
    progress = Progress(verbose, 1, 100)
    assert progress.silent
    assert not progress.is_live
    train(progress)
    console.write("nobody hears this")
    assert console.encodable("→") == "→"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal, OutStream])
@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_a_closed_stream_does_not_end_a_run(kind, verbose):
    stream = kind()
    stream.close()
    train(Progress(verbose, 1, 100, stream))
    with pytest.raises(ValueError, match="closed"):  # it is closed indeed: print would have failed
        print("", file=stream)


@pytest.mark.parametrize("kind", [OutStream, Terminal])
@pytest.mark.parametrize("verbose", [2, "auto"])
def test_a_stream_closed_on_the_way_does_not_end_a_run(kind, verbose):
    stream = kind()
    progress = Progress(verbose, 1, 100, stream)
    progress.epoch_begin(0)
    progress.update(50, {"loss": 0.5})
    stream.close()
    train(progress)


@pytest.mark.parametrize("kind", [Broken, BrokenWhenFlushed])
@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_broken_pipe_does_not_end_a_run(kind, verbose, term, monkeypatch):
    monkeypatch.setenv("TERM", term)
    train(Progress(verbose, 1, 100, kind()))
    with pytest.raises(BrokenPipeError):
        print("", file=kind(), flush=True)


def test_a_broken_notebook_does_not_end_a_run():
    train(Progress("auto", 1, 100, type("OutStream", (Broken,), {})()))


def test_other_errors_of_a_stream_are_told():
    """A full disk is no reader who has gone away."""

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        console.write("text", Full())


# --- characters

TEXT = "a → b — 3 µs \N{MULTIPLICATION SIGN} 2 … ─ é 数"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", TEXT),
        ("cp1252", "a -> b - 3 us x 2 ... - é \\u6570"),
        ("latin-1", "a -> b - 3 us x 2 ... - é \\u6570"),
        ("ascii", "a -> b - 3 us x 2 ... - \\xe9 \\u6570"),
    ],
)
def test_a_stream_gets_the_characters_that_it_has(encoding, expected):
    stream, raw = encoded(encoding)
    console.write(TEXT, stream)
    assert raw.getvalue().decode(encoding) == f"{expected}\n"


def test_what_a_stream_can_encode_is_left_as_it_is():
    stream, raw = encoded("cp1252")
    text = "3 µs \N{MULTIPLICATION SIGN} 2 … é —"  # Windows has all of these
    console.write(text, stream)
    assert raw.getvalue().decode("cp1252") == f"{text}\n"
    assert console.encodable("数", io.StringIO()) == "数"  # in memory, there is no encoding to keep to


def test_an_unknown_encoding_gets_ascii():
    stream = io.StringIO()
    odd = type("Odd", (), {"encoding": "no-such-encoding", "write": stream.write, "flush": stream.flush})()
    console.write("é → 数", odd)
    assert stream.getvalue() == "\\xe9 -> \\u6570\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_any_alphabet_can_be_written_on_any_stream(encoding, terminal, monkeypatch):
    stream, raw = encoded(encoding)
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    progress = Progress("auto", 1, 100, stream)
    assert progress.is_live == terminal
    progress.announce("Kompiliere 数 →")
    progress.epoch_begin(0)
    progress.update(50, {"精度": 0.5})
    progress.epoch_end({"精度": 0.5}, 0.25)
    progress.close()
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "Kompiliere \\u6570 ->" in text
    assert "\\u7cbe\\u5ea6" in text
    assert "    1/1   0.25 s        400   0.5000" in text


# --- terminals


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_rows(term, monkeypatch):
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    progress = Progress(1, 1, 100, stream)
    assert not progress.is_live
    train(progress)
    assert stream.getvalue().splitlines() == ["Compiling the kernels …", *ROWS]


def test_a_terminal_gets_a_bar_and_its_cursor_back():
    stream = Terminal()
    progress = Progress("auto", 1, 100, stream)
    assert progress.is_live
    progress.epoch_begin(0)
    assert "\x1b[?25l" in stream.getvalue()  # the cursor is hidden
    progress.close()  # as after an error
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_a_bar_shows_a_metrics_name_as_it_is():
    stream = Terminal()
    progress = Progress("auto", 1, 100, stream)
    progress.epoch_begin(0)
    progress.update(50, {"top[/5]": 0.5, "[red]": 0.25})
    progress.close()
    assert "top[/5] 0.5000  [red] 0.2500" in stream.getvalue()


def test_a_bar_is_no_wider_than_its_terminal(monkeypatch):
    """Or it would not be redrawn in place: what stands for a character of another alphabet counts, too."""
    stream, raw = encoded("ascii")
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    progress = Progress("auto", 1, 100, stream)
    progress.epoch_begin(0)
    progress.update(50, {"精度" * 3: 0.5})
    progress.close()
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", raw.getvalue().decode())
    assert "\\u7cbe" in text
    assert max(map(len, re.split(r"[\r\n]", text))) <= 60


def test_a_second_bar_in_the_same_terminal_is_plain():
    """While a bar is up, rich puts a proxy in the place of the standard output."""
    from rich.console import Console
    from rich.file_proxy import FileProxy

    stream = Terminal()
    assert not Progress(1, 1, 100, FileProxy(Console(file=stream), stream)).is_live
    assert Progress(1, 1, 100, stream).is_live


def test_a_stream_without_isatty_is_no_terminal():
    stream = io.StringIO()
    bare = type("Bare", (), {"write": stream.write, "flush": stream.flush})()
    progress = Progress("auto", 1, 100, bare)
    assert not progress.is_live
    train(progress)
    assert stream.getvalue().splitlines()[1:] == ROWS


@pytest.mark.parametrize("kind", [OutStream, Derived, Terminal, io.StringIO, type(None)])
def test_only_a_notebooks_stream_is_one(kind):
    assert console.is_notebook(kind()) == issubclass(kind, OutStream)
