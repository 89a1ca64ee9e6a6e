"""Media as URLs: `data:` ones hold the bytes themselves."""

from __future__ import annotations

import re
from typing import Any

from proxy import ir

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*?;base64,", re.IGNORECASE)
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav", "mp4": "m4a", "x-m4a": "m4a"}


def source_of(url: str) -> ir.Blob | ir.Url:
    head = _DATA.match(url[:256])
    return ir.Blob(url[head.end() :], head[1]) if head else ir.Url(url)


def url_of(source: ir.Blob | ir.Url, default_type: str) -> str:
    match source:
        case ir.Url():
            return source.url
        case ir.Blob():
            return f"data:{source.media_type or default_type};base64,{source.data}"


def audio_format(media_type: str | None) -> str:
    """OpenAI's word for a media type: audio/mpeg is mp3."""
    tail = (media_type or "").partition("/")[2].partition(";")[0].lower()
    return _AUDIO_FORMATS.get(tail, tail) or "wav"


def image_of(raw: Any) -> ir.Image | None:
    """OpenRouter's images: parts as in a request."""
    inner = raw.get("image_url") if isinstance(raw, dict) else None
    url = inner.get("url") if isinstance(inner, dict) else inner
    return ir.Image(source_of(url)) if isinstance(url, str) and url else None


def image_part(image: ir.Image) -> dict[str, Any] | None:
    """As OpenRouter has generated images in `images`; None for one that only a provider's file id names."""
    if not isinstance(image.source, ir.Blob | ir.Url):
        return None
    return {"type": "image_url", "image_url": {"url": url_of(image.source, "image/png")}}
