"""A model as the dictionary that Keras keeps in ``config.json``, and back.

In Keras' notation an object is ``{"module": ..., "class_name": ..., "config": {...}, "registered_name": null}``. What
such an entry names is looked up in a closed table of tinyconv's own classes, which check their arguments themselves;
no module is ever imported because a file says so. An argument that tinyconv does not have is dropped where its value
changes nothing, and named in the error where it does.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyconv import initializers, layers, losses, metrics, optimizers, regularizers
from tinyconv.checking.messages import received
from tinyconv.network import Network
from tinyconv.optimizers import schedules

Config = dict[str, Any]


def _table(module: str, classes: Any) -> dict[tuple[str, str], type]:
    return {(module, kind.__name__): kind for kind in classes}


CLASSES: dict[tuple[str, str], type] = {
    **_table("keras.layers", {getattr(layers, name) for name in layers.__all__} - {layers.Input, layers.WeightSpec}),
    **_table("keras.initializers", initializers.NAMES.values()),
    **_table("keras.regularizers", regularizers.NAMES.values()),
    **_table("keras.optimizers", optimizers.NAMES.values()),
    **{(kind.keras_module, name): kind for name, kind in schedules.NAMES.items()},  # Keras refuses our OneCycle
    **_table("keras.losses", losses.NAMES.values()),
    **_table("keras.metrics", metrics.NAMES.values()),
}
del CLASSES["keras.layers", "Layer"]
MODULES = {kind: module for (module, _), kind in CLASSES.items()}

# Arguments of Keras that tinyconv's classes do not know, and the values at which they change nothing.
NEUTRAL: dict[str, Config] = {
    "keras.layers": {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99, "rms_scaling": False},
    "keras.initializers": {"input_axes": None, "output_axes": None},
    "keras.optimizers": {"ema_overwrite_frequency": None},
    "keras.losses": {
        "ignore_class": None,
        "reduction": "sum_over_batch_size",
        "label_smoothing": 0.0,
        "axis": -1,
        "dtype": None,
    },
    "keras.metrics": {"dtype": None, "threshold": 0.5},
}
FLOAT32 = (None, "float32")
MOST_LAYERS, LONGEST_NAME = 10_000, 1000

# Writing


def of_model(model: Network) -> Config:
    """The content of ``config.json``."""
    batch_shape = list(model.input_shape)
    source = {"batch_shape": batch_shape, "dtype": "float32", "sparse": False, "name": model._inputs[0].name}
    entries = [_entry("keras.layers", "InputLayer", source)]
    if len(model.layers) > MOST_LAYERS:
        raise ValueError(f"Model {model.name!r} is too large to be saved. Expected at most {MOST_LAYERS:,} layers.")
    for layer in model.layers:
        if type(layer) not in MODULES:
            raise ValueError(
                f"Layer {layer.name!r} is a {type(layer).__name__}, which Keras' format cannot hold. "
                "Fix: save_weights, and build the model from your own code before load_weights."
            )
        entry = of_object(layer)
        entry["config"] |= {"dtype": "float32"}
        entries.append({**entry, "build_config": {"input_shape": [None, *(layer.input_shape or ())]}})
    config = {"name": model.name, "trainable": model.trainable, "dtype": "float32", "layers": entries}
    whole = _entry("keras", "Sequential", {**config, "build_input_shape": batch_shape})
    whole["build_config"] = {"input_shape": batch_shape}
    if model.optimizer is not None:
        whole["compile_config"] = _of_compilation(model)
    return whole


def _of_compilation(model: Network) -> Config:
    given = model._compiled["metrics"] if model._compiled else []
    settings = {"loss_weights": None, "weighted_metrics": None, "run_eagerly": False, "steps_per_execution": 1}
    return {
        "optimizer": of_object(model.optimizer),
        "loss": of_object(model.loss),
        "metrics": [of_object(metric) for metric in given],
        **settings,
        "jit_compile": False,
    }


def of_object(value: Any) -> Any:
    """A number, a text, a list, None, or one of tinyconv's objects in Keras' notation."""
    if type(value) in MODULES:
        config = {key: of_object(each) for key, each in value.get_config().items()}
        return _entry(MODULES[type(value)], type(value).__name__, config)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [of_object(each) for each in value]
    if isinstance(value, dict):  # in Keras' notation already
        if "class_name" in value and (value.get("module"), value["class_name"]) not in CLASSES:
            raise _foreign(str(value["class_name"]))
        return {key: of_object(each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _foreign(type(value).__name__)


def _foreign(class_name: str) -> ValueError:
    return ValueError(
        f"A {class_name} cannot be saved in Keras' format: it is not one of tinyconv's own classes. "
        "Fix: save_weights, and build the model from your own code before load_weights."
    )


def _entry(module: str, class_name: str, config: Config) -> Config:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


# Reading


def to_layers(config: Any, where: str) -> tuple[str, tuple[int, ...], list[layers.Layer]]:
    """The name, the shape of one sample, and the layers (without weights) of a saved model."""
    inner = _fields(config, where)
    if config.get("module") != "keras" or config.get("class_name") != "Sequential":
        raise ValueError(
            f"{where}: models of the class {config.get('class_name')!r} are not supported by tinyconv. "
            "Expected a Sequential."
        )
    entries: Any = inner.get("layers")
    name: Any = inner.get("name")
    if not isinstance(entries, list):
        raise ValueError(f"{where} is damaged: the model has no list of layers.")
    if len(entries) > MOST_LAYERS + 1:
        raise ValueError(f"{where}: expected at most {MOST_LAYERS:,} layers. Received: {len(entries):,}.")
    _check_name(name, where)
    if not isinstance(inner.get("trainable", True), bool):  # else it says nothing that the layers do not say
        raise ValueError(f"{where} is damaged: expected trainable to be true or false.")
    shape: Any = inner.get("build_input_shape")
    found = []
    for number, entry in enumerate(entries):
        place = f"{where}, layer {number}"
        if isinstance(entry, dict) and entry.get("class_name") == "InputLayer":
            if number:
                raise ValueError(f"{place}: an InputLayer must come first.")
            shape = _batch_shape(_fields(entry, place), place)
        else:
            layer = to_object(entry, "keras.layers", place)
            found.append(layer)
    if not isinstance(shape, list) or not shape or shape[0] is not None or not all(_size(n) for n in shape[1:]):
        raise ValueError(f"{where}: expected an input shape such as [null, 28, 28, 1]. Received: {shape!r}.")
    return name, tuple(shape[1:]), found


def to_compilation(config: Mapping[str, Any], where: str) -> Config:
    """The arguments of ``compile`` in a saved model."""
    loss, optimizer, measured = config.get("loss"), config.get("optimizer"), config.get("metrics") or []
    for argument in ("loss_weights", "weighted_metrics"):
        if config.get(argument):
            raise ValueError(f"{where}: compile({argument}=...) is not supported by tinyconv.")
    if not isinstance(measured, list):
        raise ValueError(f"{where}: expected a list of metrics. Received: {measured!r}.")
    return {
        "optimizer": optimizers.get(_name_or_object(optimizer, "keras.optimizers", f"{where}, optimizer")),
        "loss": loss and losses.get(_name_or_object(loss, "keras.losses", f"{where}, loss")),
        "metrics": [_name_or_object(metric, "keras.metrics", f"{where}, metrics") for metric in measured],
    }


def _name_or_object(value: Any, module: str, where: str) -> Any:
    return value if isinstance(value, str) else to_object(value, module, where)


def to_object(entry: Any, module: str, where: str) -> Any:
    """The object that an entry in Keras' notation stands for, of the given one of Keras' modules."""
    config = _fields(entry, where)
    found, class_name = str(entry.get("module")), str(entry.get("class_name"))
    kind = CLASSES.get((found, class_name))
    if kind is None or entry.get("registered_name") or not _belongs(found, module):
        raise ValueError(f"{where}: {class_name!r} of {found!r} is not supported by tinyconv.")
    arguments = {key: to_value(value, f"{where} ({class_name}), {key}") for key, value in config.items()}
    if arguments.get("name") is not None:
        _check_name(arguments["name"], where)
        parameters = inspect.signature(kind).parameters.values()
        if not any(each.name == "name" or each.kind is each.VAR_KEYWORD for each in parameters):
            del arguments["name"]  # which means nothing here
    neutral = NEUTRAL.get(found, {})
    for key in [key for key in arguments if key in neutral]:
        value = arguments.pop(key)
        if value != neutral[key] and not (key == "dtype" and value in FLOAT32):
            raise ValueError(
                f"{where}: {class_name}({key}={value!r}) is not supported by tinyconv. Expected {neutral[key]!r}."
            )
    return _made(kind, arguments, where)


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or "/" in name or not name.isprintable():
        raise ValueError(
            f"{where}: expected a name of 1 to {LONGEST_NAME:,} letters without '/'. Received: {received(name)}."
        )


def _belongs(found: str, module: str) -> bool:
    return found == module or (module.startswith("keras.optimizers") and found == "tinyconv.schedules")


def _made(kind: Callable[..., Any], arguments: Config, where: str) -> Any:
    """An object from a file's arguments; whatever it objects to becomes a ValueError that names the place."""
    try:
        return kind(**arguments)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from None


def to_value(value: Any, where: str) -> Any:
    """An argument: as it is, or the object it stands for; a data type's policy becomes its name."""
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__numpy__":  # an array, as nested lists
        return _fields(value, where).get("value")
    if value.get("class_name") == "DTypePolicy" and value.get("module") == "keras":
        return _fields(value, where).get("name")
    for module in ("keras.initializers", "keras.regularizers", "keras.optimizers.schedules"):
        if _belongs(str(value.get("module")), module):
            return to_object(value, module, where)
    raise ValueError(f"{where}: {value.get('class_name')!r} of {value.get('module')!r} is not supported by tinyconv.")


def _fields(entry: Any, where: str) -> Config:
    """The ``config`` of an entry."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise ValueError(f"{where} is damaged: expected an object with a class_name and a config.")
    return entry["config"]


def _batch_shape(config: Config, where: str) -> Any:
    for key, expected in (("dtype", FLOAT32), ("sparse", (None, False)), ("ragged", (None, False))):
        value = to_value(config.get(key), where)
        if value not in expected:
            raise ValueError(f"{where}: Input({key}={value!r}) is not supported by tinyconv.")
    return config.get("batch_shape")


def _size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31
