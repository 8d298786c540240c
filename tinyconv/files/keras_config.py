"""A model as the dictionary that Keras keeps in ``config.json``, and back.

In Keras' notation an object is ``{"module": ..., "class_name": ..., "config": {...}, "registered_name": null}``. What
such an entry names is looked up in a closed table of tinyconv's own classes, which check their arguments themselves;
no module is ever imported because a file says so. An argument that tinyconv does not have is dropped where its value
changes nothing, and named in the error where it does.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyconv import initializers, layers, losses, metrics, optimizers, regularizers
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import received
from tinyconv.files.keras_operations import as_layer
from tinyconv.files.registered import get_registered_name, get_registered_object
from tinyconv.layers.base import default_name, snake_case
from tinyconv.network import Network
from tinyconv.optimizers import schedules

Config = dict[str, Any]
Tensor = tuple[int, int, int]  # the number of an entry, of a call of it, and of an output of that
Leaf = tuple[Any, str, Any]  # a layer, the path of its weights, the shape of its input
DEEPEST = 20  # models within models


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
    "keras.losses": {"ignore_class": None, "axis": -1, "dtype": None},
    "keras.metrics": {"dtype": None, "threshold": 0.5},
}
METRICS = ("metrics", "weighted_metrics")  # of compile
FLOAT32 = (None, "float32")
MOST_LAYERS, LONGEST_NAME = 10_000, 1000

# Writing


def of_model(model: Network) -> Config:
    """The content of ``config.json``."""
    whole = of_structure(model)
    if model.optimizer is not None:
        whole["compile_config"] = _of_compilation(model)
    return whole


def of_structure(model: Network) -> Config:
    """A model, without its compilation: a stack of layers, or a graph of them."""
    if len(model.layers) > MOST_LAYERS:
        raise ValueError(f"Model {model.name!r} is too large to be saved. Expected at most {MOST_LAYERS:,} layers.")
    if model._inputs and any(layer is model._inputs[0] for layer in model.layers):
        return _of_graph(model)
    entries = [_of_layer(layer) for layer in (*model._inputs, *model.layers)]
    whole = _entry(
        "keras",
        "Sequential",
        {"name": model.name, "trainable": model.trainable, "dtype": "float32", "layers": entries},
    )
    for source in model._inputs:  # one, if it is known
        batch_shape = list(source.batch_shape)
        whole["config"]["build_input_shape"] = batch_shape
        whole["build_config"] = {"input_shape": batch_shape}
    return whole


def _of_graph(model: Network) -> Config:
    shapes = model._value_shapes()
    history: dict[int, list[Any]] = {}  # by the number of a value: the layer that gives it, its call, its output
    for number, layer in enumerate(model._inputs):
        history[number] = [layer.name, 0, 0]
    nodes: dict[str, list[Config]] = {layer.name: [] for layer in model.layers}
    for call in model._entry_calls():
        reads = [_of_tensor(shapes[number], history[number]) for number in call.reads]
        single = len(reads) == 1
        nodes[call.entry.name].append({"args": reads if single else [reads], "kwargs": {}})
        for output, number in enumerate(call.gives):
            history.setdefault(number, [call.entry.name, len(nodes[call.entry.name]) - 1, output])
    entries = [{**_of_layer(layer), "name": layer.name, "inbound_nodes": nodes[layer.name]} for layer in model.layers]
    config = {"name": model.name, "trainable": model.trainable, "layers": entries}
    graphs = {layer.name for layer in model.layers if _is_graph(layer)}
    ends = {
        "input_layers": [history[number] for number in range(len(model._inputs))],
        "output_layers": [_end(history[number], graphs, 1) for number in model._outputs],
    }
    config |= {key: each[0] if len(each) == 1 else each for key, each in ends.items()}
    whole = _entry("keras.src.models.functional", "Functional", config)
    return {**whole, "registered_name": "Functional", "build_config": {"input_shape": None}}


def _end(history: list[Any], graphs: set[str], counted: int) -> list[Any]:
    """An output of a model in Keras' notation, which counts the calls of a graph of layers within from 1 here, and
    elsewhere from 0."""
    name, call, output = history
    return [name, call + counted if name in graphs else call, output]


def _of_tensor(shape: Shape, history: list[Any]) -> Config:
    config = {"shape": [None, *shape], "dtype": "float32", "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": config}


def _of_layer(layer: Any) -> Config:
    if hasattr(layer, "_entry_calls"):  # a model within
        return of_structure(layer)
    if isinstance(layer, layers.InputLayer):
        return _entry("keras.layers", "InputLayer", of_object(layer.get_config()))
    entry = of_object(layer)
    if type(layer) in MODULES:
        entry["config"] |= {"dtype": "float32"}
    shape: Any = layer.input_shape or ()
    several = bool(shape) and isinstance(shape[0], tuple)
    batch = [[None, *each] for each in shape] if several else [None, *shape]
    return {**entry, "build_config": {"input_shape": batch}}


def _of_compilation(model: Network) -> Config:
    compiled = model._compiled or {}
    settings = {"run_eagerly": False, "steps_per_execution": 1}
    return {
        "optimizer": of_object(model.optimizer),
        "loss": of_object(model.loss),
        **{what: of_object(compiled.get(what, [])) for what in METRICS},
        "loss_weights": of_object(compiled.get("loss_weights")),
        **settings,
        "jit_compile": False,
    }


def of_object(value: Any) -> Any:
    """A number, a text, a list, None, or one of tinyconv's objects in Keras' notation."""
    if type(value) in MODULES:
        config = {key: of_object(each) for key, each in value.get_config().items()}
        return _entry(MODULES[type(value)], type(value).__name__, config)
    if isinstance(value, layers.Layer):  # of a class of the user's own
        return _of_own(value)
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


def _of_own(value: Any) -> Config:
    """An object of a class of the user's own, which a reader has to know."""
    kind = type(value)
    config = value.get_config()
    if not isinstance(config, dict):
        raise TypeError(f"{kind.__name__}.get_config: expected a dictionary. Received: {received(config)}.")
    entry = _entry(kind.__module__, kind.__name__, {key: of_object(each) for key, each in config.items()})
    return {**entry, "registered_name": get_registered_name(kind)}


