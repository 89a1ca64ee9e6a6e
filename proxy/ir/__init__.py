"""The neutral chat model: what a request, an answer and a stream mean, whoever wrote them.

Translation goes dialect -> IR -> dialect; a passthrough never builds it. Everything that a dialect can say and
another may have to repeat has its own field here. What only one dialect can say travels as `Opaque` and is either
given back to that same dialect or named in `Encoded.dropped`: nothing is lost in silence.

`ir.told` is what is known of what passes, too. What conversations are made of, `ir.conversation`, is read when some of
it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proxy.ir.told import *  # noqa: F403

if TYPE_CHECKING:
    from proxy.ir.conversation import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Of conversations. All of it stands here from then on, as if it always had, and no name is looked for here
        any more: Python takes longer to find what stands in a module that may be asked like this."""
        if not name.startswith("_"):
            here, found = globals(), vars(import_module("proxy.ir.conversation"))
            here.update({name: it for name, it in found.items() if name not in here})
            here.pop("__getattr__", None)
            if name in here:
                return here[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
