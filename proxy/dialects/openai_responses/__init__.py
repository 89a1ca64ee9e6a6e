"""OpenAI's Responses API, and the providers that offer it too.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from proxy.dialects import openai_chat
from proxy.dialects.dialect import ClientCodec, Dialect
from proxy.dialects.openai_responses.answer_reader import check_answer, decode_answer
from proxy.dialects.openai_responses.answer_writer import encode_answer
from proxy.dialects.openai_responses.failure import read_error, write_error
from proxy.dialects.openai_responses.proofs import unsealed_request
from proxy.dialects.openai_responses.request_reader import decode_request
from proxy.dialects.openai_responses.request_writer import encode_request
from proxy.dialects.openai_responses.shape import read_shape
from proxy.dialects.openai_responses.stream_reader import DONE, StreamDecoder
from proxy.dialects.openai_responses.stream_writer import StreamEncoder
from proxy.dialects.openai_responses.tap import PROBES, Tap
from proxy.dialects.openai_responses.vocabulary import NAME, READS


def path(endpoint: str, native: str, stream: bool) -> str:
    """The other endpoints are those of whoever speaks Chat."""
    return "/responses" if endpoint == "chat" else openai_chat.path(endpoint, native, stream)


TYPES: dict[str, tuple[type, ...]] = {
    "input": (str, list),
    "instructions": (str,),
    "max_output_tokens": (int, float),
    "temperature": (int, float),
    "top_p": (int, float),
    "tools": (list,),
    "tool_choice": (str, dict),
    "parallel_tool_calls": (bool,),
    "text": (dict,),
    "reasoning": (dict,),
    "include": (list,),
    "metadata": (dict,),
}


CODEC = ClientCodec(
    encode_request=encode_request,
    decode_answer=decode_answer,
    stream_decoder=StreamDecoder,
    decode_request=decode_request,
    encode_answer=encode_answer,
    stream_encoder=StreamEncoder,
)
DIALECT = Dialect(
    name=NAME,
    speaks=NAME,
    framing="sse",
    path=path,
    credential=openai_chat.credential,
    fixed_headers=(),
    read_shape=read_shape,
    codec=lambda: CODEC,
    check_answer=check_answer,
    tap=Tap,
    read_error=read_error,
    write_error=write_error,
    probes=PROBES,
    types=TYPES,
    farewell=DONE,
    terminator=b"",  # the terminal event holds the whole answer: there is none to add where it is missing
    mend_request=unsealed_request,
    reads=READS,
    repeats=True,
)
