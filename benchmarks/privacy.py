"""Targets of privacy: time to certify the largest releases, and what an audit of the mechanism finds."""

from __future__ import annotations

from benchmarks.audit import honest_refutations, missed_faults, proven_share
from benchmarks.stopwatch import median_seconds
from benchmarks.target import Target
from del_codec.accounting import certify
from del_codec.caps import cap_prior, cap_uniform
from del_codec.noise import NoiseSetting
from del_codec.release import Release
from del_codec.released import release_of
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

DRAWS = 10**9
DELTA = 1e-5
REPEATS = 5


def certificate_seconds() -> float:
    """Epsilon, pure epsilon and rho of 10^9 draws at n = 8, d = 64, mu = 5."""
    setting = NoiseSetting.from_mu(5, 64, 8)
    release = Release(DRAWS, setting.threshold_max())
    return median_seconds(lambda: certify([release], unit="prompt", tokens=DRAWS // (255 * 64), delta=DELTA), REPEATS)


def caps_seconds() -> float:
    """Both caps of one token at n = 8, with the shipped codec's unigram prior."""
    table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    setting = NoiseSetting.from_mu(5, table.spec.dim, 8)
    release = release_of(table, setting, 1)
    prior = table.prior
    return median_seconds(lambda: (cap_uniform(release, table.spec.vocabulary), cap_prior(release, prior)), REPEATS)


TARGETS = [
    Target("privacy.certificate_of_1e9_draws_s", 1, "at most", certificate_seconds),
    Target("privacy.caps_of_a_token_n8_s", 1, "at most", caps_seconds),
    Target("privacy.audit_proven_share_of_epsilon", 0.9, "at least", proven_share),
    Target("privacy.audit_planted_faults_missed", 0, "at most", missed_faults),
    Target("privacy.audit_honest_refutations", 0, "at most", honest_refutations),
]
