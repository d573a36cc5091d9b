"""An audit in words: a table of bounds, and a line for the tests. Knows nothing of how they were found."""

from __future__ import annotations

from del_server.evaluation.audit.audit import Audit
from del_server.evaluation.markdown import markdown_table

_COLUMNS = ("delta", "certified epsilon", "proven epsilon", "ratio", "accepted of one", "of the other")


def describe(audit: Audit, dim: int) -> str:
    """All that a reader needs to know what the figures mean; dim: of the table."""
    setting, pair = audit.setting, audit.pair
    rows = [
        (
            f"{bound.delta:g}",
            f"{bound.certified:.4g}",
            f"{bound.lower:.4g}",
            f"{bound.ratio:.3f}",
            f"{bound.share:.3g}",
            f"{bound.other:.3g}",
        )
        for bound in audit.bounds
    ]
    verdict = f"ALARM: {', '.join(audit.alarms)}" if audit.alarms else "no alarm"
    tests = ", ".join(
        f"{finding.test} {finding.p_value:.2g}" + (f" ({finding.detail})" if finding.detail else "")
        for finding in audit.findings
    )
    return "\n".join(
        [
            f"mu {setting.mu(dim):.4g}, {setting.bits} bits (noise scale {setting.scale}), d = {dim}: "
            f"{audit.draws} draws of each of tokens {pair[0]} and {pair[1]}; epsilon of {_unit(audit.tokens)}",
            "",
            markdown_table(_COLUMNS, rows),
            "",
            f"p-values: {tests}",
            f"{verdict}, at confidence {audit.confidence:g} for everything above together",
            "",
        ]
    )


def _unit(tokens: int) -> str:
    return "one token" if tokens == 1 else f"{tokens} tokens, all the one or all the other"
