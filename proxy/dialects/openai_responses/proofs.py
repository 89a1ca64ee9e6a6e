"""Proofs of another provider's thinking, on their way through a client that speaks this dialect.

The API keeps a model's reasoning between turns in `encrypted_content`: an opaque text, which every client hands back as
it got it. So that is where the proof of thinking from elsewhere travels too, sealed with the name of who minted it:

    pointsman/anthropic/signature/EqQB…     thinking, and what its provider wants back with it
    pointsman/anthropic/redacted/EmwK…      thinking that nobody may read
    pointsman/gemini/call/CiQB…             proof of the tool call that comes behind it
    pointsman/gemini/text/CiQB…             proof of the words that came before it
    pointsman/openai-chat/                  thinking without a proof

Each proof goes back to its own mint alone. No seal ever reaches a provider that speaks this dialect, which would refuse
it: `unsealed_request` takes such items out of a request that otherwise passes as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_responses.vocabulary import NAME

_SEAL = "pointsman/"


def seal(thinking: ir.Thinking) -> str | None:
    """What stands in `encrypted_content`; None where this dialect's own thinking has none."""
    if thinking.dialect == NAME:
        return thinking.encrypted
    for kind, proof in (("signature", thinking.signature), ("redacted", thinking.redacted)):
        if proof is not None:
            return f"{_SEAL}{thinking.dialect}/{kind}/{proof}"
    return f"{_SEAL}{thinking.dialect}/"


def seal_proof(of: str, signature: str) -> str:
    """Of a call or a text, which Gemini alone proves."""
    return f"{_SEAL}gemini/{of}/{signature}"


def is_sealed(item: Any) -> bool:
    proof = item.get("encrypted_content") if isinstance(item, dict) else None
    return isinstance(proof, str) and proof.startswith(_SEAL)


def unseal(proof: str) -> tuple[str, str, str]:
    """Who minted it, what it proves ("" for nothing), and the proof itself."""
    dialect, _, rest = proof.removeprefix(_SEAL).partition("/")
    kind, _, data = rest.partition("/")
    return dialect, kind, data


def unsealed_request(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The request without what was sealed here; None where nothing is, and its bytes may pass."""
    items = body.get("input")
    if not isinstance(items, list) or not any(map(is_sealed, items)):
        return None
    return {**body, "input": [item for item in items if not is_sealed(item)]}
