"""Records: values that nobody changes, made many times for every request.

attrs takes six times as long to fill a frozen object as another one. So records are frozen for the type checker alone,
which sees every assignment there is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as record
else:
    from attrs import define

    record = partial(define, unsafe_hash=True)

__all__ = ["record"]
