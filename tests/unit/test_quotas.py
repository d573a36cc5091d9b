"""Quotas: what they bound, that they can't contradict a server's limits, and that metering takes bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from del_codec.errors import ArtifactError, ExhaustedError, InvalidValue
from del_server.access.metering import Meter, Meters, Room
from del_server.access.quotas import STREAMS_OF_ONE, Quota, Quotas
from del_server.config import STREAMS, Limits
from del_server.status import Code, QuotaExceeded, problem_of

ROOM = Room(1 << 30)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestMeter:
    def test_queries(self, clock: Clock) -> None:
        meter = Meter(Quota(queries_a_minute=3), ROOM, clock)
        for _ in range(3):
            meter.query(1)
        with pytest.raises(QuotaExceeded, match="3 queries a minute") as caught:
            meter.query(1)
        assert caught.value.retry_after == pytest.approx(20)
        clock.now += caught.value.retry_after
        meter.query(1)
        with pytest.raises(QuotaExceeded):
            meter.query(1)

    def test_tokens_are_charged_at_most_and_given_back_when_not_used(self, clock: Clock) -> None:
        meter = Meter(Quota(tokens_a_minute=1000), ROOM, clock)
        charge = meter.query(900)
        with pytest.raises(QuotaExceeded, match="1000 tokens a minute") as caught:
            meter.query(200)
        assert caught.value.retry_after == pytest.approx(6)
        charge.settle(100)
        charge.settle(100)
        meter.query(900)
        with pytest.raises(QuotaExceeded):
            meter.query(1)

    def test_a_query_that_is_refused_is_not_charged(self, clock: Clock) -> None:
        meter = Meter(Quota(queries_a_minute=2, tokens_a_minute=10), ROOM, clock)
        for _ in range(5):
            with pytest.raises(QuotaExceeded):
                meter.query(11)
        meter.query(5)
        meter.query(5)

    def test_bytes_are_paid_for_afterwards(self, clock: Clock) -> None:
        meter = Meter(Quota(bytes_a_minute=600), ROOM, clock)
        meter.count(900)
        with pytest.raises(QuotaExceeded, match="600 bytes") as caught:
            meter.query(1)
        assert caught.value.retry_after == pytest.approx(30)
        assert meter.far_over() == 0
        meter.count(600)
        assert meter.far_over() == pytest.approx(30)

    def test_unused_amounts_do_not_pile_up(self, clock: Clock) -> None:
        meter = Meter(Quota(queries_a_minute=2), ROOM, clock)
        clock.now += 86_400
        meter.query(1)
        meter.query(1)
        with pytest.raises(QuotaExceeded):
            meter.query(1)

    def test_without_bounds_nothing_is_refused(self, clock: Clock) -> None:
        meter = Meter(Quota(), ROOM, clock)
        for _ in range(1000):
            meter.count(1 << 40)
            meter.query(1 << 40)
        assert meter.far_over() == 0

    def test_calls_at_once(self, clock: Clock) -> None:
        meter = Meter(Quota(streams=2), ROOM, clock)
        with meter.call(), meter.call():
            with pytest.raises(QuotaExceeded), meter.call():
                pass
            assert meter.streams == 2
        assert meter.streams == 0

    def test_what_a_client_is_told(self) -> None:
        problem = problem_of(QuotaExceeded("no", 2.5))
        assert (problem.code, problem.reason, problem.retry_seconds) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 2.5)


class TestRoom:
    def test_one_caller_has_half_of_it_and_all_together_no_more_than_it_holds(self, clock: Clock) -> None:
        room = Room(100)
        callers = [Meter(Quota(), room, clock) for _ in range(3)]
        charges = [caller.query(1) for caller in callers]
        with pytest.raises(ExhaustedError):
            charges[0].hold(51)
        charges[0].hold(50)
        charges[1].hold(40)
        with pytest.raises(ExhaustedError):
            charges[2].hold(11)
        charges[2].hold(10)
        assert not callers[2].fresh
        for charge in charges:
            charge.settle(0)
            charge.settle(0)
        assert room.held == 0
        assert all(caller.fresh for caller in callers)


class TestMeters:
    def test_a_caller_has_one(self, clock: Clock) -> None:
        meters = Meters(ROOM, clock=clock)
        assert meters.of("ada", Quota()) is meters.of("ada", Quota())
        assert meters.of("ada", Quota()) is not meters.of("bob", Quota())

    def test_any_number_of_callers_takes_bounded_memory_and_forgets_no_debt(self, clock: Clock) -> None:
        quota, meters = Quota(queries_a_minute=1), Meters(ROOM, most=10, clock=clock)
        meters.of("debtor", quota).query(1)
        for number in range(1000):
            meters.of(f"caller-{number}", quota)
            assert len(meters._meters) <= 10
        with pytest.raises(QuotaExceeded):
            meters.of("debtor", quota).query(1)

    def test_where_all_took_something_newcomers_wait(self, clock: Clock) -> None:
        quota, meters = Quota(queries_a_minute=1), Meters(ROOM, most=3, clock=clock)
        for name in "abc":
            meters.of(name, quota).query(1)
        with pytest.raises(QuotaExceeded, match="3 callers"):
            meters.of("d", quota)
        clock.now += 60
        meters.of("d", quota)


class TestFile:
    def load(self, folder: Path, text: str) -> Quotas:
        path = folder / "quotas.toml"
        path.write_text(text)
        return Quotas.load(path)

    def test_classes(self, tmp_path: Path) -> None:
        quotas = self.load(tmp_path, "[batch]\nqueries_a_minute = 5\nstreams = 2\n")
        assert quotas.classes == {"default": Quota(), "batch": Quota(queries_a_minute=5, streams=2)}
        assert Quotas.load(None).classes == {"default": Quota()}

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("[a]\nqueries = 1\n", "queries of quota a"),
            ("a = 1\n", "quota a"),
            ("[a]\nqueries_a_minute = -1\n", "queries_a_minute of quota a"),
            ("[a]\nqueries_a_minute = 1.5\n", "queries_a_minute of quota a"),
            ("[a]\ntokens_a_minute = true\n", "tokens_a_minute of quota a"),
            ("[a]\nbytes_a_minute = 'x'\n", "bytes_a_minute of quota a"),
            ("[a]\nstreams = 0\n", "streams of quota a"),
            (f"[a]\nstreams = {STREAMS_OF_ONE + 1}\n", "streams of quota a"),
        ],
    )
    def test_what_cannot_be_is_named(self, tmp_path: Path, text: str, named: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{named} is"):
            self.load(tmp_path, text)

    def test_damage(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="not TOML"):
            self.load(tmp_path, "[")
        with pytest.raises(ArtifactError, match="No such file"):
            Quotas.load(tmp_path / "nowhere")


class TestContradictions:
    LIMITS = Limits.derive(8192, 64, 64)

    @pytest.mark.parametrize("key", ["tokens_a_minute", "bytes_a_minute"])
    def test_a_quota_that_the_largest_query_could_never_pass_is_refused(self, key: str) -> None:
        quotas = Quotas({"small": Quota(**{key: 1000})})
        with pytest.raises(InvalidValue, match=f"^{key} of quota small is 1000"):
            quotas.check(self.LIMITS, 0)

    def test_the_least_that_is_allowed_lets_the_largest_query_and_codec_through(self, clock: Clock) -> None:
        codec = 1 << 24
        quota = Quota(tokens_a_minute=self.LIMITS.query_tokens, bytes_a_minute=codec)
        quota.check(self.LIMITS, codec)
        meter = Meter(quota, ROOM, clock)
        meter.check_bytes()
        meter.query(self.LIMITS.query_tokens)

    def test_no_caller_can_take_all_streams(self) -> None:
        assert Quota().streams <= STREAMS // 2

    @pytest.mark.parametrize(("context", "dim"), [(512, 16), (8192, 64), (131_072, 256), (1 << 20, 1024)])
    def test_a_message_holds_the_largest_prompt_and_its_candidates(self, context: int, dim: int) -> None:
        limits = Limits.derive(context, 64, dim)
        private = limits.prompt_tokens * dim
        public = limits.prompt_tokens * 5
        framing = 24 * (limits.segments + limits.candidates)
        assert limits.message_bytes >= max(private, public) + 5 * limits.candidate_tokens + framing
