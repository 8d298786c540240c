"""The command line: ``python -m tinyconv``, or the script ``tinyconv``."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import tinyconv
from tinyconv.checking import console
from tinyconv.checking.messages import suggest
from tinyconv.commands import bench, explore, info, predict, train, warmup
from tinyconv.commands.common import complain

COMMANDS = {
    info: "what this installation is and what it runs on",
    warmup: "compile the kernels now, so that no training has to wait for it",
    train: "train a small convolutional network on MNIST or another image set",
    predict: "what a saved network says about images",
    explore: "look inside a network in a browser, number by number",
    bench: "how fast each backend trains on this machine",
}
MISTAKES = (ValueError, TypeError, ImportError, RuntimeError, OSError)  # of the user, or of the machine: no traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after an error, 2 for a wrong command line, 130 after Ctrl-C."""
    try:
        return _main(arguments)
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader, "head" say, has seen enough
            console.discard_output()
        except ValueError:  # it is closed
            pass


def _main(arguments: Sequence[str] | None) -> int:
    whole = parser()
    options, unknown = whole.parse_known_args(arguments)
    if unknown:
        _refuse_unknown(whole, options.command, unknown[0])
    try:
        result = options.run(options)
    except MISTAKES as error:
        complain(f"tinyconv {options.command}: {error}")
        return 1
    except KeyboardInterrupt:
        complain("Stopped.")
        return 130
    if options.json:
        console.write(json.dumps(result, indent=2))
    return 130 if result.get("stopped") else 0


class Parser(argparse.ArgumentParser):
    """An argparse that suggests what a mistyped word may have meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}. {suggest(value, action.choices)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        console.write(message, sys.stderr if file is None else file, end="")


def _refuse_unknown(whole: argparse.ArgumentParser, command: str, word: str) -> NoReturn:
    """An option or a word too many that the command has not."""
    chosen = _commands(whole)[command]
    if not word.startswith("-"):
        chosen.error(f"unexpected argument: {word!r}")
    options = [name for action in chosen._actions for name in action.option_strings if name.startswith("--")]
    chosen.error(f"unknown option: {word!r}. {suggest(word.partition('=')[0], options)}")


def _commands(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    assert whole._subparsers is not None
    return dict(whole._subparsers._group_actions[0].choices or {})  # type: ignore[arg-type]


def parser() -> argparse.ArgumentParser:
    whole = Parser(
        prog="tinyconv",
        description="Convolutional networks from scratch, on NumPy and Numba: train one, use it, see what it runs on.",
        epilog="'tinyconv COMMAND --help' says what a command can do. Try: tinyconv train --epochs 2",
    )
    whole.add_argument("--version", action="version", version=f"tinyconv {tinyconv.__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, what in COMMANDS.items():
        name = command.__name__.rpartition(".")[2]
        added = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        added.add_argument("--json", action="store_true", help="print the result as JSON, for programs to read")
        command.add(added)
        added.set_defaults(run=command.run)
    return whole


if __name__ == "__main__":
    sys.exit(main())
