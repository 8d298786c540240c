"""What tinyconv offers, for tests that go through all of it: classes and functions, by name, and how to call them."""

import inspect

import numpy as np

import tinyconv
from tinyconv import (
    activations,
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    saving,
    utils,
)

MODULES = {
    "activations": activations,
    "layers": layers,
    "initializers": initializers,
    "regularizers": regularizers,
    "losses": losses,
    "metrics": metrics,
    "optimizers": optimizers,
    "schedules": optimizers.schedules,
    "callbacks": callbacks,
    "utils": utils,
    "saving": saving,
    "models": models,
}

# What must be given, by the argument's name: values that are right.
REQUIRED = {
    "activation": "relu",
    "alpha": 1.0,
    "array": np.zeros(2),
    "backup_dir": "backup",
    "boundaries": [3],
    "config": {},
    "custom_objects": None,
    "decay_rate": 0.5,
    "directory": ".",
    "decay_steps": 10,
    "factor": 0.1,
    "filename": "log.csv",
    "filepath": "m.keras",
    "filters": 2,
    "height_factor": 0.1,
    "identifier": None,
    "img": np.zeros((2, 2)),
    "initial_learning_rate": 0.1,
    "kernel_size": 3,
    "initializer": initializers.Zeros(),
    "inputs": [tinyconv.Input((3,)), tinyconv.Input((3,))],
    "json_string": "{}",
    "model": tinyconv.Sequential(),
    "obj": layers.Dense,
    "learning_rate": 0.1,
    "learning_rate_schedule": optimizers.schedules.CosineDecay(0.1, 10),
    "max_learning_rate": 0.1,
    "loss": losses.MeanSquaredError(),
    "metric": metrics.AUC(),
    "name": "kernel",
    "optimizer": optimizers.SGD(),
    "path": "image.png",
    "pool_size": 2,
    "rate": 0.5,
    "schedule": lambda epoch, rate: rate,
    "seed": 1,
    "scale": 0.5,
    "shape": (6, 6, 1),
    "target_shape": (4,),
    "total_steps": 10,
    "units": 2,
    "width_factor": 0.1,
    "values": [0.1, 0.01],
    "x": [0, 1],
    "array_to_img, x": np.zeros((2, 2, 1)),
    "y_pred": [[0.4], [0.6]],
    "y_true": [[0], [0]],
}


def public(module):
    """The classes and functions of a module that are meant for users."""
    names = module.__all__
    if module is saving:  # the rest is tinyconv's own
        names = [name for name in names if name not in ("check_target", "load_weights", "model_of", "save_weights")]
    if module is models:  # methods of these are gone through by themselves
        names = [name for name in names if name not in ("Model", "Sequential")]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if callable(value)}


def everything():
    """All of it, as {"layers.Dense": Dense, ...}."""
    found = {"Input": tinyconv.Input, "Sequential": tinyconv.Sequential}
    for prefix, module in MODULES.items():
        found |= {f"{prefix}.{name}": value for name, value in public(module).items()}
    return found


def parameters(function):
    """The arguments of a function or a class, without self, *args and **kwargs."""
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.kind not in skipped and p.name != "self"]


def required(function):
    """Right values for the arguments that have no default."""
    names = [p.name for p in parameters(function) if p.default is p.empty]
    return {name: REQUIRED.get(f"{function.__name__}, {name}", REQUIRED.get(name)) for name in names}


def is_fixed(function, argument, neutral):
    """Whether an argument must keep its default: those of augmentation do resample in other ways than UpSampling2D."""
    chosen = argument == "interpolation" and getattr(function, "__name__", "").startswith("Random")
    return argument in neutral and not chosen
