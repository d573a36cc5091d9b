"""Policy: what a device's user allows to leave it, read from a TOML file and checked whole before it is used.

docs/policy.md explains every key. Knows nothing of ledgers, prompts or servers: the gate enforces it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from del_client.defaults import CEILING_MU_MILLI, DEFAULT_DELTA
from del_codec import toml
from del_codec.errors import InvalidValue, PrivacyRefusal
from del_codec.noise import NoiseSetting, check_bits
from del_codec.release import check_int

MAX_POLICY_BYTES = 1 << 16
MAX_ENTRIES = 256
MAX_DELTA = 0.01
MAX_BOUND = 1e12
# The largest share of a text that one token makes up: 5.8 % in WikiText-2 under SmolLM2's tokenizer.
COMMONEST = 0.06
DEFAULT_MEMORY_BYTES = 64 << 20
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

Unit = Literal["token", "secret", "prompt", "conversation", "day"]
LIMITED_UNITS: tuple[Unit, ...] = ("token", "secret", "prompt", "conversation", "day")
Mode = Literal["placeholder", "private"]


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds on what one unit may give away; None: no bound.

    epsilon: at the policy's delta. rho: the zCDP parameter. cap: the proven chance, under the prior, that an attack
    names the token or secret (0 to 1; no other unit has one).
    """

    epsilon: float | None = None
    rho: float | None = None
    cap: float | None = None


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """The bounds of each unit. A prompt is what one query releases anew; a day is one of UTC."""

    token: Limit = Limit()
    secret: Limit = Limit()
    prompt: Limit = Limit()
    conversation: Limit = Limit()
    day: Limit = Limit()

    def __post_init__(self) -> None:
        for unit in LIMITED_UNITS:
            limit = self.of(unit)
            for key in ("epsilon", "rho"):
                _check_optional(f"limits.{unit}.{key}", getattr(limit, key), MAX_BOUND)
            if limit.cap is not None and unit not in ("token", "secret"):
                raise InvalidValue(
                    f"limits.{unit}.cap", limit.cap, "a cap is of a token or a secret: leave it out here"
                )
            _check_optional(f"limits.{unit}.cap", limit.cap, 1)
        for key in ("epsilon", "rho"):
            self._check_order(key)

    def of(self, unit: Unit) -> Limit:
        """One unit's bounds."""
        limit: Limit = getattr(self, unit)
        return limit

    def _check_order(self, key: str) -> None:
        """A unit's bound must not exceed that of a unit which contains it: the larger one would never be reached."""
        units: tuple[Unit, ...] = ("token", "prompt", "conversation", "day")
        for position, outer in enumerate(units):
            bound = getattr(self.of(outer), key)
            for inner in units[:position]:
                value = getattr(self.of(inner), key)
                if bound is not None and value is not None and value > bound:
                    raise InvalidValue(
                        f"limits.{inner}.{key}",
                        value,
                        f"use at most {bound:g}, the bound of a {outer} (limits.{outer}.{key}), which contains it",
                    )