def _foreign(class_name: str) -> ValueError:
    return ValueError(
        f"A {class_name} cannot be saved in Keras' format: it is not one of tinyconv's own classes. "
        "Fix: save_weights, and build the model from your own code before load_weights."
    )


def _entry(module: str, class_name: str, config: Config) -> Config:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


# Reading


@dataclass
class SavedModel:
    """A model as a file describes it, checked; nothing is built, and no weight drawn.

    ``calls`` say what is called on what, in order: the number of an entry, and for each of its inputs the entry, the
    call of it and the output that it is. ``sources`` are the entries that are inputs. A stack has neither.
    """

    name: str
    entries: list[Any]  # layers, and saved models
    input_shape: Shape | None  # of a stack; None if it is not known
    source: Any = None  # its input layer, if there is one
    sources: list[int] = field(default_factory=list)
    calls: list[tuple[int, list[Tensor]]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def shapes(self, given: list[Shape] | None, path: str = "") -> tuple[list[Shape], list[Leaf]]:
        """The shapes of the outputs, and every layer with its place in the file and the shape of its input."""
        paths = entry_paths(self.entries, path)
        leaves: dict[int, list[Leaf]] = {}
        values: dict[Tensor, Shape] = {}
        if not self.sources:
            if not given and self.input_shape is None:
                raise ValueError(f"Model {self.name!r} does not know its input shape, and so has no weights.")
            shapes = given or [self.input_shape]  # type: ignore[list-item]
            for number, entry in enumerate(self.entries):
                shapes, leaves[number] = _entry_shapes(entry, shapes, paths[number])
            return shapes, [leaf for number in sorted(leaves) for leaf in leaves[number]]
        for number, source in enumerate(self.sources):
            own = self.entries[source].shape
            if given is not None and given[number] != own:
                raise ValueError(f"Model {self.name!r} expects inputs of shape {own}. Received: {given[number]}.")
            values[source, 0, 0] = own
        counts: dict[int, int] = {}
        for number, reads in self.calls:
            shapes, found = _entry_shapes(self.entries[number], [values[read] for read in reads], paths[number])
            leaves.setdefault(number, found)
            for output, shape in enumerate(shapes):
                values[number, counts.get(number, 0), output] = shape
            counts[number] = counts.get(number, 0) + 1
        return [values[each] for each in self.outputs], [leaf for n in sorted(leaves) for leaf in leaves[n]]


def _entry_shapes(entry: Any, given: list[Shape], path: str) -> tuple[list[Shape], list[Leaf]]:
    if isinstance(entry, SavedModel):
        return entry.shapes(given, path)
    shape = entry._joined(given)
    return [entry.output_shape(shape)], [(entry, path, shape)]


def entry_paths(entries: Sequence[Any], above: str = "") -> list[str]:
    """The path at which Keras keeps the weights of each entry of a model: by its class, numbered."""
    seen: dict[str, int] = {}
    paths = []
    for entry in entries:
        model = isinstance(entry, SavedModel) or hasattr(entry, "_entry_calls")
        name = snake_case(_class_name(entry)) if model else default_name(type(entry))
        seen[name] = seen.get(name, -1) + 1
        number = f"_{seen[name]}" if seen[name] else ""
        paths.append(f"{above}layers/{name}{number}/" + ("" if model else "vars"))
    return paths


def _is_graph(entry: Any) -> bool:
    """Whether a layer, as it is or as it was saved, is a model that is no stack."""
    if isinstance(entry, SavedModel):
        return bool(entry.sources)
    return hasattr(entry, "_entry_calls") and type(entry).__name__ != "Sequential"


def _class_name(model: Any) -> str:
    return "Functional" if _is_graph(model) else "Sequential"


def to_model(config: Any, where: str, depth: int = 0) -> SavedModel:
    """What the entry of a model says, and its layers, without weights."""
    inner = _fields(config, where)
    kind = (config.get("module"), config.get("class_name"))
    if kind not in (("keras", "Sequential"), ("keras.src.models.functional", "Functional"), ("keras", "Functional")):
        raise ValueError(
            f"{where}: models of the class {config.get('class_name')!r} are not supported by tinyconv. "
            "Expected a Sequential or a Functional."
        )
    if depth > DEEPEST:
        raise ValueError(f"{where}: models within models, more than {DEEPEST} deep, are not supported by tinyconv.")
    entries: Any = inner.get("layers")
    name: Any = inner.get("name")
    if not isinstance(entries, list):
        raise ValueError(f"{where} is damaged: the model has no list of layers.")
    if len(entries) > MOST_LAYERS + 1:
        raise ValueError(f"{where}: expected at most {MOST_LAYERS:,} layers. Received: {len(entries):,}.")
    _check_name(name, where)
    if not isinstance(inner.get("trainable", True), bool):  # else it says nothing that the layers do not say
        raise ValueError(f"{where} is damaged: expected trainable to be true or false.")
    entries = [as_layer(entry, f"{where}, layer {number}") for number, entry in enumerate(entries)]
    found = [_to_entry(entry, f"{where}, layer {number}", depth) for number, entry in enumerate(entries)]
    if kind[1] == "Functional":
        return _to_graph(name, found, entries, inner, where)
    shape: Any = inner.get("build_input_shape")
    if any(isinstance(each, layers.InputLayer) for each in found[1:]):
        raise ValueError(f"{where}: an InputLayer must come first.")
    if found and isinstance(found[0], layers.InputLayer):
        source = found.pop(0)
        return SavedModel(name, found, source.shape, source)
    return SavedModel(name, found, None if shape is None else _sample(shape, where))


def _to_entry(entry: Any, place: str, depth: int) -> Any:
    class_name = entry.get("class_name") if isinstance(entry, dict) else None
    if class_name in ("Sequential", "Functional"):
        return to_model(entry, place, depth + 1)
    if class_name == "InputLayer":
        fields = _fields(entry, place)
        shape = _batch_shape(fields, place)
        name = _given_name(fields.get("name"), place)
        size = shape[0] if isinstance(shape, list) and shape and _size(shape[0]) else None
        return layers.InputLayer(_sample([None, *shape[1:]] if size else shape, place), size, name=name)
    return to_object(entry, "keras.layers", place)


def _given_name(name: Any, where: str) -> str | None:
    if name is not None:
        _check_name(name, where)
    return name


def _sample(shape: Any, where: str) -> Shape:
    """The shape of one sample, of a batch's."""
    if not isinstance(shape, list) or not shape or shape[0] is not None or not all(_size(n) for n in shape[1:]):
        raise ValueError(f"{where}: expected an input shape such as [null, 28, 28, 1]. Received: {received(shape)}.")
    return tuple(shape[1:])


def _to_graph(name: str, found: list[Any], entries: list[Any], inner: Config, where: str) -> SavedModel:
    """A functional model: its calls put in an order in which each comes after those that it depends on."""
    numbers = {each.name: number for number, each in enumerate(found)}
    if len(numbers) < len(found):
        raise ValueError(f"{where}: two layers have the same name.")

    def tensor(history: Any) -> Tensor:
        fits = isinstance(history, list) and len(history) == 3 and all(type(n) is int and n >= 0 for n in history[1:])
        if not fits or not isinstance(history[0], str) or history[0] not in numbers:
            raise ValueError(f"{where} is damaged: {received(history)} is not the output of a layer.")
        return numbers[history[0]], history[1], history[2]

    waiting = []
    for number, entry in enumerate(entries):
        nodes = entry.get("inbound_nodes")
        if not isinstance(nodes, list) or len(nodes) > MOST_LAYERS:
            raise ValueError(f"{where}: layer {number} does not say what it is called on.")
        for node_number, node in enumerate(nodes):
            waiting.append((number, node_number, [tensor(each) for each in _histories(node, where)]))
    if isinstance(inner.get("output_layers"), dict):
        raise ValueError(f"{where}: a dictionary of outputs is not supported by tinyconv. Expected a list.")
    sources = [tensor(each)[0] for each in _several(inner.get("input_layers"))]
    graphs = {name for name, number in numbers.items() if _is_graph(found[number])}
    ends = [each for each in _several(inner.get("output_layers")) if tensor(each)]
    outputs = [tensor(_end(each, graphs, -1)) for each in ends]
    if not sources or not outputs or not all(isinstance(found[each], layers.InputLayer) for each in sources):
        raise ValueError(f"{where} is damaged: the model has no inputs or no outputs.")
    known: set[tuple[int, int]] = {(each, 0) for each in sources}
    calls: list[tuple[int, list[Tensor]]] = []
    while waiting:
        ready = [each for each in waiting if _is_ready(each, known)]
        if not ready:
            raise ValueError(f"{where} is damaged: its layers wait for one another.")
        known |= {each[:2] for each in ready}
        calls += [(number, reads) for number, _, reads in ready]
        waiting = [each for each in waiting if each[:2] not in known]
    if not {each[:2] for each in outputs} <= known:
        raise ValueError(f"{where} is damaged: an output is not the output of a layer.")
    return SavedModel(name, found, (), None, sources, calls, outputs)


def _is_ready(call: tuple[int, int, list[Tensor]], known: set[tuple[int, int]]) -> bool:
    number, node, reads = call
    return all(read[:2] in known for read in reads) and (node == 0 or (number, node - 1) in known)


def _several(ends: Any) -> list[Any]:
    """One end of a model, or the list of them."""
    if isinstance(ends, dict):  # inputs by their names
        return [ends[name] for name in sorted(ends)]
    if not isinstance(ends, list):
        return []
    return [ends] if ends and isinstance(ends[0], str) else ends


def _histories(node: Any, where: str) -> list[Any]:
    """Whose outputs a layer is called on."""
    if not isinstance(node, dict) or not isinstance(node.get("args"), list) or len(node["args"]) != 1:
        raise ValueError(f"{where}: a layer's call is not supported by tinyconv. Expected one argument.")
    for key, value in (node.get("kwargs") or {}).items() if isinstance(node.get("kwargs"), dict) else ():
        if value is not None and not (key == "training" and value is False):
            raise ValueError(f"{where}: a layer called with {key}={value!r} is not supported by tinyconv.")
    (given,) = node["args"]
    tensors = given if isinstance(given, list) else [given]
    found = []
    for each in tensors:
        if not isinstance(each, dict) or each.get("class_name") != "__keras_tensor__":
            raise ValueError(f"{where}: a layer called on {received(each)} is not supported by tinyconv.")
        found.append(_fields(each, where).get("keras_history"))
    return found


def to_compilation(config: Mapping[str, Any], where: str) -> Config:
    """The arguments of ``compile`` in a saved model."""
    optimizer, measured = config.get("optimizer"), {what: config.get(what) or [] for what in METRICS}
    for what, given in measured.items():
        if not isinstance(given, list | dict):
            raise ValueError(f"{where}: expected a list of {what}. Received: {received(given)}.")
    return {
        "optimizer": optimizers.get(_name_or_object(optimizer, "keras.optimizers", f"{where}, optimizer")),
        "loss": _each(config.get("loss") or None, "keras.losses", f"{where}, loss"),
        "loss_weights": config.get("loss_weights"),
        **{what: _each(given, "keras.metrics", f"{where}, {what}") for what, given in measured.items()},
    }


def _each(value: Any, module: str, where: str) -> Any:
    """A name or an object, or a list or a dict of them, one for each output."""
    if isinstance(value, list):
        return [_each(each, module, where) for each in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {name: _each(each, module, where) for name, each in value.items()}
    found = None if value is None else _name_or_object(value, module, where)
    return losses.get(found) if found is not None and module == "keras.losses" else found


def _name_or_object(value: Any, module: str, where: str) -> Any:
    return value if isinstance(value, str) else to_object(value, module, where)


def to_object(entry: Any, module: str, where: str) -> Any:
    """The object that an entry in Keras' notation stands for, of the given one of Keras' modules."""
    config = _fields(entry, where)
    found, class_name = str(entry.get("module")), str(entry.get("class_name"))
    kind = CLASSES.get((found, class_name))
    if kind is None or entry.get("registered_name"):
        return _to_own(entry, module, config, where)
    if not _belongs(found, module):
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


def _to_own(entry: Config, module: str, config: Config, where: str) -> Any:
    """An object of a class of the user's own, if it has been told of."""
    names = [name for name in (entry.get("registered_name"), entry.get("class_name")) if isinstance(name, str)]
    kind = next(filter(None, map(get_registered_object, names)), None)
    wanted = module == "keras.layers"
    if kind is None or not wanted or not issubclass(kind, layers.Layer):
        fix = ""
        if wanted and kind is None and not str(entry.get("module")).startswith("keras"):
            told = f"custom_objects={{{entry.get('class_name')!r}: ...}}"
            fix = f" Fix: a class of your own is known by @register_keras_serializable() or {told}."
        found = f"{entry.get('class_name')!r} of {entry.get('module')!r}"
        raise ValueError(f"{where}: {found} is not supported by tinyconv.{fix}")
    arguments = {key: to_value(value, f"{where} ({kind.__name__}), {key}") for key, value in config.items()}
    if arguments.get("name") is not None:
        _check_name(arguments["name"], where)
    return _made(lambda: kind.from_config(arguments), {}, where)


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
    if "class_name" not in value:
        return {key: to_value(each, f"{where}, {key}") for key, each in value.items()}
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
    for key, expected in (("dtype", (*FLOAT32, "uint8")), ("sparse", (None, False)), ("ragged", (None, False))):
        value = to_value(config.get(key), where)
        if value not in expected:
            raise ValueError(f"{where}: Input({key}={value!r}) is not supported by tinyconv.")
    return config.get("batch_shape")


def _size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31
