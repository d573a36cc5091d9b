"""Config: what the command line's user set, and where. Flags go before the environment, it before the file, it before
the defaults; docs/client.md says so to users. Knows nothing of argparse or of what the values are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from del_client.defaults import DEFAULT_SERVER
from del_codec import toml
from del_codec.errors import InvalidValue

FILE_VARIABLE = "DEL_CONFIG"
MAX_FILE_BYTES = 1 << 16
_SWITCH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that may be set. `read` makes it of a flag's or a variable's text; `unset`: what holds without one."""

    name: str
    read: Callable[[str], Any]
    metavar: str
    meaning: str
    default: Any = None
    unset: str = "none"

    @property
    def flag(self) -> str:
        """As on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As in the environment."""
        return "DEL_" + self.name.upper()

    def parse(self, text: str) -> Any:
        """The value of a variable's text. Raises ValueError."""
        if self.read is not bool:
            return self.read(text)
        if text.lower() not in _SWITCH:
            raise ValueError(text)
        return _SWITCH[text.lower()]

    def shown(self, value: Any) -> str:
        """A value as a user reads it."""
        return self.unset if value is None else str(value)


BY_RULE = "by the rule"
SETTINGS = (
    Setting("server", str, "HOST:PORT", "where the server listens", DEFAULT_SERVER),
    Setting("tls_ca", Path, "FILE", "PEM: authorities of the server's certificate", unset="the public ones"),
    Setting("tls_cert", Path, "FILE", "PEM: this device's certificate, for a server that asks"),
    Setting("tls_key", Path, "FILE", "PEM: its key"),
    Setting("tls_name", str, "NAME", "the name in the server's certificate", unset="the server's"),
    Setting("insecure", bool, "YES|NO", "PLAIN TEXT to another machine: everyone on the way reads it", False),
    Setting("server_token_file", Path, "FILE", "the token to show to it; else $DEL_SERVER_TOKEN", unset="none"),
    Setting("policy", Path, "FILE", "what may leave this device (docs/policy.md)", unset="no limits"),
    Setting("ledger", Path, "FILE", "where the spend is kept (docs/ledger.md)", unset="its default place"),
    Setting("mu", float, "M", "noise: 1 is strong, 60 is weak", unset=BY_RULE),
    Setting("bits", int, "N", "bits a coordinate, 1 to 8", unset=BY_RULE),
    Setting("delta", float, "X", "of the certificate", unset="the policy's"),
    Setting("system", str, "TEXT", "a system prompt; PUBLIC: it leaves this device in the clear"),
    Setting("max_tokens", int, "N", "tokens of the answer", unset="the server's default"),
    Setting("temperature", float, "X", "0: the likeliest token always", 0.0),
    Setting("top_p", float, "P", "sample from the likeliest tokens of this mass; 1: all", 1.0),
    Setting("top_k", int, "K", "sample from that many likeliest tokens; 0: all", 0),
    Setting("seed", int, "N", "of the sampling", unset="drawn anew"),
    Setting("timeout", float, "S", "seconds for a whole answer", unset="no bound"),
    Setting("patience", float, "S", "seconds without a token that a lost connection is put up with", 60.0),
    Setting("pad", int, "BYTES", "pad messages of both sides to a multiple of it, against who watches; 0: not", 0),
    Setting("interval", int, "MS", "have the server send only so often, tokens or not; 0: as they come", 0),
    Setting("group", int, "N", "have the server send so many tokens at once; 0: as they come", 0),
    Setting("tokenizer", Path, "FILE", "tokenizer.json of a model not in the package", unset="the package's"),
    Setting("chat_template", Path, "FILE", "chat template of a model not in the package", unset="the package's"),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The values in force, by setting's name, and where each comes from. file: the one looked for; there or not."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    file: Path

    @classmethod
    def load(cls, flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Config:
        """Put together from flags (None where not given), environment and file.

        Raises InvalidValue that names where a bad value stands; a file that DEL_CONFIG names must be there.
        """
        file = config_file(environment)
        stored = _read(file, must_exist=bool(environment.get(FILE_VARIABLE)))
        values, sources = {}, {}
        for setting in SETTINGS:
            name, variable = setting.name, environment.get(setting.variable)
            if flags.get(name) is not None:
                values[name], sources[name] = flags[name], "flag"
            elif variable:
                values[name], sources[name] = _parsed(setting, variable, setting.variable), setting.variable
            elif name in stored:
                values[name], sources[name] = _stored(setting, stored[name], file), str(file)
            else:
                values[name], sources[name] = setting.default, "default"
        return cls(values, sources, file)


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    """$DEL_CONFIG, else del/client.toml in $XDG_CONFIG_HOME or ~/.config."""
    if environment.get(FILE_VARIABLE):
        return Path(environment[FILE_VARIABLE]).expanduser()
    root = environment.get("XDG_CONFIG_HOME")
    return (Path(root) if root else Path("~/.config").expanduser()) / "del" / "client.toml"


def _read(file: Path, must_exist: bool) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if must_exist:
            raise InvalidValue(FILE_VARIABLE, str(file), "there is no such file: write it, or unset it") from None
        return {}
    except OSError as error:
        raise InvalidValue("config", str(file), f"it can't be read ({error.strerror})") from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidValue("config", str(file), f"a file of settings has at most {MAX_FILE_BYTES} bytes")
    try:
        stored = toml.loads(data.decode())
    except ValueError as error:
        raise InvalidValue("config", str(file), f"not TOML ({error})") from None
    names = [setting.name for setting in SETTINGS]
    for key in stored:
        if key not in names:
            raise InvalidValue(f"{key} in {file}", stored[key], f"no such setting; there are {', '.join(names)}")
    return stored


def _parsed(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError:
        raise InvalidValue(where, text, f"use {setting.metavar}: {setting.meaning}") from None


def _stored(setting: Setting, value: Any, file: Path) -> Any:
    """A TOML value; paths may begin with ~ or start at the file's folder, whole numbers may stand for others."""
    if setting.read is Path and isinstance(value, str):
        try:
            return file.parent / Path(value).expanduser()
        except RuntimeError:
            raise InvalidValue(f"{setting.name} in {file}", value, "nobody of that name has a folder here") from None
    if setting.read is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InvalidValue(f"{setting.name} in {file}", value, "use a smaller number") from None
    if not isinstance(setting.read, type) or type(value) is not setting.read:
        raise InvalidValue(f"{setting.name} in {file}", value, f"use {setting.metavar}: {setting.meaning}")
    return value
