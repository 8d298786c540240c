"""Keras' operations as layers.

For an operator or a function of tensors (``a + b``, ``0.5 * x``, ``keras.ops.relu(x)``) a model that Keras saved has an
entry that is no layer. Before anything else is read, each becomes the entry of the layer that computes the same, still
in Keras' notation; an operation that no layer computes is refused by its name.
"""

from collections.abc import Callable
from typing import Any

from tinyconv.checking.messages import received

Config = dict[str, Any]
MODULES = ("keras.src.ops.", "keras.src.activations.")
JOINS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Exp": "exponential",
    "Selu": "selu",
    "Silu": "silu",
    "HardSilu": "hard_silu",
}
NAMESAKES = {"ReLU": "ReLU", "LeakyRelu": "LeakyReLU", "Elu": "ELU", "Softmax": "Softmax", "Concatenate": "Concatenate"}
POOLS = {"Mean": "GlobalAveragePooling2D", "Max": "GlobalMaxPooling2D"}  # over the axes of an image
RESCALED: dict[tuple[str, bool], Callable[[Any], tuple[float, float]]] = {  # scale and offset
    # by the class, and whether the number stands before the tensor
    ("Add", False): lambda n: (1, n),
    ("Add", True): lambda n: (1, n),
    ("Subtract", False): lambda n: (1, -n),
    ("Subtract", True): lambda n: (-1, n),
    ("Multiply", False): lambda n: (n, 0),
    ("Multiply", True): lambda n: (n, 0),
    ("Divide", False): lambda n: (1 / n, 0),
    ("TrueDivide", False): lambda n: (1 / n, 0),
}


def as_layer(entry: Any, where: str) -> Any:
    """The entry of the layer that computes what the operation ``entry`` does; an entry of another kind as it is."""
    if not isinstance(entry, dict) or not str(entry.get("module")).startswith(MODULES):
        return entry
    config, nodes = entry.get("config"), entry.get("inbound_nodes")
    node = nodes[0] if isinstance(nodes, list) and len(nodes) == 1 else None
    if not isinstance(config, dict) or not isinstance(node, dict) or not isinstance(node.get("args"), list):
        raise ValueError(f"{where}: expected an operation of Keras that is called once. Received: {received(entry)}.")
    arguments = {key: value for key, value in config.items() if key != "name"}
    found = _layer(str(entry.get("class_name")), arguments, node["args"])
    if found is None:
        given = ", ".join(f"{key}={received(value)}" for key, value in arguments.items())
        others = [received(each) for each in node["args"] if not _is_tensor(each) and not isinstance(each, list)]
        beside = f" with {others[0]}" if others else ""
        raise ValueError(
            f"{where}: the operation {entry.get('class_name')}({given}){beside} is not supported by tinyconv. Expected "
            "one that a layer computes. Fix: that layer in its place, or one of your own, see tinyconv.Layer."
        )
    kind, arguments, reads = found
    layer = {"module": "keras.layers", "class_name": kind, "config": {"name": config.get("name"), **arguments}}
    return {**layer, "inbound_nodes": [{**node, "args": [reads]}]}


def _layer(kind: str, config: Config, args: list[Any]) -> tuple[str, Config, Any] | None:
    """The class, the arguments and the inputs of the layer that computes an operation, if there is one."""
    tensors = [each for each in args if _is_tensor(each)]
    numbers = [each for each in args if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(args) == 2 and len(tensors) == 2 and kind in JOINS:
        return kind, {}, args
    if len(args) == 2 and len(tensors) == len(numbers) == 1:
        number, first = numbers[0], args[0] is numbers[0]
        if kind == "Maximum" and not number:
            return "ReLU", {}, tensors[0]
        if (kind, first) in RESCALED and (number or "Divide" not in kind):
            scale, offset = RESCALED[kind, first](number)
            return "Rescaling", {"scale": scale, "offset": offset}, tensors[0]
    return _of_one(kind, config, args[0]) if len(args) == 1 else None


def _of_one(kind: str, config: Config, x: Any) -> tuple[str, Config, Any] | None:
    """The same of an operation of one argument."""
    if kind in ACTIVATIONS:
        return "Activation", {"activation": ACTIVATIONS[kind]}, x
    if kind == "Gelu" and config.get("approximate") is False:
        return "Activation", {"activation": "gelu"}, x
    if kind in NAMESAKES:
        return NAMESAKES[kind], config, x
    if kind == "Negative":
        return "Rescaling", {"scale": -1.0}, x
    shape = config.get("newshape")
    if kind == "Reshape" and isinstance(shape, list) and len(shape) > 1 and shape[0] in (None, -1):
        return "Reshape", {"target_shape": shape[1:]}, x
    rank = len(x["config"].get("shape") or ()) if _is_tensor(x) else 0
    if kind in POOLS and rank == 4 and config.get("axis") == [1, 2] and config.get("initial") is None:
        return POOLS[kind], {"keepdims": config.get("keepdims", False)}, x
    return None


def _is_tensor(value: Any) -> bool:
    is_one = isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
    return is_one and isinstance(value.get("config"), dict)
