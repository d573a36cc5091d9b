"""The policy file: what is read is what stands there, and nothing that stands there is passed over."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_client.policy import MAX_POLICY_BYTES, Kind, Limit, Policy
from del_codec.errors import InvalidValue, PrivacyRefusal

EVERYTHING = """
delta = 1e-6
least_delta = 1e-9
servers = ["127.0.0.1:50051"]
codecs = ["{codec}"]
allow_clear = false
allow_weak = false
redraws = 0
commonest = 0.1
memory_bytes = 1000

[limits.token]
epsilon = 5
rho = 0.5
cap = 0.2
[limits.secret]
cap = 0.01
[limits.prompt]
epsilon = 50.5
[limits.conversation]
rho = 100
[limits.day]
rho = 1000

[kinds.card]
[kinds.name]
mode = "private"
mu = 2
bits = 1
pad = 4
choices = 1000
""".format(codec="ab" * 32)


def test_every_key_is_read():
    policy = Policy.from_toml(EVERYTHING)
    assert (policy.delta, policy.least_delta, policy.redraws, policy.commonest) == (1e-6, 1e-9, 0, 0.1)
    assert (policy.servers, policy.codecs) == (("127.0.0.1:50051",), ("ab" * 32,))
    assert (policy.allow_clear, policy.allow_weak, policy.memory_bytes) == (False, False, 1000)
    assert policy.limits.token == Limit(epsilon=5, rho=0.5, cap=0.2)
    assert policy.limits.secret == Limit(cap=0.01)
    assert policy.limits.prompt == Limit(epsilon=50.5)
    assert (policy.limits.conversation, policy.limits.day) == (Limit(rho=100), Limit(rho=1000))
    assert policy.kinds == {
        "card": Kind("card"),
        "name": Kind("name", "private", mu=2, bits=1, pad=4, choices=1000),
    }


def test_an_empty_file_is_the_default():
    assert Policy.from_toml("") == Policy()


def test_a_kind_knows_its_noise():
    private = Kind("name", "private", mu=2.0)
    setting = private.setting(64)
    assert setting is not None
    assert setting.bits == 1
    assert setting.mu(64) == pytest.approx(2, rel=1e-4)
    assert Kind("card").setting(64) is None


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("epsilon = 3", "epsilon", "no such key"),
        ("delta = 'small'", "delta", "a number above 0"),
        ("delta = true", "delta", "a number above 0"),
        ("delta = 0.5", "delta", "at most 0.01"),
        (f"[limits.day]\nrho = 1{'0' * 400}", "limits.day.rho", "at most 1e+12"),
        ("delta = nan", "delta", "a number above 0"),
        ("least_delta = 1e-3", "least_delta", "from 0 to 1e-05"),
        ("servers = '127.0.0.1:50051'", "servers", "a list"),
        ("servers = []", "servers", "leave it out to allow any"),
        ("servers = [7]", "servers", "use addresses"),
        ("codecs = ['12fa']", "codecs", "64 lower-case hex digits"),
        ("allow_clear = 1", "allow_clear", "true or false"),
        ("redraws = -1", "redraws", "whole number from 0"),
        ("redraws = 1.5", "redraws", "whole number from 0"),
        ("memory_bytes = true", "memory_bytes", "whole number"),
        ("limits = 3", "limits", "use tables"),
        ("[limits.week]", "limits.week", "no such key"),
        ("[limits]\nday = 3", "limits.day", "use a table of epsilon, rho, cap"),
        ("[limits.day]\nepsilon = 0", "limits.day.epsilon", "above 0"),
        ("[limits.day]\nepsilon = inf", "limits.day.epsilon", "above 0"),
        ("[limits.day]\nmu = 3", "limits.day.mu", "no such key"),
        ("[limits.day]\ncap = 0.5", "limits.day.cap", "leave it out"),
        ("[limits.token]\ncap = 50", "limits.token.cap", "at most 1"),
        ("[limits.token]\nepsilon = 9\n[limits.day]\nepsilon = 8", "limits.token.epsilon", "use at most 8"),
        ("[limits.prompt]\nrho = 9\n[limits.conversation]\nrho = 8", "limits.prompt.rho", "use at most 8"),
        ("kinds = 3", "kinds", "use tables"),
        ("[kinds]\nname = 3", "kinds.name", "use a table"),
        ("[kinds.Name]", "kinds", "lower-case"),
        ("[kinds.name]\nmode = 'public'", "kinds.name.mode", "placeholder"),
        ("[kinds.name]\nmode = 'private'", "kinds.name.mu", "its own noise"),
        ("[kinds.name]\nmode = 'private'\nmu = -1", "kinds.name.mu", "above 0"),
        ("[kinds.name]\nmode = 'private'\nmu = 2\nbits = 9", "kinds.name.bits", "from 1 to 8"),
        ("[kinds.name]\nmode = 'private'\nmu = 2\npad = -1", "kinds.name.pad", "from 0"),
        ("[kinds.name]\nmode = 'private'\nmu = 2\nchoices = 1", "kinds.name.choices", "from 2"),
        ("[kinds.name]\nmu = 2", "kinds.name.mu", "leave it out"),
        ("[kinds.name]\nname = 'x'", "kinds.name.name", "no such key"),
        ("allow_weak = false\n[kinds.name]\nmode = 'private'\nmu = 20", "kinds.name.mu", "at most 12"),
        ("[limits.secret]\ncap = 0.1\n[kinds.n]\nmode = 'private'\nmu = 2", "kinds.n.choices", "limits.secret.cap"),
        (
            "[limits.secret]\ncap = 0.01\n[kinds.n]\nmode = 'private'\nmu = 2\nchoices = 99",
            "kinds.n.choices",
            "a blind guess",
        ),
        ("delta = ", "policy", "end of document"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(text, key, remedy):
    with pytest.raises(InvalidValue) as refused:
        Policy.from_toml(text)
    assert refused.value.field == key
    assert remedy in refused.value.remedy


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_an_error_of_ours(text):
    with contextlib.suppress(InvalidValue):
        Policy.from_toml(text)


@given(st.sampled_from(EVERYTHING.splitlines()), st.text("=[]\"'.0123456789-e", max_size=5))
def test_no_damage_escapes_as_another_error(line, garbage):
    with contextlib.suppress(InvalidValue):
        Policy.from_toml(EVERYTHING.replace(line, line + garbage))


def test_a_file_that_is_missing_large_or_not_text(tmp_path: Path):
    path = tmp_path / "policy.toml"
    with pytest.raises(InvalidValue, match=r"policy is .*can't be read"):
        Policy.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidValue, match="UTF-8"):
        Policy.load(path)
    path.write_text("#" * (MAX_POLICY_BYTES + 1))
    with pytest.raises(InvalidValue, match="at most"):
        Policy.load(path)
    path.write_text(EVERYTHING)
    assert Policy.load(path) == Policy.from_toml(EVERYTHING)


def test_a_caller_may_ask_for_a_smaller_delta_down_to_the_least():
    policy = Policy(delta=1e-5, least_delta=1e-8)
    assert policy.delta_for(None) == 1e-5
    assert policy.delta_for(1e-7) == 1e-7
    for asked in (1e-4, 1e-9, float("nan")):
        with pytest.raises(PrivacyRefusal, match="least_delta"):
            policy.delta_for(asked)
