"""`del-client budget`: what was given away, what is left under the policy; and erasing remembered bits."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from del_client.entries import SECONDS_A_DAY
from del_client.ledger import Ledger, default_path
from del_client.policy import Policy
from del_client.spending import Budget, Left, Spending, budget
from del_client.terminal import one_line
from del_codec.errors import InvalidValue

_BAR = 30
_MOST_ROWS = 1_000_000
_NAME = 32  # that of a conversation which nobody named


def run(arguments: argparse.Namespace) -> int:
    """Print, or erase; 0."""
    if not 1 <= arguments.last <= _MOST_ROWS:
        raise InvalidValue("last", arguments.last, f"use a whole number from 1 to {_MOST_ROWS}")
    if arguments.all and arguments.forget is None:
        raise InvalidValue("all", True, "use it with --forget")
    path = arguments.ledger or default_path()
    policy = Policy.load(arguments.policy) if arguments.policy else Policy()
    if not path.exists():
        sys.stdout.write(f"{path} does not exist: nothing was sent from here\n")
        return 0
    with Ledger(path) as ledger:
        if arguments.forget is not None:
            return _forget(ledger, arguments)
        if arguments.accept_clock:
            return _accept_clock(ledger)
        found = budget(ledger, policy, arguments.by, arguments.last)
    sys.stdout.write(_json(found) if arguments.json else account(found, policy))
    return 0


def _forget(ledger: Ledger, arguments: argparse.Namespace) -> int:
    if bool(arguments.forget) == arguments.all:
        raise InvalidValue("forget", arguments.forget, "name one conversation, or use --forget --all")
    if not arguments.forget.isprintable():
        raise InvalidValue("forget", arguments.forget, "name a conversation in printable characters")
    count = ledger.forget(arguments.forget or None)
    sys.stdout.write(f"the bits of {count} messages are erased; what they cost stays in the ledger\n")
    return 0


def _accept_clock(ledger: Ledger) -> int:
    with ledger.writing() as entries:
        ahead = entries.accept_clock()
        day = entries.day
    was = f"; the ledger was {ahead} days ahead" if ahead else ", as before"
    sys.stdout.write(f"charges go to {_date(day)}{was}\n")
    return 0


def _json(found: Budget) -> str:
    figures: dict[str, Any] = {"by": found.by, "day": _date(found.day), "delta": found.delta}
    figures["spent"] = [asdict(row) | {"name": _name(found, row)} for row in found.rows]
    figures["left"] = [asdict(row) | {"left": row.left} for row in found.left]
    figures |= {"tokens_in_the_clear": found.tokens_in_the_clear, "memory_bytes": found.memory_bytes}
    return json.dumps(figures) + "\n"


def account(found: Budget, policy: Policy) -> str:
    """What was given away, and what the policy leaves, for a terminal."""
    lines = [_row(found, row) for row in found.rows] or ["nothing was sent privately"]
    if found.rows:
        head = f"{found.by:<{_NAME}} {'prompts':>7} {'tokens':>8} {'rho':>10} {'epsilon':>10}"
        lines = [head, *lines, f"epsilon: at delta {found.delta:g}, exact if no setting was chosen after an answer"]
    lines.append("")
    lines += [_left(row) for row in found.left] or ["no limits are set for a conversation or a day"]
    if found.tokens_in_the_clear:
        lines.append(f"{found.tokens_in_the_clear} private tokens were sent in the clear: no limit covers those")
    lines.append(f"{found.memory_bytes} of at most {policy.memory_bytes} bytes of bits are remembered")
    return "\n".join(lines) + "\n"


def _row(found: Budget, row: Spending) -> str:
    bar = _bar(row.rho / max(one.rho for one in found.rows))
    name = _name(found, row)
    return f"{name:<{_NAME}} {row.prompts:>7} {row.tokens:>8} {row.rho:>10.5g} {row.epsilon:>10.5g}  {bar}".rstrip()


def _left(row: Left) -> str:
    share = row.spent / row.bound
    tokens = "" if row.tokens is None else f", room for {row.tokens} tokens more at mu {row.mu:.3g}"
    return (
        f"{row.unit} {one_line(row.name)[:_NAME]}: {row.quantity} {row.spent:.5g} of {row.bound:g} "
        f"[{_bar(share):<{_BAR}}] {row.left:.5g} left{tokens}"
    )


def _bar(share: float) -> str:
    return "#" * max(1 if share > 0 else 0, min(_BAR, round(_BAR * share)))


def _name(found: Budget, row: Spending) -> str:
    return _date(int(row.name)) if found.by == "day" else one_line(row.name)[:_NAME]


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * SECONDS_A_DAY, UTC).date().isoformat()