@dataclass(frozen=True, slots=True)
class Kind:
    """How sensitive spans of one kind leave the device.

    mode "placeholder": not at all; a public placeholder stands for them. mode "private": randomised at their own mu
    (nominal) and bits. pad: lengths are padded to a multiple of that many tokens (0, 1: not at all). choices: from how
    many equally likely values an attacker would have to guess, for the cap of a secret.

    What is of the kind: what the user marks so, what the built-in detector of this name finds (docs/spans.md), and
    words: files of phrases, a line each; patterns: regular expressions; presidio: names of its entities.
    """

    name: str
    mode: Mode = "placeholder"
    mu: float | None = None
    bits: int = 1
    pad: int = 0
    choices: int | None = None
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    presidio: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidValue(
                "kinds", self.name, "name a kind in 1 to 32 lower-case letters, digits, - and _, a letter first"
            )
        key = f"kinds.{self.name}"
        if self.mode not in ("placeholder", "private"):
            raise InvalidValue(f"{key}.mode", self.mode, 'use "placeholder" or "private"')
        check_bits(self.bits, f"{key}.bits")
        check_int(f"{key}.pad", self.pad, 0, 4096)
        if self.choices is not None:
            check_int(f"{key}.choices", self.choices, 2, 1 << 32)
        if self.mode == "private" and self.mu is None:
            raise InvalidValue(f"{key}.mu", self.mu, "a private kind needs its own noise: 1 is strong, 60 is weak")
        _check_optional(f"{key}.mu", self.mu, 1000)
        for name in ("mu", "bits", "pad", "choices"):
            if self.mode == "placeholder" and getattr(self, name) != Kind.__dataclass_fields__[name].default:
                raise InvalidValue(
                    f"{key}.{name}",
                    getattr(self, name),
                    'leave it out, or use mode = "private": placeholders say nothing',
                )

    def setting(self, dim: int) -> NoiseSetting | None:
        """The noise of a private kind for a codec of `dim` coordinates; None for a placeholder."""
        return None if self.mu is None else NoiseSetting.from_mu(self.mu, dim, self.bits)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may leave the device. The default has no limits and allows what its user asks for by name.

    delta: at which every epsilon is stated and limited; least_delta: the smallest that may be asked for instead.
    servers ("host:port"), codecs (fingerprints): the only ones allowed; None: any. allow_clear: whether a prompt may be
    sent without privacy. allow_weak: whether mu may exceed 12, or what the codec was trained for. redraws: how often
    the same message may be drawn anew, because its codec is gone or its bits were dropped. commonest: the largest share
    of one token in what is written, assumed where the device has no prior of its own. memory_bytes: of remembered bits.
    kinds: of sensitive spans, by name.
    """

    delta: float = DEFAULT_DELTA
    least_delta: float = 0.0
    servers: tuple[str, ...] | None = None
    codecs: tuple[str, ...] | None = None
    allow_clear: bool = True
    allow_weak: bool = True
    redraws: int = 1
    commonest: float = COMMONEST
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    limits: UnitLimits = field(default_factory=UnitLimits)
    kinds: Mapping[str, Kind] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _check_number("delta", self.delta, MAX_DELTA)
        _check_delta_floor(self.least_delta, self.delta)
        check_int("redraws", self.redraws, 0, 1000)
        _check_number("commonest", self.commonest, 1)
        check_int("memory_bytes", self.memory_bytes, 0, 1 << 40)
        for name in ("allow_clear", "allow_weak"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(name, getattr(self, name), "use true or false")
        for server in self.servers or ():
            if not isinstance(server, str) or not 1 <= len(server) <= 256:
                raise InvalidValue("servers", server, 'use addresses such as "127.0.0.1:50051"')
        for codec in self.codecs or ():
            if not isinstance(codec, str) or not _FINGERPRINT.fullmatch(codec):
                raise InvalidValue("codecs", codec, "use fingerprints of 64 lower-case hex digits")
        for kind in self.kinds.values():
            self._check_kind(kind)

    def _check_kind(self, kind: Kind) -> None:
        if kind.mu is None:
            return
        ceiling = CEILING_MU_MILLI / 1000
        if kind.mu > ceiling and not self.allow_weak:
            raise InvalidValue(f"kinds.{kind.name}.mu", kind.mu, f"use at most {ceiling:g}, or set allow_weak = true")
        cap, key = self.limits.secret.cap, f"kinds.{kind.name}.choices"
        if cap is not None and kind.choices is None:
            remedy = "limits.secret.cap needs it: from how many equally likely values would an attacker have to guess?"
            raise InvalidValue(key, None, remedy)
        if cap is not None and kind.choices is not None and cap * kind.choices < 1:
            remedy = f"a blind guess succeeds more often than limits.secret.cap = {cap:g} allows: raise one of them"
            raise InvalidValue(key, kind.choices, remedy)

    def check_server(self, server: str) -> None:
        """Raise PrivacyRefusal unless each address of it ("host:port", several with commas) is allowed."""
        if self.servers is not None and not set(server.split(",")) <= set(self.servers):
            raise PrivacyRefusal(
                f"server {server} is not among the policy's servers ({', '.join(self.servers)}): nothing was sent"
            )

    def allows_codec(self, fingerprint: str) -> bool:
        """Whether prompts may be sent with it."""
        return self.codecs is None or fingerprint in self.codecs

    def check_codec(self, fingerprint: str, server: str) -> None:
        """Raise PrivacyRefusal unless it is allowed."""
        if not self.allows_codec(fingerprint):
            raise PrivacyRefusal(
                f"codec {fingerprint} of {server} is not among the policy's codecs: nothing was sent; "
                "add it to `codecs` if you trust it, or use another server"
            )

    @classmethod
    def from_toml(cls, text: str, folder: Path = Path()) -> Policy:
        """Parse and check a policy file's text; files that it names lie in `folder`. Raises InvalidValue."""
        try:
            data = toml.loads(text)
        except ValueError as error:
            raise InvalidValue("policy", "not TOML", str(error)) from None
        limits = _table(data, "limits", LIMITED_UNITS)
        kinds = _table(data, "kinds", None)
        scalars = {key: value for key, value in data.items() if key not in ("limits", "kinds")}
        _check_keys("", scalars, _PLAIN)
        for key in ("servers", "codecs"):
            if key in scalars:
                scalars[key] = _strings(key, scalars[key])
        return cls(
            **scalars,
            limits=UnitLimits(**{unit: _record(Limit, f"limits.{unit}", limits[unit]) for unit in limits}),
            kinds=MappingProxyType({name: _kind(name, kinds[name], folder) for name in kinds}),
        )

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file. Raises InvalidValue if it can't be read or is not valid."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_POLICY_BYTES + 1)
            if len(data) > MAX_POLICY_BYTES:
                raise InvalidValue("policy", str(path), f"a policy has at most {MAX_POLICY_BYTES} bytes")
            return cls.from_toml(data.decode(), path.parent)
        except OSError as error:
            raise InvalidValue("policy", str(path), f"it can't be read ({error.strerror}); nothing is sent") from None
        except UnicodeDecodeError as error:
            raise InvalidValue("policy", str(path), f"not UTF-8 at byte {error.start}: write it in UTF-8") from None

    def to_toml(self) -> str:
        """The policy as a file that reads back as the same, defaults included."""
        plain = [f"{name} = {_toml(getattr(self, name))}" for name in _PLAIN if getattr(self, name) is not None]
        records: list[tuple[str, Limit | Kind]] = [(f"limits.{unit}", self.limits.of(unit)) for unit in LIMITED_UNITS]
        records += [(f"kinds.{kind.name}", kind) for kind in self.kinds.values()]
        blocks = ["\n".join(plain)]
        for key, record in records:
            values = [(each.name, getattr(record, each.name)) for each in fields(record) if each.name != "name"]
            lines = [f"{name} = {_toml(value)}" for name, value in values if value not in (None, (), 0)]
            blocks += ["\n".join([f"[{key}]", *lines])] if lines else []
        return "\n\n".join(blocks) + "\n"

    def delta_for(self, asked: float | None) -> float:
        """The delta of a certificate that a caller asks for. Raises PrivacyRefusal outside of least_delta to delta."""
        if asked is None:
            return self.delta
        if not self.least_delta <= asked <= self.delta:
            raise PrivacyRefusal(
                f"delta {asked:g} was asked for: the policy states epsilons at a delta from {self.least_delta:g} "
                f"(least_delta) to {self.delta:g} (delta)"
            )
        return asked


