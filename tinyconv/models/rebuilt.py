"""Models as dictionaries in Keras' notation, and back."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tinyconv.checking.messages import explained
from tinyconv.files import keras_config
from tinyconv.files.keras_archive import reading
from tinyconv.files.keras_config import SavedModel
from tinyconv.files.registered import CustomObjectScope
from tinyconv.layers.symbolic import Tensor


class Rebuilt:
    """What models can say of themselves, so that another one like it can be made."""

    _kinds: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if cls.__module__.startswith("tinyconv."):
            Rebuilt._kinds[cls.__name__] = cls

    def get_config(self) -> dict[str, Any]:
        """The model's name and its layers, as a dictionary that :meth:`from_config` takes; no weights."""
        return keras_config.of_structure(self)["config"]  # type: ignore[arg-type]

    @classmethod
    @explained
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> Any:
        """A model like the one whose ``get_config`` gave this, with new weights.

        Args:
            config: the dictionary.
            custom_objects: classes of your own by name, unless they are registered.
        """
        is_graph = isinstance(config, Mapping) and "input_layers" in config
        kind = ("keras.src.models.functional", "Functional") if is_graph else ("keras", "Sequential")
        where = f"The config of {cls.__name__}.from_config"
        with CustomObjectScope(custom_objects), reading(where):
            # As JSON has it: lists, not tuples
            entry = {"module": kind[0], "class_name": kind[1], "config": json.loads(json.dumps(config))}
            return made(keras_config.to_model(entry, where))

    def to_json(self, **kwargs: Any) -> str:
        """The layers, and how they are compiled, as a JSON text that :func:`tinyconv.models.model_from_json` takes.

        Args:
            **kwargs: for ``json.dumps``: ``indent=2`` makes it readable.
        """
        return json.dumps(keras_config.of_model(self), **kwargs)  # type: ignore[arg-type]


def made(saved: SavedModel) -> Any:
    """The model that a dictionary or a file describes, with new weights."""
    entries = [made(entry) if isinstance(entry, SavedModel) else entry for entry in saved.entries]
    if not saved.sources:
        first = [] if saved.source is None else [saved.source]
        model = Rebuilt._kinds["Sequential"]([*first, *entries], name=saved.name)
        if saved.input_shape is not None:
            model.build((None, *saved.input_shape))
        return model
    values: dict[tuple[int, int, int], Tensor] = {(each, 0, 0): entries[each].output for each in saved.sources}
    counts: dict[int, int] = {}
    for number, reads in saved.calls:
        given = [values[read] for read in reads]
        found = entries[number](given[0] if len(given) == 1 else given)
        for output, tensor in enumerate(found if isinstance(found, list) else [found]):
            values[number, counts.get(number, 0), output] = tensor
        counts[number] = counts.get(number, 0) + 1
    ends = [values[each, 0, 0] for each in saved.sources], [values[each] for each in saved.outputs]
    return Rebuilt._kinds["Model"](*ends, name=saved.name)
