"""A run as people read it: one Markdown file, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.report.fits import growth_rows
from benchmarks.report.plots import svg
from benchmarks.report.results import Run
from benchmarks.report.tables import Row, markdown, table_rows, told
from benchmarks.section import Section, Sheet

TITLE = "DEL: benchmarks"
INTRODUCTION = (
    "DEL puts a question to a language model on somebody else's server without sending its words: a device looks each "
    "token up in a table of numbers, randomises them and sends a few bits; the server guesses its way back to what the "
    "model can read. This page says what that costs a device, a line and a server, what it protects, and how all of it "
    "grows, as one command measured it on one machine, beside the plain ways to do the same."
)
# More rows than this are shown when asked for.
LONG = 36
IN_SHORT = "In short"
GROWTH = "Growth: the exponent of a power law through the medians"
LEGEND = (
    "Each cell is the median of the repeats, in brackets what nine tenths of them lie between (of fewer than four, the "
    "least and the greatest). `2 × peer` is the ratio to the named peer in the same run, the median of the ratios of "
    "the turns. Absolute figures belong to this machine and its load; ratios travel. Bars in plots are the same spread."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d8dee4; --soft: #f6f8fa; --link: #0757b8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4ea; --paper: #11151a; --line: #323a44; --soft: #1a2027; --link: #7db4ff; }
  .plots svg { filter: invert(.93) hue-rotate(180deg); }
}
body { font: 15px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
p, dl, nav { max-width: 54rem; } a { color: var(--link); }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-size: 13px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; } td { font-variant-numeric: tabular-nums; }
h2 { margin-top: 3rem; border-bottom: 2px solid; line-height: 1.3; } h3 { margin-bottom: .2rem; }
h3 + p { margin-top: .2rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: .15rem 1rem; font-size: 14px; } dd { margin: 0; }
dt { font-weight: 600; }
summary { cursor: pointer; color: var(--link); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots svg { max-width: 100%; height: auto; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; }
@media (max-width: 40rem) { dl { grid-template-columns: auto; } dd { margin: 0 0 .4rem 1rem; } h1 { font-size: 1.6rem; }
  h2 { font-size: 1.3rem; } }
"""


def as_markdown(run: Run, sections: Sequence[Section]) -> str:
    """Tables only; plots are the page's."""
    parts = [f"# {TITLE}\n", f"{INTRODUCTION}\n"]
    parts += [f"`{run.command}`, {run.started}, {run.seconds:.0f} s.\n", f"{LEGEND}\n"]
    parts.append(markdown([("machine", ""), *run.machine.items()]))
    if facts := in_short(run, sections):
        parts += [f"## {IN_SHORT}\n", "".join(f"- {fact}\n" for fact in facts)]
    for section in sections:
        parts += [f"## {section.title}\n", f"{section.about}\n"]
        if section.words:
            parts.append("".join(f"- **{word}**: {meaning}\n" for word, meaning in section.words.items()))
        if note := run.notes.get(section.group):
            parts.append(f"{note}\n")
        for sheet in [*section.sheets(run), *tables(run, section)]:
            parts += [f"### {sheet.title}\n", *([f"{sheet.about}\n"] if sheet.about else []), markdown(sheet.rows)]
    return "\n".join(parts)


def as_html(run: Run, sections: Sequence[Section]) -> str:
    """Tables and plots in one file without scripts."""
    machine = _table([("machine", ""), *run.machine.items()])
    short = ", ".join(f"{name} {run.machine[name]}" for name in ("processor", "cores", "memory") if name in run.machine)
    links = "".join(f'<li><a href="#{section.group}">{escape(section.title)}</a></li>' for section in sections)
    facts = "".join(f"<li>{_prose(fact)}</li>" for fact in in_short(run, sections))
    body = [
        f"<h1>{TITLE}</h1><p>{escape(INTRODUCTION)}</p><nav><ul>{links}</ul></nav>",
        f"<h2>{IN_SHORT}</h2><ul>{facts}</ul>" if facts else "",
        f"<pre>{escape(run.command)}</pre><p>{escape(run.started)}, {run.seconds:.0f} s. {_prose(LEGEND)}</p>",
        f"<details><summary>The machine: {escape(short)}</summary>{machine}</details>",
    ]
    for section in sections:
        body += [f'<h2 id="{section.group}">{escape(section.title)}</h2>', f"<p>{_prose(section.about)}</p>"]
        if section.words:
            words = (f"<dt>{escape(word)}</dt><dd>{_prose(meaning)}</dd>" for word, meaning in section.words.items())
            body.append(f"<dl>{''.join(words)}</dl>")
        if note := run.notes.get(section.group):
            body.append(f"<p>{_prose(note)}</p>")
        body += map(_sheet, section.sheets(run))
        plots = [drawn for plot in section.plots if (drawn := svg(run, section.group, plot))]
        body.append(f'<div class="plots">{"".join(plots)}</div>')
        body += map(_sheet, tables(run, section))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{TITLE}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def in_short(run: Run, sections: Sequence[Section]) -> list[str]:
    """The facts of all sections that this run has figures of."""
    facts = (told(run, section.group, fact) for section in sections for fact in section.facts)
    return list(filter(None, facts))


def _sheet(sheet: Sheet) -> str:
    about = f"<p>{_prose(sheet.about)}</p>" if sheet.about else ""
    return f"<h3>{escape(sheet.title)}</h3>{about}{_table(sheet.rows)}"


def _prose(text: str) -> str:
    """What stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def tables(run: Run, section: Section) -> Iterator[Sheet]:
    """The figures, and how they grow; of each what was filled."""
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
