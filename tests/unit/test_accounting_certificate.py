"""Certificates: every figure beside its unit, delta, adversary and adjacency; the library needs no more than numpy."""

import json
import math
import subprocess
import sys

import pytest

from del_codec.accounting import UNITS, Certificate, Release, certify, epsilon, epsilon_of, pure_epsilon, rho
from del_codec.errors import InvalidValue

HALF = 2**31
TOKEN = Release(64, HALF + 2**28)


def test_a_token() -> None:
    found = certify([TOKEN], unit="token", tokens=1, delta=1e-5)
    assert (found.unit, found.tokens, found.delta, found.n_draws) == ("token", 1, 1e-5, 64)
    assert found.p_plus == 0.5625
    assert (found.epsilon, found.pure_epsilon, found.rho) == (epsilon(TOKEN, 1e-5), pure_epsilon(TOKEN), rho(TOKEN))


def test_a_prompt_of_two_settings_reports_the_larger_threshold() -> None:
    strong = Release(128, HALF + 2**26)
    found = certify([TOKEN, strong], unit="prompt", tokens=3, delta=1e-5)
    assert (found.n_draws, found.p_plus) == (192, 0.5625)
    assert found.epsilon == epsilon_of([TOKEN, strong], 1e-5)
    assert found.rho == math.fsum([rho(TOKEN), rho(strong)])


def test_a_wholly_public_prompt_costs_nothing() -> None:
    found = certify([], unit="prompt", tokens=0, delta=1e-5)
    assert (found.epsilon, found.pure_epsilon, found.rho, found.n_draws, found.p_plus) == (0, 0, 0, 0, 0.5)


@pytest.mark.parametrize("unit", UNITS)
def test_it_says_what_is_adjacent_and_against_whom(unit: str) -> None:
    found = certify([TOKEN], unit=unit, tokens=1, delta=0)
    assert f"within one {unit}" in found.adjacency
    assert "same public structure" in found.adjacency
    assert "structure is sent in the clear and has no epsilon" in found.adjacency
    assert "the server" in found.adversary
    assert "random bits" in found.adversary


def test_it_is_ready_for_json() -> None:
    found = certify([TOKEN], unit="secret", tokens=1, delta=1e-5)
    assert Certificate(**json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("unit", {"unit": "byte", "tokens": 1, "delta": 1e-5}),
        ("tokens", {"unit": "token", "tokens": 2, "delta": 1e-5}),
        ("tokens", {"unit": "prompt", "tokens": -1, "delta": 1e-5}),
        ("delta", {"unit": "prompt", "tokens": 1, "delta": 1.0}),
        ("delta", {"unit": "prompt", "tokens": 1, "delta": math.nan}),
        ("delta", {"unit": "prompt", "tokens": 1, "delta": "small"}),
    ],
)
def test_bad_input_names_its_field(field: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidValue) as refused:
        certify([TOKEN], **arguments)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_device_needs_numpy_alone() -> None:
    code = (
        "import sys, del_codec.accounting, del_codec.caps\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'scipy', 'mpmath', 'del_codec.noise')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
