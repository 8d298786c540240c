"""Objects defined by their arguments: layers, losses, metrics, optimisers, initialisers, regularisers, schedules.

The arguments were checked when the object was made, and weights and plans may have been built from them since. So
attributes cannot be set freely: an unknown one is refused (a mistyped name would silently change nothing), and a known
one is checked as the constructor would check it, or refused where it is too late to change it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tinyconv.checking.absent import INSTEAD, missing
from tinyconv.checking.messages import received, suggest, wrong_call


class Configured:
    """Base class. In the constructor attributes are free; afterwards only what a property allows, or an argument as
    long as :meth:`_why_frozen` has no objection. A class of your own may keep further attributes as it likes."""

    _family: ClassVar[str] = ""  # under which :mod:`tinyconv.checking.absent` has what Keras' class has besides
    _closed: ClassVar[str] = ""  # why a user cannot make another such class, and what to use instead

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if cls._closed and not cls.__module__.startswith("tinyconv."):
            raise TypeError(f"{cls.__name__} cannot be made. {cls._closed}")
        if "__init__" in cls.__dict__:
            cls.__init__ = _sealing(cls.__dict__["__init__"])  # type: ignore[method-assign]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An object like the one whose ``get_config`` gave this."""
        if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
            raise TypeError(
                f"Invalid config of {cls.__name__}. Expected a dictionary of its arguments. "
                f"Received: {received(config)}."
            )
        return cls(**config)

    def __repr__(self) -> str:
        """The call that makes such an object."""
        args, kwargs = self.__dict__.get("_arguments", ((), {}))
        given = [*map(received, args), *(f"{name}={received(value)}" for name, value in kwargs.items())]
        return f"{type(self).__name__}({', '.join(given)})"

    def _why_frozen(self) -> str | None:
        """Why no argument can be changed any more; None: they can. Values such as initialisers never change."""
        return "it is a value that others may share"

    def __setattr__(self, name: str, value: Any) -> None:
        if "_arguments" not in self.__dict__ or name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        known = getattr(type(self), name, None)
        if isinstance(known, property):
            if known.fset is None:
                raise AttributeError(f"{name!r} of {self._who()} can be read, not set.")
            known.fset(self, value)
        elif name in self._parameters():
            self._configure(name, value)
        elif type(self).__module__.partition(".")[0] == "tinyconv":
            raise AttributeError(f"{self._who()} has no attribute {name!r} to set. {suggest(name, self._settable())}")
        else:
            object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # a type-checker would believe that every attribute exists

        def __getattr__(self, name):
            known = inspect.getattr_static(type(self), name, None)
            if isinstance(known, property):  # which has an error to tell
                return known.fget(self)
            if name in INSTEAD.get(self._family, ()):
                raise missing(self._family, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if name in self._parameters():
            raise AttributeError(f"{name!r} of {self._who()} cannot be deleted.")
        object.__delattr__(self, name)

    def _who(self) -> str:
        """What messages call the object."""
        return type(self).__name__

    def _parameters(self) -> list[str]:
        """The names of the constructor's arguments."""
        return list(inspect.signature(type(self)).parameters)

    def _settable(self) -> list[str]:
        members = inspect.getmembers(type(self))
        properties = [name for name, member in members if isinstance(member, property) and member.fset]
        arguments = [] if self._why_frozen() else [name for name in self._parameters() if name in self.__dict__]
        return sorted({*(name for name in properties if not name.startswith("_")), *arguments})

    def _configure(self, name: str, value: Any) -> None:
        """Change one argument, as if the object had been made with it."""
        why = self._why_frozen()
        if why is not None:
            raise AttributeError(
                f"{name!r} of {self._who()} cannot be set any more: {why}. Received: {value!r:.200}. "
                f"Fix: make a new {type(self).__name__} with it."
            )
        args, kwargs = self.__dict__["_arguments"]
        arguments = dict(inspect.signature(type(self)).bind(*args, **kwargs).arguments)
        for parameter in inspect.signature(type(self)).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
        checked = type(self)(**{**arguments, name: value})
        self.__dict__.update({key: checked.__dict__[key] for key in (name, "_arguments") if key in checked.__dict__})


def _sealing(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that records its arguments when it ends; from then on attributes are no longer free."""

    @functools.wraps(constructor)
    def sealed(self: Configured, *args: Any, **kwargs: Any) -> None:
        try:
            constructor(self, *args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # not the call itself
                raise
            raise wrong_call(type(self).__name__, constructor, args, kwargs) from None
        if type(self).__init__ is sealed:  # not one that a subclass has called
            self.__dict__["_arguments"] = (args, kwargs)

    return sealed
