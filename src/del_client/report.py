"""PrivacyReport: what a prepared prompt gives away, computed on the device from the integers that it sampled with.

Knows nothing of servers: neither the certificate nor the attack uses anything but the table and the segments.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from del_client.limits import exact_epsilon
from del_client.policy import Kind
from del_client.prompt import Span
from del_codec.accounting import Release, epsilon_of
from del_codec.attacks import map_guess
from del_codec.caps import cap_prior, cap_uniform
from del_codec.frame import PrivateSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable

DIGIT_KINDS = ("card", "number", "phone")
DIGITS = 10


@dataclass(frozen=True, slots=True)
class SecretReport:
    """The certificate of the least protected secret of a kind: all tokens of a sensitive span, wherever it occurs.

    secrets: how many of the kind there are. tokens: of that one, all occurrences and padding. epsilon: at the report's
    delta. cap: no attack that has nothing but all of its bits and the prior is right more often. choices: the prior:
    that many equally likely values; None: how common each token is, for a guess at one token of it.
    """

    kind: str
    secrets: int
    tokens: int
    epsilon: float
    cap: float
    choices: int | None

    @property
    def named(self) -> str:
        """What an attack would have to name."""
        if self.choices is None:
            return "one of its tokens"
        if self.kind in DIGIT_KINDS and self.choices == DIGITS:
            return "one of its digits"
        return f"it among {self.choices} equally likely values"

    def sentence(self) -> str:
        """The row in plain words."""
        return (
            f"Secrets of the kind {self.kind} ({self.secrets}): epsilon {self.epsilon:.4g} for all {self.tokens} "
            f"tokens of one; no attack names {self.named} from their bits with a chance above {self.cap:.2%}."
        )


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """The exact certificate of a prompt's private tokens.

    mu, bits: the largest in use, mu nominal. epsilon_token, epsilon_prompt: at delta, for the least protected token and
    for all of them together. cap_uniform, cap_prior: proven bounds on the chance that any attack names one given token
    from its own bits, where all tokens are equally likely and where it knows how common each is (docs/policy.md says
    what the device takes that to be). secrets: the same for what is sensitive and was sent as noise of its own, a row a
    kind.
    """

    private_tokens: int
    mu: float
    bits: int
    delta: float
    epsilon_token: float
    epsilon_prompt: float
    cap_uniform: float
    cap_prior: float
    secrets: tuple[SecretReport, ...] = ()

    def sentences(self) -> list[str]:
        """The certificate in plain words, with what it assumes."""
        return [
            f"epsilon {self.epsilon_token:.4g} for one token, {self.epsilon_prompt:.4g} for all {self.private_tokens} "
            f"private tokens, at delta {self.delta:g}: exact, against a server that knows everything but this "
            "device's random bits.",
            f"Proven: from a token's own bits, no attack names it with a chance above {self.cap_uniform:.2%} if all "
            f"tokens were equally likely, or {self.cap_prior:.2%} if it knows how common each is (context-free: one "
            "that also uses the sentence around it may do better).",
            "Compared are prompts of the same public structure: how many tokens, where, at which setting, and all "
            "public ids are seen by the server and have no epsilon.",
            *(row.sentence() for row in self.secrets),
        ]


def secret_reports(
    table: LatentTable,
    spans: Sequence[Span],
    segments: Sequence[Segment],
    kinds: Mapping[str, Kind],
    delta: float,
    token_cap: Callable[[Release], float],
) -> tuple[SecretReport, ...]:
    """A row for each kind that goes as noise, in the order in which they occur. spans and segments belong together.

    A kind's `choices` are its prior; without them ten digits for kinds of digits, of which a guess names one, else the
    prior of token_cap.
    """
    releases: dict[str, dict[int, list[Release]]] = defaultdict(lambda: defaultdict(list))
    tokens: dict[tuple[str, int], int] = defaultdict(int)
    for span, segment in zip(spans, segments, strict=True):
        if span.kind and isinstance(segment, PrivateSegment):
            releases[span.kind][span.secret].append(release_of(table, segment.setting, segment.tokens))
            tokens[span.kind, span.secret] += segment.tokens
    rows = []
    for kind, secrets in releases.items():
        worst = max(secrets, key=lambda number: epsilon_of(secrets[number], delta))
        all_draws = Release(
            sum(one.n_draws for one in secrets[worst]), max(one.threshold_max for one in secrets[worst])
        )
        choices = kinds[kind].choices if kind in kinds else None
        choices = DIGITS if choices is None and kind in DIGIT_KINDS else choices
        cap = token_cap(all_draws) if choices is None else cap_uniform(all_draws, choices)
        epsilon = epsilon_of(secrets[worst], delta)
        rows.append(SecretReport(kind, len(secrets), tokens[kind, worst], epsilon, cap, choices))
    return tuple(rows)


def privacy_report(
    table: LatentTable,
    segments: Sequence[Segment],
    delta: float,
    token_cap: Callable[[Release], float] | None = None,
    secrets: tuple[SecretReport, ...] = (),
) -> PrivacyReport | None:
    """The certificate of a prompt at `delta` (0 to 1, exclusive); None where nothing in it is private.

    token_cap: the cap under a prior that the device believes; None takes the codec's own, which its maker chose.
    secrets: the rows of its sensitive kinds.
    """
    noise = [(segment.setting, segment.tokens) for segment in segments if isinstance(segment, PrivateSegment)]
    return noise_report(table, noise, delta, token_cap, secrets) if noise else None


def noise_report(
    table: LatentTable,
    noise: Sequence[tuple[NoiseSetting, int]],
    delta: float,
    token_cap: Callable[[Release], float] | None = None,
    secrets: tuple[SecretReport, ...] = (),
) -> PrivacyReport:
    """The certificate of so many tokens at each of these settings, at least one."""
    settings = {setting for setting, _ in noise}
    single = [release_of(table, setting, tokens=1) for setting in settings]
    cap = token_cap or (lambda one: cap_prior(one, table.prior))
    return PrivacyReport(
        private_tokens=sum(tokens for _, tokens in noise),
        mu=max(setting.mu(table.spec.dim) for setting in settings),
        bits=max(setting.bits for setting in settings),
        delta=delta,
        epsilon_token=max(exact_epsilon((one,), delta) for one in single),
        epsilon_prompt=exact_epsilon(tuple(release_of(table, setting, tokens) for setting, tokens in noise), delta),
        cap_uniform=max(_cap_of_one(one, table.spec.vocabulary) for one in single),
        cap_prior=max(cap(one) for one in single),
        secrets=secrets,
    )


# A device uses few settings, and a text that is read while it is written asks for the same ones at every key.
_cap_of_one = lru_cache(maxsize=64)(cap_uniform)


def measured_sentence(spec: CodecSpec, report: PrivacyReport) -> str | None:
    """What the codec's maker measured at this setting, in plain words; None where no row is for it."""
    for row in spec.measured:
        if row.bits == report.bits and math.isclose(row.mu_milli / 1000, report.mu, rel_tol=1e-3):
            return (
                f"By its maker's measurements this codec, at this setting, leaves {max(0, row.retained) / 1000:.0%} "
                f"of a prompt's usefulness and lets attacks read {row.attack_success / 1000:.0%} of the tokens."
            )
    return None


def attack_recovered(
    table: LatentTable,
    prompt: Sequence[Span],
    segments: Sequence[Segment],
    prior: npt.NDArray[np.float64] | None = None,
) -> float:
    """The share of private tokens that the best attack on one token at a time recovers from the bits themselves.

    MAP with that prior [V]; None takes the codec's own. Needs at least one private token.
    """
    prior = table.prior if prior is None else prior
    truth = [span.token_ids for span in prompt if span.private]
    private = [segment for segment in segments if isinstance(segment, PrivateSegment)]
    guesses = [map_guess(table, part.levels(table.spec.dim), part.setting, prior)[0] for part in private]
    return float(np.mean(np.concatenate(guesses) == np.array(list(itertools.chain.from_iterable(truth)))))
