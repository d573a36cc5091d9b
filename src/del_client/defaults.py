"""What a device uses where its user names nothing; the rule for noise is explained in docs/default-setting.md.

Knows nothing of servers. A codec's measurements are its maker's claim, so they choose only below CEILING_MU_MILLI.
"""

from __future__ import annotations

from del_codec.errors import PrivacyRefusal
from del_codec.noise import NoiseSetting
from del_codec.spec import CodecSpec

DEFAULT_SERVER = "127.0.0.1:50051"
GATEWAY_HOST, GATEWAY_PORT = "127.0.0.1", 8085
DEFAULT_DELTA = 1e-5
DEFAULT_BITS = 1
MOST_RECOVERED = 250
CEILING_MU_MILLI = 12_000

RULE = (
    "one bit a coordinate, and the largest mu up to 12 at which the best attack measured with the codec recovers at "
    "most a quarter of the tokens; else the lowest mu that the codec was trained for"
)


def default_setting(spec: CodecSpec) -> NoiseSetting:
    """The default for a codec. Raises PrivacyRefusal if it was trained for nothing as private as the ceiling."""
    return NoiseSetting.from_mu(default_mu(spec), spec.dim, DEFAULT_BITS)


def default_mu(spec: CodecSpec) -> float:
    """The rule's mu."""
    if spec.mu_milli_min > CEILING_MU_MILLI:
        raise PrivacyRefusal(
            f"this codec was trained for mu from {spec.mu_milli_min / 1000:g} on, and a device picks no mu above "
            f"{CEILING_MU_MILLI / 1000:g} by itself: choose one with --mu, or use another server"
        )
    allowed = [
        row.mu_milli
        for row in spec.measured
        if row.bits == DEFAULT_BITS
        and row.attack_success <= MOST_RECOVERED
        and spec.mu_milli_min <= row.mu_milli <= min(spec.mu_milli_max, CEILING_MU_MILLI)
    ]
    return max(allowed, default=spec.mu_milli_min) / 1000


def range_warning(spec: CodecSpec, mu: float) -> str | None:
    """What to tell a user whose mu lies outside of what the codec was trained for; None inside."""
    low, high = spec.mu_milli_min / 1000, spec.mu_milli_max / 1000
    if low <= mu <= high:
        return None
    return f"mu {mu:g} is outside of {low:g} to {high:g}, what the codec was trained for: answers may be poor"
