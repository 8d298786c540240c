"""Classes of the user's own that files may name: registered for good, or for the length of a with-block.

A file is read as data: what it names is looked up, never imported. So a class of your own has to be told of first.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from tinyconv.checking import invalid
from tinyconv.checking.messages import received

Kind = TypeVar("Kind", bound=type)

_objects: dict[str, type] = {}  # by "package>name"
_scope: ContextVar[dict[str, type]] = ContextVar("custom objects", default={})  # noqa: B039 - is replaced, not changed


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[Kind], Kind]:
    """A decorator of a layer of your own, which files know by ``package`` and ``name`` (by default the class's) from
    then on."""
    for argument, value in (("package", package), ("name", name)):
        if not (value is None and argument == "name") and (not isinstance(value, str) or not value or ">" in value):
            raise invalid("register_keras_serializable", argument, "a non-empty text without '>'", value)

    def register(kind: Kind) -> Kind:
        if not isinstance(kind, type) or not hasattr(kind, "get_config"):
            raise TypeError(
                "register_keras_serializable: expected a class with get_config(), such as one of your own layers. "
                f"Received: {received(kind)}."
            )
        _objects[f"{package}>{name or kind.__name__}"] = kind
        return kind

    return register


def get_registered_name(obj: type) -> str:
    """The name under which files know a class: "package>name", or its own name if it is not registered."""
    if not isinstance(obj, type):
        raise invalid("get_registered_name", "obj", "a class", obj)
    return next((name for name, kind in _objects.items() if kind is obj), obj.__name__)


def get_registered_object(
    name: str, custom_objects: Mapping[str, type] | None = None, module_objects: None = None
) -> Any:
    """The class that is known by that name; None if there is none."""
    if not isinstance(name, str):
        raise invalid("get_registered_object", "name", "a text", name)
    return {**checked(module_objects), **checked(custom_objects), **_objects, **_scope.get()}.get(name)


def get_custom_objects() -> dict[str, type]:
    """The registered classes by name: the dictionary itself."""
    return _objects


class CustomObjectScope:
    """``with custom_object_scope({"MyLayer": MyLayer}): ...``: files read inside know these classes by these names."""

    def __init__(self, custom_objects: Mapping[str, type] | None) -> None:
        self.custom_objects = checked(custom_objects)

    def __enter__(self) -> "CustomObjectScope":
        self._token = _scope.set({**_scope.get(), **self.custom_objects})
        return self

    def __exit__(self, *error: object) -> None:
        _scope.reset(self._token)


custom_object_scope = CustomObjectScope


def checked(custom_objects: Any) -> dict[str, type]:
    """The argument ``custom_objects`` of whatever has one."""
    if custom_objects is None:
        return {}
    fits = isinstance(custom_objects, Mapping) and all(
        isinstance(name, str) and isinstance(kind, type) for name, kind in custom_objects.items()
    )
    if not fits:
        raise invalid("", "custom_objects", 'None, or a dict of classes by name, {"MyLayer": MyLayer}', custom_objects)
    return dict(custom_objects)
