"""What a model's name alone tells: capabilities, window and rank of its family, for models that no table describes.

Local servers and `provider/native-id` names arrive with nothing but a name. A prior from here is only ever the last
word: the table and the provider's own list come first. The ranks are this project's judgement, on the scale of
`routes.toml`.
"""

from __future__ import annotations

import math
import re
from functools import cache

from attrs import evolve

from proxy.record import frozen

# Models that are no use in a conversation: they embed, rank, judge, draw, speak or transcribe.
NO_CHAT = (
    r"(?i)embed|rerank|minilm|moderation|guard|shieldgemma|whisper|transcri|text-to-speech|dall-e|gpt-image|imagen"
    r"|diffusion|\b(bge|gte|e5|tts|flux|sdxl|veo|sora|realtime|babbage|davinci)\b"
)
POINTS_PER_DOUBLING = 6  # of quality, per doubling of parameters: what the open families show between 3 and 70 billion

# 8x7b is 56; the first size in a name is the whole model's (`gemma-4-26b-a4b` is 26, with 4 active).
_SIZE = r"(?<![\w.])e?(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])"


@frozen
class Family:
    """A line of models; None is unknown.

    `quality` and `reasoning`, 0 to 100, are those of the member with `size` billion parameters, which is also the one
    that a name without a size means (an Ollama name without a tag). No `size`: all members rank alike.
    """

    name: str
    capabilities: frozenset[str] = frozenset()
    context: int | None = None  # tokens
    quality: int | None = None
    reasoning: int | None = None
    size: float | None = None


UNKNOWN = Family("unknown")


def _row(
    pattern: str, name: str, capabilities: str, context: int, quality: int, reasoning: int, size: float | None = None
) -> tuple[str, Family]:
    return pattern, Family(name, frozenset(capabilities.split()), context, quality, reasoning, size)


_CHAT = "code vision files tools parallel_tools json"
_CLOSED = "code reasoning vision files tools parallel_tools json"

_compiled = cache(re.compile)  # when a name first gets as far as to a row: few tables have models of all of them

