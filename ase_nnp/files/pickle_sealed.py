"""Sealed kinds of object: what a foreign pickle may hold and call, and cannot change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ase_nnp.files.pickle_budget import Budget
from ase_nnp.files.pickle_scan import UnpickleError

__all__ = ["Call", "Counted", "Name", "Sealed", "StandIn", "stand_in"]


class Sealed(type):
    """A class whose attributes a pickle cannot replace."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{cls.__name__} is sealed")


class StandIn(metaclass=Sealed):
    """The attributes of a foreign object, in ``__dict__``, and no behavior."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("stand-ins are filled by the unpickler only")

    def __setstate__(self, state: Any) -> None:
        """Take attributes under their names, and no other keys: hashing those may never end."""
        for part in state if type(state) is tuple and len(state) == 2 else (state,):
            if part is not None and not (type(part) is dict and {*map(type, part)} <= {str}):
                raise UnpickleError("the state of an object that holds no named attributes")
            self.__dict__.update(part or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.__dict__)})"


def stand_in(dotted_name: str) -> type[StandIn]:
    """Make a holder class for the foreign class of that dotted name."""
    module, _, name = dotted_name.rpartition(".")
    about = {"__doc__": f"Stands in for {dotted_name}.", "origin": module}
    return Sealed(name, (StandIn,), about)  # type: ignore[return-value]


class Call:
    """A function a pickle may call, without attributes it could set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


class Counted(Call):
    """A function that is told the budget of its file before its arguments."""

    __slots__ = ()

    def within(self, budget: Budget) -> Call:
        """Return the function for one file."""
        return _Bound(self._function, budget)


class _Bound(Call):
    """A function with the budget of one file."""

    __slots__ = ("_budget",)
    _budget: Budget

    def __init__(self, function: Callable[..., Any], budget: Budget) -> None:
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_budget", budget)

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._function(self._budget, *args)


class Name:
    """A name that is only passed around (``torch.float32``, ``builtins.dict``)."""

    __slots__ = ("dotted",)
    dotted: str

    def __init__(self, dotted: str) -> None:
        object.__setattr__(self, "dotted", dotted)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")

    def __repr__(self) -> str:
        return self.dotted
