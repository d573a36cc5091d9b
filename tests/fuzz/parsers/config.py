"""The command line's file of settings: TOML with one key for each."""

from __future__ import annotations

from del_client.config import FILE_VARIABLE, SETTINGS, Config
from del_codec.errors import InvalidValue

from ..place import file_of
from ..target import Target
from ..values import every_third, other_toml

_TEXTS = {"Path": '"a/b"', "str": '"text"', "float": "1.5", "int": "3", "bool": "true"}
_ODD = ("inf", "nan", "0xffff", "~root/x", "~nobody-there/x", "\\u0000", "1e400", "a.a.a", "[[", "{}", "'''", '"""')


def check(data: bytes) -> None:
    file = file_of("client.toml", data)
    try:
        config = Config.load({}, {FILE_VARIABLE: str(file)})
    except InvalidValue as error:
        str(error).encode(errors="backslashreplace")
        return
    for setting in SETTINGS:
        value = config.values[setting.name]
        assert value is None or isinstance(value, setting.read), setting.name
        setting.shown(value)
        assert "\0" not in str(value), "no file can have that name"


def seeds() -> list[bytes]:
    lines = [f"{setting.name} = {_TEXTS[setting.read.__name__]}\n" for setting in SETTINGS]
    return [b"", *(line.encode() for line in lines), "".join(lines).encode()]


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 20) + 512 * size,
    modules=("del_client.config",),
    most_bytes=8192,
    mutate=every_third(other_toml),
    words=tuple(word.encode() for word in (*(setting.name for setting in SETTINGS), *_ODD)),
)
