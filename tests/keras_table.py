"""What tinyconv has of Keras' public names, as a table: ``python tests/keras_table.py`` writes tinyconv/KERAS.md."""

import inspect
import os
from pathlib import Path
from types import ModuleType

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from public import is_fixed

import tinyconv
from tinyconv import initializers, layers, losses, metrics, optimizers
from tinyconv.layers import own

FILE = Path(__file__).parent.parent / "tinyconv" / "KERAS.md"
MODULES = (
    "layers",
    "activations",
    "initializers",
    "regularizers",
    "losses",
    "metrics",
    "optimizers",
    "optimizers.schedules",
    "callbacks",
    "models",
    "saving",
    "utils",
    "datasets",
    "distribution",
)
CLASSES = ("Model", "Layer", "Optimizer")
NEUTRAL = {  # arguments that have to keep their defaults
    "layers": layers.arguments.NEUTRAL | layers.base.NEUTRAL | layers.core.KERAS_INPUT,
    "initializers": initializers.NEUTRAL,
    "losses": losses.NEUTRAL,
    "metrics": metrics.NEUTRAL,
    "optimizers": optimizers.NEUTRAL,
    "Layer": own.NEUTRAL,
}
HEAD = """# Keras: same, different, absent

What `import tinyconv as keras` has of the public names of Keras {version}. Written by `python tests/keras_table.py`.

*Same* names have the same arguments, in the same order, with the same defaults, and the same numerics; layers with a
random part (dropout, augmentation) draw other numbers. *Different* ones have Keras' arguments too, but those that are
named as fixed cannot be changed from their defaults (an error says so), or there are arguments of tinyconv's own behind
Keras'. What is *absent* is an AttributeError.

All arrays are float32, and images have their channels last. There is no automatic differentiation: `keras.ops`,
`GradientTape`, `train_step` and models by subclassing are absent, and a layer of one's own has a `backward` in NumPy
(see [`tinyconv.Layer`](layers/base.py)). `predict` prints nothing. Operators between tensors make layers,
which `model.layers` lists.
"""


def resolved(library: ModuleType, module: str) -> object:
    for part in module.split("."):
        library = getattr(library, part, None)  # type: ignore[assignment]
    return library


def public(module: object) -> list[str]:
    """The classes and functions of one of Keras' modules, or the modules of its data sets."""
    if module is keras.datasets:
        return [f"{name}.load_data" for name in dir(module) if inspect.ismodule(getattr(module, name))]
    return [
        name
        for name in dir(module)
        if not name.startswith("_") and callable(getattr(module, name)) and not inspect.ismodule(getattr(module, name))
    ]


def arguments(function: object) -> dict[str, inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return {}
    packed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in found if p.kind not in packed and p.name != "self"}


def differences(ours: object, theirs: object, family: str) -> str:
    """What is different between two functions or classes, in words; nothing: "" ."""
    mine, others = arguments(ours), arguments(theirs)
    neutral = NEUTRAL.get(family, {})
    # In tinyconv's signatures the type of what must be None is None.
    fixed = [
        name for name, p in mine.items() if name in others and (is_fixed(ours, name, neutral) or p.annotation is None)
    ]
    fixed += [
        name for name in others if name not in mine and others[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    ]
    own_ones = [name for name in mine if others and name not in others]
    texts = []
    if fixed:
        texts.append(f"fixed: {', '.join(f'`{name}`' for name in fixed)}")
    if own_ones:
        texts.append(f"own: {', '.join(f'`{name}`' for name in own_ones)}")
    return "; ".join(texts)


def section(title: str, names: list[str], ours: object, theirs: object, family: str) -> list[str]:
    same, different, absent = [], [], []
    for name in names:
        mine, other = resolved(ours, name), resolved(theirs, name)  # type: ignore[arg-type]
        if mine is None:
            absent.append(name)
        elif text := differences(mine, other, family):
            different.append((name, text))
        else:
            same.append(name)
    lines = [f"## {title}", ""]
    for word, found in (("Same", same), ("Absent", absent)):
        if found:
            lines += [f"{word} ({len(found)}): {', '.join(f'`{name}`' for name in found)}.", ""]
    if different:
        lines += [f"| different ({len(different)}) | |", "| --- | --- |"]
        lines += [f"| `{name}` | {text} |" for name, text in different]
        lines.append("")
    return lines


def table() -> str:
    """The whole of tinyconv/KERAS.md."""
    lines = [HEAD.format(version=".".join(keras.__version__.split(".")[:2]))]
    for module in MODULES:
        ours, theirs = resolved(tinyconv, module), resolved(keras, module)
        lines += section(f"keras.{module}", public(theirs), ours, theirs, module.partition(".")[0])
    for kind in CLASSES:
        ours, theirs = getattr(tinyconv, kind), getattr(keras, kind)
        methods = [name for name in dir(theirs) if not name.startswith("_")]
        lines += section(f"keras.{kind}", methods, ours, theirs, kind)
    return "\n".join(lines)


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
