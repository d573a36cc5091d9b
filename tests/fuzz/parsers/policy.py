"""Policy files: TOML that says what may leave a device, the regular expressions in it and the word lists it names."""

from __future__ import annotations

from pathlib import Path

from del_client.policy import Policy
from del_client.protection.patterns import Pattern
from del_client.protection.word_list import WordList
from del_codec.errors import InvalidValue

from ..place import file_of
from ..target import Target
from ..values import every_third, other_toml

_WORDS = (
    "delta least_delta servers codecs allow_clear allow_weak redraws commonest memory_bytes [limits. [kinds. token] "
    "secret] prompt] conversation] day] epsilon rho cap mode placeholder private mu bits pad choices words patterns "
    "presidio true false inf nan 0xffff 1979-05-27T07:32:00Z \"\"\" ''' \\U0001F600 \\u0000 {} [[ a.a.a"
)
_WHOLE = """
delta = 1e-5
least_delta = 0
servers = ["127.0.0.1:50051", "b:1"]
codecs = ["{digest}"]
allow_clear = false
allow_weak = false
redraws = 2
commonest = 0.05
memory_bytes = 1_000
[limits.token]
epsilon = 60.0
cap = 0.5
[limits.secret]
cap = 0.01
[limits.day]
rho = 400
[kinds.name]
mode = "placeholder"
patterns = ["[A-Z][a-z]+", "\\\\d{{3}}"]
[kinds.pin]
mode = "private"
mu = 2
bits = 2
pad = 4
choices = 10000
words = ["policy"]
presidio = ["PERSON"]
"""


def check(data: bytes) -> None:
    file = file_of("policy", data)
    try:
        policy = Policy.load(file)
    except InvalidValue as error:
        str(error).encode(errors="backslashreplace")
        return
    assert Policy.from_toml(policy.to_toml(), file.parent) == policy, "not the same when written and read again"
    for kind in policy.kinds.values():
        kind.setting(64)
        for expression in kind.patterns:
            _refused_or_none(Pattern.parse, kind.name, expression)
        for path in kind.words:
            _refused_or_none(WordList.load, kind.name, Path(path))


def _refused_or_none(parse: object, *arguments: object) -> None:
    assert callable(parse)
    try:
        parse(*arguments)
    except InvalidValue:
        return


def seeds() -> list[bytes]:
    whole = _WHOLE.format(digest="0123456789abcdef" * 4)
    return [b"", whole.encode(), *(f"[{table}".encode() for table in whole.split("\n[")[1:])]


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (20 << 20) + 512 * size,
    modules=("del_client.policy", "del_client.protection.patterns", "del_client.protection.word_list"),
    most_bytes=8192,
    mutate=every_third(other_toml),
    words=tuple(word.encode() for word in _WORDS.split()),
)
