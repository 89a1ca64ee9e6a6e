"""Every wire format the gateway knows, by name. A new one is a module and a line here.

`DIALECTS` are those that clients speak; providers speak all `UPSTREAMS`.
"""

from proxy.dialects import anthropic, gemini, ollama, openai_chat, openai_responses, workers_ai
from proxy.dialects.dialect import Dialect, Upstream

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai_chat, openai_responses, anthropic, workers_ai)
}
UPSTREAMS: dict[str, Upstream] = DIALECTS | {module.DIALECT.name: module.DIALECT for module in (gemini, ollama)}

__all__ = ["DIALECTS", "UPSTREAMS", "Dialect", "Upstream"]
