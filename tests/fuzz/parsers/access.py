"""A server's files of who may call: tokens (JSON) and quotas (TOML). The first byte says which of the two follows."""

from __future__ import annotations

import random

from del_codec.errors import AccessDenied, ArtifactError, InvalidValue
from del_server.access.quotas import Quotas
from del_server.access.tokens import Tokens, new_token

from ..place import file_of
from ..target import Target
from ..values import every_third, other_json, other_toml

_TOKENS, _QUOTAS = b"t", b"q"
_WORDS = (
    "tokens id name sha256 expires quota queries_a_minute tokens_a_minute bytes_a_minute streams default NaN "
    "Infinity 1e400 true null -1 \\ud800 0xffff inf nan [a.b] a.a.a"
)


def check(data: bytes) -> None:
    if data[:1] == _QUOTAS:
        _check_quotas(data[1:])
    else:
        _check_tokens(data[1:])


def _check_tokens(data: bytes) -> None:
    try:
        tokens = Tokens.read([data])
    except ArtifactError as error:
        str(error).encode(errors="backslashreplace")
        return
    assert Tokens.read([tokens.written()]).all == tokens.all
    assert len({token.id for token in tokens.all}) == len(tokens.all), "two entries of one id"
    for token in tokens.all:
        assert type(token.expires) is int
        try:
            assert tokens.check_id(token.id) == token
        except AccessDenied:
            assert token.expired()


def _check_quotas(data: bytes) -> None:
    try:
        quotas = Quotas.load(file_of("quotas", data))
    except (ArtifactError, InvalidValue) as error:
        str(error).encode(errors="backslashreplace")
        return
    for quota in quotas.classes.values():
        assert quota.streams >= 1


def seeds() -> list[bytes]:
    tokens = Tokens([new_token(name, "default", days)[1] for name, days in (("ada", 0), ("bob@home", 30))])
    quotas = "[default]\nqueries_a_minute = 5\n[more]\ntokens_a_minute = 0\nbytes_a_minute = 1_000\nstreams = 2\n"
    return [_TOKENS + tokens.written(), _TOKENS + b'{"tokens": []}', _QUOTAS + quotas.encode(), _QUOTAS]


def _other(data: bytes, draw: random.Random) -> bytes:
    return data[:1] + (other_toml if data[:1] == _QUOTAS else other_json)(data[1:], draw)


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (5 << 20) + 512 * size,
    modules=("del_server.access.tokens", "del_server.access.quotas"),
    most_bytes=8192,
    mutate=every_third(_other),
    words=tuple(word.encode() for word in _WORDS.split()),
)
