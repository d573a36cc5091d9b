"""What a thousand, a hundred thousand and ten million devices would take, by the lines that `growth` fitted.

Servers share nothing and keep no conversation, so all of it grows with the number of devices itself; what one prompt
takes is the fits'. Every assumption that is none of the measurements stands in ASSUMED, and on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from benchmarks import growth_local as local
from benchmarks import growth_served as served
from benchmarks.report.fits import Estimate, Fit, fit_of
from benchmarks.report.results import Result, Run
from benchmarks.section import Sheet
from del_client.ledger import MAX_LEDGER_BYTES

FLEETS = (1_000, 100_000, 10_000_000)
DAYS = 365
FULL_STREAMS = 16


@dataclass(frozen=True, slots=True)
class Assumed:
    """How devices behave and servers are filled. Shares are of one."""

    prompts_a_day: float = 20
    turns: int = 4
    prompt_tokens: float = 256
    answer_tokens: float = 64
    busiest_hour: float = 0.12
    filled: float = 0.6
    connected: float = 0.2


ASSUMED = Assumed()
WORDS = {
    "prompts_a_day": "prompts of a device a day",
    "turns": "turns of a conversation; each sends all earlier ones again",
    "prompt_tokens": "tokens of a prompt on average, earlier turns and template included",
    "answer_tokens": "tokens of an answer",
    "busiest_hour": "share of a day's prompts that the busiest hour has",
    "filled": "share of what it can do that a server is asked for in that hour",
    "connected": "share of the devices that are connected in that hour",
}


@dataclass(frozen=True, slots=True)
class OnePrompt:
    """What the measurements say of one prompt, one device and one server. Seconds are of a whole server like this one.

    ledger: bytes of a device's file after a year.
    """

    server_seconds: Estimate
    bytes_up: Estimate
    bytes_down: Estimate
    connection_bytes: Estimate
    ledger: Estimate
    sources: tuple[tuple[str, str], ...]


def predictions(run: Run) -> Sequence[Sheet]:
    """The fleets, and what they rest on; nothing where something was not measured."""
    one = one_prompt(run, ASSUMED)
    if one is None:
        return ()
    header = ("", *(f"{devices:,} devices" for devices in FLEETS))
    rows = [(name, *(shown(of(devices)) for devices in FLEETS)) for name, of, shown in _quantities(one, ASSUMED)]
    assumed = [(WORDS[field.name], f"{getattr(ASSUMED, field.name):g}") for field in fields(ASSUMED)]
    return (
        Sheet(
            "What a fleet of devices would take",
            "In the busiest hour unless said otherwise; in brackets what the fits' 95 % intervals allow. `servers` are "
            f"machines like the one above with SmolLM2-135M: one with a hundred times its throughput at {FULL_STREAMS} "
            "streams makes a hundredth of them. Ledgers lie on the devices: nobody has to keep them all.",
            [header, *rows],
        ),
        Sheet("Assumed, not measured", "", [("what", "value"), *assumed]),
        Sheet("Measured, and what it says of one prompt", "", [("what", "value"), *one.sources]),
    )


def one_prompt(run: Run, assumed: Assumed) -> OnePrompt | None:
    """Of a run with a whole `growth` section; None of another."""
    along = _Lines(run)
    fits = [
        along.fit(local.TIME, local.MODEL, local.PROMPT),
        along.fit(local.TIME, local.DECODE, local.PROMPT),
        along.fit(local.BYTES, local.MESSAGES, served.TURN),
        along.fit(local.BYTES, local.LEDGER, local.PROMPTS),
    ]
    throughput = along.at(served.THROUGHPUT, served.SERVER, served.STREAMS, FULL_STREAMS)
    down = along.at(served.DOWN, served.DEVICE, served.TURN, assumed.turns)
    memory = along.points(served.MEMORY, served.STUB, served.CONNECTED)
    if None in fits or throughput is None or down is None or not memory:
        return None
    model, decode, up, ledger = (found for found in fits if found is not None)
    cores = float(run.machine["cores"])
    extra = [_more(line, assumed.prompt_tokens, served.PROMPT, cores) for line in (model, decode)]
    seconds = _sum([_per(assumed.answer_tokens, throughput), *extra])
    mean_up = _scaled(_sum([up.at(turn) for turn in range(1, assumed.turns + 1)]), 1 / assumed.turns)
    # Of few devices the memory is lost in what an allocator keeps, so no line goes through these points.
    together = float(memory[-1].at[served.CONNECTED])
    each = _scaled(_of(memory[-1]), 1 / together)
    year = _capped(ledger.at(assumed.prompts_a_day * DAYS), MAX_LEDGER_BYTES)
    sources = (
        (
            f"tokens a second at {FULL_STREAMS} streams, {served.PROMPT} tokens in",
            _plain(_of(throughput)),
        ),
        ("reading the prompt: exponent of the model's time by tokens", _exponent(model)),
        ("decoding the prompt: exponent by tokens", _exponent(decode)),
        ("seconds of a whole server for a prompt and its answer", _plain(seconds)),
        ("bytes up by turn: exponent", _exponent(up)),
        (f"bytes up of a prompt, mean of turns 1 to {assumed.turns}, without HTTP/2 and TCP", _plain(mean_up)),
        ("bytes down a token of the answer", _plain(_of(down))),
        (f"bytes of memory that a connected device takes on a server that has {together:g}", _plain(each)),
        ("ledger by prompts: exponent", _exponent(ledger)),
        (f"bytes of a device's ledger after {DAYS} days", _plain(year)),
    )
    return OnePrompt(seconds, mean_up, _scaled(_of(down), assumed.answer_tokens), each, year, sources)


Quantity = tuple[str, Callable[[float], Estimate], Callable[[Estimate], str]]


def _quantities(one: OnePrompt, assumed: Assumed) -> list[Quantity]:
    """Rows of the fleets' table: what, of how many devices, and how it is written."""

    def a_second(devices: float) -> float:
        return devices * assumed.prompts_a_day * assumed.busiest_hour / 3600

    def certain(value: float) -> Estimate:
        return Estimate(value, value, value)

    def servers(devices: float) -> Estimate:
        return _scaled(one.server_seconds, a_second(devices) / assumed.filled)

    return [
        ("prompts a second", lambda n: certain(a_second(n)), _plain),
        ("tokens of answers a second", lambda n: certain(a_second(n) * assumed.answer_tokens), _plain),
        ("servers", servers, _whole),
        ("up, Mbit/s", lambda n: _scaled(one.bytes_up, a_second(n) * 8e-6), _plain),
        ("down, Mbit/s", lambda n: _scaled(one.bytes_down, a_second(n) * 8e-6), _plain),
        ("up in a day, GB", lambda n: _scaled(one.bytes_up, n * assumed.prompts_a_day / 1e9), _plain),
        (
            "memory of all servers for connections, GB",
            lambda n: _scaled(one.connection_bytes, n * assumed.connected / 1e9),
            _plain,
        ),
        ("one device's ledger after a year, MB", lambda n: _scaled(one.ledger, 1e-6), _plain),  # noqa: ARG005
        ("all devices' ledgers after a year, GB", lambda n: _scaled(one.ledger, n / 1e9), _plain),
    ]