# The first row that matches the start of the name wins: the particular before the general.
FAMILIES = (
    # closed, by their makers' own names
    _row(r"gpt-4o.*(audio|realtime)|gpt-(audio|realtime)", "gpt-audio", "audio tools", 128_000, 65, 50),
    _row(r"gpt-4o-mini|gpt-4\.1-(mini|nano)", "gpt-4o-mini", _CHAT, 128_000, 60, 50),
    _row(r"(chat)?gpt-4o", "gpt-4o", _CHAT, 128_000, 74, 62),
    _row(r"gpt-4\.1", "gpt-4.1", _CHAT, 1_047_576, 77, 66),
    _row(r"gpt-3\.5", "gpt-3.5", "tools json", 16_385, 42, 30),
    _row(r"gpt-4", "gpt-4", "code tools json", 8_192, 62, 52),
    _row(r"gpt-image|dall-e", "gpt-image", "images", 32_000, 50, 0),
    _row(r"gpt-5(\.\d)?-(mini|nano)|gpt-[56](\.\d)?-luna", "gpt-5-mini", f"{_CLOSED} thinking", 400_000, 80, 80),
    _row(r"gpt-[56]", "gpt-5", f"{_CLOSED} thinking", 400_000, 92, 93),
    _row(r"o[34]-mini", "o-mini", f"{_CLOSED} thinking", 200_000, 80, 86),
    _row(r"o[134]($|-)", "o", f"{_CLOSED} thinking", 200_000, 86, 91),
    _row(r"claude-3.*haiku", "claude-3-haiku", _CHAT, 200_000, 60, 48),
    _row(r"claude-.*haiku", "claude-haiku", f"{_CLOSED} thinking", 200_000, 79, 73),
    _row(r"claude-3(\.|-)5-sonnet", "claude-3.5", _CHAT, 200_000, 78, 68),
    _row(r"claude-.*opus", "claude-opus", f"{_CLOSED} thinking", 200_000, 95, 95),
    _row(r"claude", "claude-sonnet", f"{_CLOSED} thinking", 200_000, 89, 88),
    _row(r"gemini.*image|imagen", "gemini-image", "vision images", 32_768, 55, 30),
    _row(r"gemini-\d(\.\d)?-flash-lite", "gemini-lite", f"{_CLOSED} audio", 1_048_576, 66, 58),
    _row(r"gemini.*flash", "gemini-flash", f"{_CLOSED} audio thinking", 1_048_576, 79, 78),
    _row(r"gemini", "gemini-pro", f"{_CLOSED} audio thinking", 1_048_576, 90, 91),
    _row(r"grok", "grok", f"{_CLOSED} thinking", 131_072, 84, 84),
    _row(r"command-", "command", "tools json", 128_000, 60, 48),
    # open weights
    _row(r"gpt-oss.120b", "gpt-oss", "code reasoning tools json thinking", 131_072, 76, 80, 120),
    _row(r"gpt-oss", "gpt-oss", "code reasoning tools json thinking", 131_072, 68, 74, 20),
    _row(r"qwen.*(vl|omni)", "qwen-vl", "vision tools json", 32_768, 50, 42, 8),
    _row(r"qwen3.*coder", "qwen3-coder", "code tools parallel_tools json", 262_144, 66, 60, 30),
    _row(r"(qwen.*|code)coder|codeqwen", "qwen-coder", "code tools json", 32_768, 47, 40, 7),
    _row(r"qwq", "qwq", "code reasoning thinking", 32_768, 66, 80, 32),
    _row(r"qwen-?3", "qwen3", "code reasoning tools parallel_tools json thinking", 40_960, 54, 58, 8),
    _row(r"qwen", "qwen", "code tools json", 32_768, 44, 36, 7),
    _row(r"deepseek-r1.*(distill|[:-]\d+(\.\d+)?b)", "deepseek-r1-distill", "reasoning thinking", 131_072, 62, 76, 32),
    _row(r"deepseek-(r1|reasoner)", "deepseek-r1", "code reasoning json thinking", 131_072, 82, 88, 671),
    _row(r"deepseek-?coder", "deepseek-coder", "code", 16_384, 44, 34, 7),
    _row(r"deepseek", "deepseek", "code reasoning tools parallel_tools json", 131_072, 82, 80, 671),
    _row(r"(code|meta-)?-?llama-?guard", "llama-guard", "", 8_192, 10, 5, 8),
    _row(r"codellama", "codellama", "code", 16_384, 30, 20, 7),
    _row(r"(meta-)?llama-?4", "llama-4", "code vision tools json", 131_072, 62, 52),
    _row(r"(meta-)?llama-?3\.2.*vision", "llama-vision", "vision", 131_072, 42, 32, 11),
    _row(r"(meta-)?llama-?3\.[123]", "llama-3.x", "code tools json", 131_072, 42, 33, 8),
    _row(r"(meta-)?llama", "llama", "", 8_192, 34, 24, 8),
    _row(r"llava|bakllava|moondream", "llava", "vision", 4_096, 25, 15, 7),
    _row(r"devstral|codestral", "codestral", "code tools json", 131_072, 62, 54, 24),
    _row(r"magistral", "magistral", "reasoning tools thinking", 40_960, 64, 70, 24),
    _row(r"pixtral|mistral-(small|medium)-?3|ministral-3", "mistral-3", "code vision tools json", 131_072, 62, 54, 24),
    _row(r"mistral-(large|medium)|mixtral.*8x22", "mistral-large", "code tools parallel_tools json", 131_072, 70, 62),
    _row(r"mistral-(small|nemo)", "mistral-small", "code tools json", 131_072, 56, 46, 22),
    _row(r"(open-)?(mistral|ministral|mixtral)", "mistral", "tools json", 32_768, 35, 26, 7),
    _row(r"glm-\d(\.\d)?-flash|glm-\d(\.\d)?-air", "glm-flash", "code reasoning tools json thinking", 131_072, 68, 68),
    _row(r"(chat)?glm", "glm", "code reasoning tools parallel_tools json thinking", 131_072, 84, 84),
    _row(r"gemma-?4", "gemma-4", "code reasoning vision tools json thinking", 131_072, 72, 70, 26),
    _row(r"gemma-?3", "gemma-3", "vision json", 131_072, 45, 34, 4),
    _row(r"(code)?gemma", "gemma", "", 8_192, 32, 22, 7),
    _row(r"kimi|moonshot", "kimi", "code reasoning tools parallel_tools json", 131_072, 86, 85),
    _row(r"minimax", "minimax", "code reasoning tools json thinking", 196_608, 80, 80),
    _row(r"nemotron", "nemotron", "code reasoning tools json thinking", 131_072, 70, 72, 120),
    _row(r"phi-?4-(mini-)?reasoning", "phi-reasoning", "reasoning thinking", 32_768, 54, 64, 14),
    _row(r"phi-?[34]", "phi", "code json", 16_384, 50, 46, 14),
    _row(r"phi", "phi-2", "", 2_048, 22, 18, 2.7),
    _row(r"granite", "granite", "code tools json", 131_072, 40, 32, 8),
    _row(r"starcoder", "starcoder", "code", 16_384, 34, 20, 15),
    _row(r"smollm", "smollm", "", 8_192, 22, 15, 1.7),
)  # fmt: skip


def chats(name: str) -> bool:
    """Whether a model of that name holds conversations, as far as a name tells."""
    return _compiled(NO_CHAT).search(name) is None


def family(name: str) -> Family:
    """The family that a model's name speaks of, ranked for the size that the name gives; `UNKNOWN` if none.

    Takes any form of the name: `qwen2.5-coder:7b`, `@cf/meta/llama-3.3-70b-instruct-fp8-fast`, `org/Llama-3.1-8B`.
    """
    short = name.lower().rsplit("/", 1)[-1]
    found = next((family for pattern, family in FAMILIES if _compiled(pattern).match(short)), UNKNOWN)
    if found.size is None or not (sized := _compiled(_SIZE).search(short)):
        return found
    size = float(sized[2]) * int(sized[1] or 1) / (1_000 if sized[3] == "m" else 1)
    if not size:
        return found
    points = round(POINTS_PER_DOUBLING * math.log2(size / found.size))
    return evolve(found, quality=_shift(found.quality, points), reasoning=_shift(found.reasoning, points), size=size)


def _shift(rank: int | None, points: int) -> int | None:
    return None if rank is None else min(95, max(5, rank + points))
