"""`del-client budget` and `del-client policy`: what a user sees of the ledger and of the policy that holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from client_fakes import make_codec

from del_client.cli import BAD_INPUT, main
from del_client.cutting import Span
from del_client.entries import Charge, Spent
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.limits import Use, excesses
from del_client.policy import Kind, Limit, Policy, UnitLimits
from del_client.report import release_of
from del_client.spending import budget, composed_epsilon
from del_codec.accounting import epsilon, epsilon_of, rho, rho_of
from del_codec.errors import LimitExceeded, PrivacyRefusal
from del_codec.noise import NoiseSetting
from del_codec.release import HALF, MAX_DRAWS, Release
from del_codec.table import LatentTable

DAY = 86_400.0


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("codec")).table


@pytest.fixture(scope="module")
def setting() -> NoiseSetting:
    return NoiseSetting.from_mu(5, 12, 1)


@pytest.fixture
def path(tmp_path: Path, table: LatentTable, setting: NoiseSetting) -> Path:
    """A ledger of two days, two servers and two conversations."""
    path, now = tmp_path / "ledger.sqlite3", 100 * DAY
    with Ledger(path, clock=lambda: now) as ledger:
        for conversation, server, tokens in (("a", "one:1", 10), ("a", "one:1", 20), ("b", "two:2", 5)):
            Gate(Policy(), ledger, server).release(table, [Span((5,) * tokens, True, tokens)], setting, conversation)
            now += DAY / 2
        Gate(Policy(), ledger, "two:2").public([Span((5, 6, 7), True, 0)])
    return path


@pytest.fixture
def run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEL_POLICY", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("by", "names", "tokens"),
    [
        ("day", ["1970-04-11", "1970-04-12"], [30, 5]),
        ("server", ["one:1", "two:2"], [30, 5]),
        ("conversation", ["a", "b"], [30, 5]),
    ],
)
def test_what_was_spent_by_day_server_and_conversation(run, path, table, setting, by, names, tokens):
    code, out, _ = run("budget", "--by", by, "--json", "--ledger", str(path))
    figures = json.loads(out)
    assert code == 0
    assert [row["name"] for row in figures["spent"]] == names
    assert [row["tokens"] for row in figures["spent"]] == tokens
    assert [row["prompts"] for row in figures["spent"]] == [2, 1]
    releases = [release_of(table, setting, count) for count in tokens]
    assert [row["rho"] for row in figures["spent"]] == [rho(one) for one in releases]
    assert [row["epsilon"] for row in figures["spent"]] == [epsilon(one, 1e-5) for one in releases]
    assert (figures["tokens_in_the_clear"], figures["left"]) == (3, [])


def test_what_is_left_is_what_the_gate_lets_through(run, path, table, setting, tmp_path):
    limits = UnitLimits(conversation=Limit(epsilon=150), day=Limit(rho=400))
    policy = Policy(limits=limits)
    file = tmp_path / "policy.toml"
    file.write_text(policy.to_toml())
    _, out, _ = run("budget", "--json", "--ledger", str(path), "--policy", str(file))
    conversation, day = json.loads(out)["left"]
    assert (conversation["unit"], conversation["name"], conversation["bound"]) == ("conversation", "b", 150)
    assert (day["unit"], day["spent"], day["left"]) == ("day", 0, 400)
    assert 0 < conversation["tokens"] < 1000
    with Ledger(path) as ledger:
        gate = Gate(policy, ledger, "two:2")
        with pytest.raises(LimitExceeded):
            gate.release(table, [Span((5,) * (conversation["tokens"] + 1), True, 9)], setting, "b")
        gate.release(table, [Span((5,) * conversation["tokens"], True, 9)], setting, "b")


def test_the_text_has_a_row_and_a_bar_for_each(run, path, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("[limits.day]\nrho = 400\n")
    _, out, _ = run("budget", "--by", "server", "--ledger", str(path), "--policy", str(file))
    lines = out.splitlines()
    assert lines[1].startswith("one:1")
    assert lines[1].endswith("#" * 30)
    assert lines[2].startswith("two:2")
    assert lines[2].endswith("#" * 5)
    assert "exact if no setting was chosen after an answer" in out
    assert "day today: rho 0 of 400 [" in out
    assert "3 private tokens were sent in the clear" in out


def test_forgetting(run, path):
    assert run("budget", "--forget", "a", "--ledger", str(path))[:2] == (
        0,
        "the bits of 2 messages are erased; what they cost stays in the ledger\n",
    )
    assert "of 1 messages" in run("budget", "--forget", "--all", "--ledger", str(path))[1]
    figures = json.loads(run("budget", "--json", "--ledger", str(path))[1])
    assert figures["memory_bytes"] == 0
    assert sum(row["tokens"] for row in figures["spent"]) == 35


def test_a_clock_that_ran_ahead_is_accepted_on_demand(run, path):
    with Ledger(path, clock=lambda: 1e6 * DAY) as ledger, ledger.writing() as entries:
        entries.note_clear("one:1", 1)
    assert "days ahead" in run("budget", "--accept-clock", "--ledger", str(path))[1]
    assert "as before" in run("budget", "--accept-clock", "--ledger", str(path))[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--forget"], "forget"), (["--forget", "a", "--all"], "forget"), (["--all"], "all"), (["--last", "0"], "last")],
)
def test_bad_input(run, path, arguments, named):
    code, _, error = run("budget", "--ledger", str(path), *arguments)
    assert code == BAD_INPUT
    assert error.startswith(f"del-client: {named} is ")


def test_looking_makes_no_ledger(run, tmp_path):
    missing = tmp_path / "none.sqlite3"
    assert "nothing was sent" in run("budget", "--ledger", str(missing))[1]
    assert not missing.exists()


def test_more_settings_than_compose_exactly_still_have_an_epsilon():
    releases = tuple(Release(100, HALF + 10_000_000 * (1 + at)) for at in range(80))
    bound = composed_epsilon(releases, 1e-5)
    assert epsilon_of(releases[:64], 1e-5) < bound < epsilon_of([Release(8000, releases[-1].threshold_max)], 1e-5)


def test_the_policy_that_holds_is_printed_as_a_policy_file(run, tmp_path):
    policy = Policy(
        delta=1e-6,
        servers=("one:1", 'strange "name"'),
        codecs=("ab" * 32,),
        limits=UnitLimits(token=Limit(cap=0.5), day=Limit(rho=3)),
        kinds={"card": Kind("card"), "name": Kind("name", "private", mu=2.5, pad=4, choices=10)},
    )
    file = tmp_path / "policy.toml"
    file.write_text(policy.to_toml())
    code, out, _ = run("policy", "--policy", str(file))
    assert code == 0
    assert Policy.from_toml(out) == policy
    assert Policy.from_toml(run("policy")[1]) == Policy()


def test_a_bad_policy_is_refused_by_name(run, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("[limits.day]\nmu = 3\n")
    code, _, error = run("policy", "--policy", str(file))
    assert (code, "limits.day.mu" in error) == (BAD_INPUT, True)


def test_a_life_of_more_draws_than_are_composed_exactly_is_shown_a_bound(tmp_path):
    setting, spent = NoiseSetting.from_mu(1, 64, 8), []
    release = Release(MAX_DRAWS, setting.threshold_max(127))
    charge = Charge(1, "", b"", setting, MAX_DRAWS // (64 * 255), release, 1.0, 1.0, 1e-5, rho_of([release]))
    policy = Policy(limits=UnitLimits(day=Limit(epsilon=1e9)))
    with Ledger(tmp_path / "ledger.sqlite3") as ledger:
        for times in range(1, 4):
            with ledger.writing() as entries:
                entries.charge([charge], server="a:1", codec="ab" * 32, conversation="talk")
                entries.add("day", entries.day, [release])
            found = budget(ledger, policy, "server", 1)
            cost = times * rho_of([release])
            # The normal law's figure, and that of zCDP: between them is what is tight and never below the truth.
            highest = cost + 2 * math.sqrt(-cost * math.log(1e-5))
            assert cost + 4.264 * math.sqrt(2 * cost) < found.rows[0].epsilon < highest
            spent.append(found.left[0].spent)
    assert spent == sorted(set(spent))


def test_a_cap_of_more_draws_than_a_release_may_have_is_refused():
    release = Release(MAX_DRAWS, HALF + 9)
    policy, use = Policy(limits=UnitLimits(secret=Limit(cap=0.9))), Use("secret", Spent((release,)), (release,))
    with pytest.raises(PrivacyRefusal, match=r"limits\.secret\.cap .*nothing was sent"):
        excesses(policy, [use], lambda _: 0.0)
