"""A model made of the same layers, with weights of its own."""

from collections.abc import Callable
from typing import Any

from tinyconv import checking
from tinyconv.checking.messages import explained, refuse
from tinyconv.files import keras_config
from tinyconv.layers import Input
from tinyconv.models.model import Model
from tinyconv.models.sequential import Sequential


@explained
def clone_model(
    model: Model,
    input_tensors: None = None,
    clone_function: Callable[[Any], Any] | None = None,
    call_function: Callable[..., Any] | None = None,
    recursive: bool = False,
) -> Any:
    """A model of layers like those of ``model``, with new weights; compiled in the same way, if that one is.

    Args:
        model: what to clone.
        input_tensors: must be None.
        clone_function: what to do with each layer but the inputs: a function of a layer that returns a layer. By
            default ``type(layer).from_config(layer.get_config())``.
        call_function: of a graph, how to call a new layer: a function (layer, x) that returns a tensor. By default
            ``layer(x)``.
        recursive: whether to do the same with the layers of models within.
    """
    if not isinstance(model, Model):
        raise checking.invalid("clone_model", "model", "a Sequential or a Model", model)
    refuse("clone_model()", {"input_tensors": input_tensors}, {"input_tensors": (None,)})
    recursive = checking.boolean("clone_model", "recursive", recursive)
    for name, function in (("clone_function", clone_function), ("call_function", call_function)):
        if function is not None and not callable(function):
            raise checking.invalid("clone_model", name, "a function, or None", function)
    cloned: dict[int, Any] = {}

    def clone(layer: Any) -> Any:
        if id(layer) not in cloned:
            if recursive and isinstance(layer, Model):
                cloned[id(layer)] = clone_model(layer, None, clone_function, call_function, True)
            else:
                config = layer.get_config
                cloned[id(layer)] = clone_function(layer) if clone_function else type(layer).from_config(config())
        return cloned[id(layer)]

    cloned_as = _cloned_stack if isinstance(model, Sequential) else _cloned
    new = cloned_as(model, clone, call_function)  # type: ignore[arg-type]
    if model._compiled is not None:
        config = keras_config.of_model(model)["compile_config"]
        new.compile(**keras_config.to_compilation(config, "clone_model"), backend=model._compiled["backend"])
    return new


def _cloned_stack(model: Sequential, clone: Callable[[Any], Any], call_function: Any) -> Sequential:
    if call_function is not None:
        raise ValueError(
            "clone_model: a Sequential calls no layers. Expected call_function=None. Fix: clone_function, or a Model."
        )
    sources = [Input(layer.shape, layer.batch_size, name=layer.name) for layer in model._inputs]
    return Sequential([*sources, *map(clone, model.layers)], name=model.name)


def _cloned(model: Model, clone: Callable[[Any], Any], call_function: Any) -> Model:
    sources = [Input(layer.shape, layer.batch_size, name=layer.name) for layer in model._inputs]
    values: dict[int, Any] = dict(enumerate(sources))
    for call in model._entry_calls():
        layer, reads = clone(call.entry), [values[number] for number in call.reads]
        given = reads if len(reads) > 1 else reads[0]
        found = call_function(layer, given) if call_function else layer(given)
        values.update(zip(call.gives, found if isinstance(found, list) else [found], strict=True))
    return Model(sources, [values[number] for number in model._outputs], name=model.name)
