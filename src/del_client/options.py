"""Options: everything that a caller may ask of one answer beside its prompt, with the rules for what is left out.

Knows nothing of prompts, servers or command lines.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

from del_client.defaults import DEFAULT_BITS, default_mu
from del_client.query import GenerationOptions
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting, check_bits
from del_codec.spec import CodecSpec
from del_codec.stopping import StopStrings


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of `generate`; Options says what each means."""

    mu: float | None
    bits: int | None
    clear: bool
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    logprobs: int | None
    repetition_penalty: float
    stop: Sequence[str]
    timeout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be asked of one answer. Raises InvalidValue for what can't be.

    mu, bits: the noise, nominal (1 is strong, 60 is weak) and bits a coordinate (1 to 8); None: by the codec's
    measurements (docs/default-setting.md). clear: NO PRIVACY, all of the prompt leaves as plain token ids.
    max_new_tokens: 0 for the server's default. temperature: 0 takes the likeliest token always. top_p, top_k: sample
    from the likeliest tokens of this mass, or of this number (1 and 0: all). seed: of the sampling; None: drawn here.
    logprobs: alternatives to report at each token, 0 to 20; None: none. repetition_penalty: above 1, the answer's own
    earlier tokens become less likely. stop: strings that the answer ends before, looked for on the device. timeout:
    seconds for the whole answer; None: no bound.
    """

    mu: float | None = None
    bits: int | None = None
    clear: bool = False
    max_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    timeout: float | None = None

    def __post_init__(self) -> None:
        self.generation()
        if self.mu is not None and not (math.isfinite(self.mu) and self.mu > 0):
            raise InvalidValue("mu", self.mu, "use a finite number above zero (1 is strong, 60 is weak)")
        if self.bits is not None:
            check_bits(self.bits)
        StopStrings(self.stop)
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise InvalidValue("timeout", self.timeout, "use a number of seconds above 0, or None for no bound")

    def setting(self, spec: CodecSpec) -> NoiseSetting:
        """The noise for a codec. Raises PrivacyRefusal where neither caller nor rule names any."""
        mu = default_mu(spec) if self.mu is None else self.mu
        return NoiseSetting.from_mu(mu, spec.dim, DEFAULT_BITS if self.bits is None else self.bits)

    def generation(self) -> GenerationOptions:
        """What the server is asked. A sampled answer has a seed always, so that it can go on where it broke off."""
        seed = secrets.randbits(64) if self.temperature and self.seed is None else self.seed
        return GenerationOptions(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=seed,
            logprobs=self.logprobs,
            repetition_penalty=self.repetition_penalty,
        )


def read_options(arguments: OptionArguments) -> Options:
    """The options of keyword arguments. Raises TypeError for one that there is not, as a function does."""
    unknown = sorted(set(arguments) - {field.name for field in fields(Options)})
    if unknown:
        raise TypeError(f"no such option: {', '.join(unknown)}; there are {', '.join(f.name for f in fields(Options))}")
    return Options(**arguments)
