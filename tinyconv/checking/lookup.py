"""Objects by name, as Keras finds them: "he_normal", "HeNormal", the class, its saved form, or the object itself."""

from collections.abc import Mapping
from typing import Any, TypeVar

from tinyconv.checking.arguments import unknown
from tinyconv.checking.configuration import Configured

Kind = TypeVar("Kind", bound=Configured)


def look_up(what: str, identifier: Any, base: type[Kind], names: Mapping[str, type[Kind]]) -> Kind:
    """The object that ``identifier`` means, of the classes ``names``; ``what`` it is: "loss"."""
    if isinstance(identifier, base):
        return identifier
    classes = {kind.__name__: kind for kind in names.values()}
    if isinstance(identifier, type) and issubclass(identifier, base):
        if identifier not in classes.values():
            raise ValueError(
                f"Unknown {what}: the class {identifier.__name__}. Expected an object. Fix: {identifier.__name__}(...)."
            )
        return identifier()
    if isinstance(identifier, dict) and isinstance(identifier.get("config"), dict):
        kind = classes.get(str(identifier.get("class_name")))
        if kind is not None:
            return kind.from_config(identifier["config"])
    kind = {**names, **classes}.get(identifier) if isinstance(identifier, str) else None
    if kind is None:
        why = f" {base._closed}" if base._closed and callable(identifier) else ""
        raise ValueError(f"{unknown('', what, identifier, names)}{why}")
    return kind()


def saved(value: Any) -> Any:
    """The form in which Keras saves such an object, ready for JSON; numbers, texts and None as they are."""
    module = getattr(type(value), "keras_module", None)
    if module is None:
        return value
    config = {name: saved(argument) for name, argument in value.get_config().items()}
    return {"module": module, "class_name": type(value).__name__, "config": config, "registered_name": None}
