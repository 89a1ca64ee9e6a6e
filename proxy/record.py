"""attrs' classes, made with less: what they do is the same, and a daemon with hundreds of them starts sooner.

attrs writes and compiles each method of each class. Of these only `__init__` has to be as quick as that can make it. To
compare and to hash, one function in C gets all fields at once; and nobody waits for a `repr`, so one serves all.
A class with methods of its own for these keeps them, as in attrs.

Records are values that nobody changes, made many times for every request. attrs takes six times as long to fill a
frozen object as another one, so they are frozen for the type checker alone, which sees every assignment there is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from attrs import define, frozen
    from attrs import frozen as record
else:

    def _kind(make: Callable[..., Any], *, hashes: bool) -> Callable[..., Any]:
        def decorate(cls: type | None = None, /, *, eq: bool = True, **options: Any) -> Any:
            if cls is None:
                return lambda cls: decorate(cls, eq=eq, **options)
            own = cls.__dict__
            made = make(cls, eq=False, repr=False, **options)
            if "__repr__" not in own:
                made.__repr__ = _repr
            if eq and "__eq__" not in own:
                _compare(made, hashes=hashes and "__hash__" not in own)
            return made

        return decorate

    def _compare(made: type, *, hashes: bool) -> None:
        names = [field.name for field in attrs.fields(made) if field.eq]
        values = attrgetter(*names) if names else type

        def __eq__(self: object, other: object) -> Any:  # noqa: N807
            if self is other:
                return True
            return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

        def __hash__(self: object) -> int:  # noqa: N807
            return hash(values(self))

        made.__eq__ = __eq__
        made.__hash__ = __hash__ if hashes else None

    @recursive_repr()
    def _repr(self: Any) -> str:
        shown = (f"{it.name}={getattr(self, it.name, attrs.NOTHING)!r}" for it in attrs.fields(type(self)) if it.repr)
        return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(shown)})"

    define = _kind(attrs.define, hashes=False)
    frozen = _kind(attrs.frozen, hashes=True)
    record = _kind(attrs.define, hashes=True)

__all__ = ["define", "frozen", "record"]
