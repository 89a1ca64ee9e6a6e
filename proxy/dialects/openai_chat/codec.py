"""All that puts conversations into the words of Chat Completions, and back."""

from __future__ import annotations

from proxy.dialects.dialect import ClientCodec
from proxy.dialects.openai_chat.answer_reader import decode_answer
from proxy.dialects.openai_chat.answer_writer import encode_answer
from proxy.dialects.openai_chat.request_reader import decode_request
from proxy.dialects.openai_chat.request_writer import encode_request
from proxy.dialects.openai_chat.stream_reader import StreamDecoder
from proxy.dialects.openai_chat.stream_writer import StreamEncoder

CODEC = ClientCodec(
    encode_request=encode_request,
    decode_answer=decode_answer,
    stream_decoder=StreamDecoder,
    decode_request=decode_request,
    encode_answer=encode_answer,
    stream_encoder=StreamEncoder,
)
