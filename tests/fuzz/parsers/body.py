"""Bodies of the gateway's requests: JSON, and what the fields of chats and texts ask for. The first byte says which."""

from __future__ import annotations

import json
import random

from del_client.gateway.asked import Asked, read_chat, read_text
from del_client.gateway.bodies import parse
from del_client.gateway.errors import ApiError, api_error
from del_client.gateway.settings import GatewaySettings
from del_client.message import Message
from del_client.options import read_options
from del_codec.errors import InvalidValue

from ..target import Target
from ..values import every_third, other_json

_CHAT, _TEXT = b"c", b"t"
_SETTINGS = GatewaySettings()
_WORDS = (
    "model messages role content type text system developer user assistant tool prompt max_tokens "
    "max_completion_tokens temperature top_p seed stop stream stream_options include_usage logprobs top_logprobs n "
    "best_of del mu bits clear marks top_k repetition_penalty response_format tools null true false NaN 1e400 -0.0 "
    "18446744073709551616 \\ud800 \\u0000 \\\\{{ {{name: }}"
)


def check(data: bytes) -> None:
    read = read_text if data[:1] == _TEXT else read_chat
    try:
        asked = read(parse(data[1:]))
    except ApiError as error:
        assert error.status in (400, 413, 415)
        assert json.loads(bytes(error.response().body))["error"]["message"]
        return
    try:
        _check_asked(asked)
    except InvalidValue as error:
        assert api_error(error).status == 400


def _check_asked(asked: Asked) -> None:
    asked.label.encode()
    asked.model.encode()
    assert 1 <= asked.choices <= 8
    for choice in range(asked.choices):
        options = read_options(asked.options_of(choice, _SETTINGS))
        options.generation()
    texts = [one.text for one in asked.messages] if hasattr(asked, "messages") else list(asked.prompts)
    assert asked.lengths == ([sum(map(len, texts))] if hasattr(asked, "messages") else list(map(len, texts)))
    for text in texts:
        assert Message("user", text).content == text


def seeds() -> list[bytes]:
    chat = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "I am {{name:Anna}}."}]},
            {"role": "assistant", "content": "Hello"},
            {"role": "tool", "content": "7", "tool_call_id": "x"},
        ],
        "max_completion_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["."],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        "del": {"mu": 12.5, "bits": 2, "top_k": 5, "repetition_penalty": 1.1, "marks": False, "clear": False},
    }
    text = {
        "model": "m",
        "prompt": ["a", "b"],
        "max_tokens": 3,
        "logprobs": 1,
        "best_of": 1,
        "echo": False,
        "suffix": "",
    }
    least = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    bodies = [(_CHAT, chat), (_CHAT, least), (_TEXT, text), (_TEXT, {"model": "m", "prompt": "x"})]
    return [kind + json.dumps(body).encode() for kind, body in bodies]


def _other(data: bytes, draw: random.Random) -> bytes:
    return data[:1] + other_json(data[1:], draw)


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 20) + 512 * size,
    modules=("del_client.gateway.bodies", "del_client.gateway.asked", "del_client.gateway.fields"),
    most_bytes=8192,
    mutate=every_third(_other),
    words=tuple(word.encode() for word in _WORDS.split()),
)