class _Lines:
    """Results of the section by figure, way and cause."""

    def __init__(self, run: Run) -> None:
        self._results = run.of(local.GROUP)

    def points(self, name: str, way: str, cause: str) -> list[Result]:
        found = [each for each in self._results if (each.name, each.way, set(each.at)) == (name, way, {cause})]
        return sorted(found, key=lambda result: float(result.at[cause]))

    def at(self, name: str, way: str, cause: str, place: float) -> Result | None:
        return next((found for found in self.points(name, way, cause) if found.at[cause] == place), None)

    def fit(self, name: str, way: str, cause: str) -> Fit | None:
        return fit_of(self.points(name, way, cause), cause)


def _of(result: Result) -> Estimate:
    return Estimate(result.median, *result.spread)


def _sum(parts: Sequence[Estimate]) -> Estimate:
    return Estimate(*(sum(values) for values in zip(*((p.value, p.low, p.high) for p in parts), strict=True)))


def _scaled(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value * by, estimate.low * by, estimate.high * by)


def _capped(estimate: Estimate, most: float) -> Estimate:
    return Estimate(min(estimate.value, most), min(estimate.low, most), min(estimate.high, most))


def _per(amount: float, rate: Result) -> Estimate:
    low, high = rate.spread
    return Estimate(amount / rate.median, amount / high, amount / low)


def _more(line: Fit, tokens: float, included: float, cores: float) -> Estimate:
    """Seconds of all cores for tokens beyond those that the measured load had in it."""
    found, had = line.at(tokens), line.at(included).value
    return Estimate(*(max(0.0, value - had) / cores for value in (found.value, found.low, found.high)))


def _exponent(line: Fit) -> str:
    return f"{line.exponent:.2f} ({line.low:.2f} to {line.high:.2f})"


def _plain(estimate: Estimate) -> str:
    return _between(estimate, _number)


def _whole(estimate: Estimate) -> str:
    return _between(estimate, lambda value: f"{math.ceil(value):,}")


def _between(estimate: Estimate, write: Callable[[float], str]) -> str:
    value, low, high = write(estimate.value), write(estimate.low), write(estimate.high)
    return value if low == high else f"{value} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
