"""A run as people read it: one Markdown file, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.report.fits import growth_rows
from benchmarks.report.plots import svg
from benchmarks.report.results import Run
from benchmarks.report.tables import Row, markdown, table_rows
from benchmarks.section import Section, Sheet

TITLE = "DEL: benchmarks"
# More rows than this are shown when asked for.
LONG = 26
GROWTH = "Growth: the exponent of a power law through the medians"
LEGEND = (
    "Each cell is the median of the repeats, in brackets their quartiles (of fewer than four, the least and the "
    "greatest). A ratio is to the named peer in the same run, the median of the ratios of the turns. Absolute figures "
    "belong to this machine and its load; ratios travel."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-size: 13px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #d8dee4; padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
h2 { margin-top: 2.6rem; border-bottom: 2px solid #1b1f24; } h3 { margin-bottom: .2rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots svg { max-width: 100%; height: auto; }
pre { background: #f6f8fa; padding: .6rem; overflow-x: auto; }
"""


def as_markdown(run: Run, sections: Sequence[Section]) -> str:
    """Tables only; plots are the page's."""
    parts = [f"# {TITLE}\n", f"`{run.command}`, {run.started}, {run.seconds:.0f} s.\n", f"{LEGEND}\n"]
    parts.append(markdown([("machine", ""), *run.machine.items()]))
    for section in sections:
        parts += [f"## {section.title}\n", f"{section.about}\n"]
        if note := run.notes.get(section.group):
            parts.append(f"{note}\n")
        for sheet in _sheets(run, section):
            parts += [f"### {sheet.title}\n", *([f"{sheet.about}\n"] if sheet.about else []), markdown(sheet.rows)]
    return "\n".join(parts)


def as_html(run: Run, sections: Sequence[Section]) -> str:
    """Tables and plots in one file without scripts."""
    body = [
        f"<h1>{TITLE}</h1>",
        f"<pre>{escape(run.command)}</pre><p>{escape(run.started)}, {run.seconds:.0f} s. {escape(LEGEND)}</p>",
        _table([("machine", ""), *run.machine.items()]),
    ]
    for section in sections:
        body += [f"<h2>{escape(section.title)}</h2>", f"<p>{_prose(section.about)}</p>"]
        if note := run.notes.get(section.group):
            body.append(f"<p>{_prose(note)}</p>")
        plots = [drawn for plot in section.plots if (drawn := svg(run, section.group, plot))]
        body.append(f'<div class="plots">{"".join(plots)}</div>')
        for sheet in _sheets(run, section):
            body += [f"<h3>{escape(sheet.title)}</h3>", f"<p>{_prose(sheet.about)}</p>", _table(sheet.rows)]
    head = f'<meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _prose(text: str) -> str:
    """What stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _sheets(run: Run, section: Section) -> Iterator[Sheet]:
    """What follows from the figures, the figures, and how they grow; of each what was filled."""
    yield from section.sheets(run)
    for table in section.tables:
        rows = table_rows(run, section.group, table)
        if len(rows) > 1:
            yield Sheet(table.title, table.about, rows)
    rows = growth_rows(run, section.group, section.plots)
    if len(rows) > 1:
        yield Sheet(GROWTH, "", rows)


def _table(rows: Sequence[Row]) -> str:
    """Folded where it is long."""

    def line(row: Row, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"

    table = f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"
    if len(rows) <= LONG:
        return table
    return f"<details><summary>{len(rows) - 1} rows</summary>{table}</details>"