_PLAIN = tuple(each.name for each in fields(Policy) if each.name not in ("limits", "kinds"))


def _toml(value: object) -> str:
    """A value of a policy as TOML; JSON's strings and lists are TOML's, too, but for one character that it escapes."""
    if isinstance(value, float):
        return repr(float(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _kind(name: str, data: object, folder: Path) -> Kind:
    """Files are named as they stand in the policy's folder."""
    record = dict(data) if isinstance(data, dict) else {}
    _check_keys(f"kinds.{name}", data, [f.name for f in fields(Kind) if f.name != "name"])
    for key in ("words", "patterns", "presidio"):
        if key in record:
            record[key] = _found_by(f"kinds.{name}.{key}", record[key])
    if "words" in record:
        record["words"] = tuple(str(folder / path) for path in record["words"])
    return Kind(name, **record)


def _found_by(key: str, value: object) -> tuple[str, ...]:
    texts = [entry for entry in value if isinstance(entry, str) and entry] if isinstance(value, list) else []
    if texts != value or not 1 <= len(texts) <= MAX_ENTRIES:
        raise InvalidValue(key, value, f"use a list of 1 to {MAX_ENTRIES} strings, or leave it out")
    return tuple(texts)


def _record(kind: type[Limit], key: str, data: object) -> Limit:
    _check_keys(key, data, [f.name for f in fields(kind)])
    return kind(**data) if isinstance(data, dict) else kind()


def _table(data: Mapping[str, Any], key: str, names: Iterable[str] | None) -> dict[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict) or len(table) > MAX_ENTRIES:
        raise InvalidValue(key, table, f"use tables [{key}.NAME], at most {MAX_ENTRIES}")
    if names is not None:
        _check_keys(key, table, names)
    return table


def _check_keys(key: str, data: object, names: Iterable[str]) -> None:
    known = list(names)
    if not isinstance(data, dict):
        raise InvalidValue(key, data, f"use a table of {', '.join(known)}")
    for name, value in data.items():
        if name not in known:
            raise InvalidValue(f"{key}.{name}".lstrip("."), value, f"no such key; use {', '.join(known)}")


def _strings(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ENTRIES:
        raise InvalidValue(key, value, f"use a list of 1 to {MAX_ENTRIES} strings, or leave it out to allow any")
    return tuple(value)


def _check_delta_floor(least: object, delta: float) -> None:
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least <= delta:
        raise InvalidValue("least_delta", least, f"use a number from 0 to {delta:g} (delta)")


def _check_optional(key: str, value: object, most: float) -> None:
    if value is not None:
        _check_number(key, value, most)


def _check_number(key: str, value: object, most: float) -> None:
    """Raise InvalidValue unless value is a number above 0, at most `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise InvalidValue(key, value, f"use a number above 0, at most {most:g}")
