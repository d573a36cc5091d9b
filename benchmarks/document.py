"""Figures in documents: `python -m benchmarks document` writes them from committed results, and a test compares.

A document marks what is written for it, in comments that Markdown does not show, NAME being a file's under
benchmarks/results:

    <!-- figures: NAME.json; GROUP; TITLE -->       a table of a section, or what follows from its figures, by its title
    <!-- figures: NAME.json; run -->                the command, when it ran, and on what
    <!-- figures: NAME.json; report -->             its whole report, without plots
    <!-- figures: NAME.json; GROUP; plot; TITLE -->  a plot of a section, which is a file in images/ beside the document
    <!-- figures: NAME.md -->, NAME.txt             a program's output, as it was
    <!-- figures: targets; GROUP -->                what this repository promises of a group
    ...                                             all of these until
    <!-- end of figures -->

and within a line `<!-- figure: NAME.json; GROUP; FIGURE; WAY; PLACE=VALUE; ... -->1.1 s<!-- -->`, the median.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.harness import groups, section
from benchmarks.report.page import as_markdown, tables
from benchmarks.report.plots import svg
from benchmarks.report.results import Run
from benchmarks.report.tables import markdown, quantity
from del_codec.errors import ArtifactError

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- figures: (.+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_FIGURE = re.compile(r"(<!-- figure: (.+?) -->).*?(<!-- -->)", re.DOTALL)
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def documents() -> list[Path]:
    """All that may hold figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def update(paths: Sequence[Path]) -> list[Path]:
    """Write the figures of these documents anew, and the pictures that they show; those that changed."""
    changed = []
    for path in paths:
        text = path.read_text()
        for file, content in {path: written(text), **pictures(path)}.items():
            if not file.exists() or file.read_text() != content:
                file.parent.mkdir(exist_ok=True)
                file.write_text(content)
                changed.append(file)
    return changed


def pictures(path: Path) -> dict[Path, str]:
    """The plots that a document shows, by where they lie: SVG. Raises ArtifactError."""
    queries = [_words(found[2]) for found in _BLOCK.finditer(path.read_text())]
    plots = [words for words in queries if words[2:3] == ["plot"]]
    return {path.parent / _picture(words): _plot(*words) for words in plots}


def written(text: str) -> str:
    """A document with all of its figures as the committed results have them. Raises ArtifactError."""
    text = _BLOCK.sub(lambda found: f"{found[1]}{_block(_words(found[2]))}{found[3]}", text)
    return _FIGURE.sub(lambda found: f"{found[1]}{_figure(_words(found[2]))}{found[3]}", text)


def unmarked(text: str) -> str:
    """What is left of a document without its figures and without code."""
    return _CODE.sub("", _FIGURE.sub("", _BLOCK.sub("", text)))


def _words(query: str) -> list[str]:
    return [word.strip() for word in query.split(";")]


def _block(words: list[str]) -> str:
    match words:
        case ["targets", group]:
            return _targets(group)
        case [name] if name.endswith(".txt"):
            return f"\n```\n{_file(name).read_text()}```\n\n"
        case [name] if name.endswith(".md"):
            return f"\n{_file(name).read_text()}\n"
        case [name, "run"]:
            return _run(_read(name))
        case [name, "report"]:
            run = _read(name)
            return f"\n{as_markdown(run, [section(group) for group in groups(run)])}\n"
        case [_, _, "plot", title]:
            return f"\n![{title}]({_picture(words)})\n\n"
        case [name, group, title]:
            return _table(name, group, title)
    raise ArtifactError(f"benchmarks/document.py knows no figures {'; '.join(words)}")


def _table(name: str, group: str, title: str) -> str:
    run = _read(name)
    one = section(group)
    found = {sheet.title: sheet for sheet in (*one.sheets(run), *tables(run, one))}
    if title not in found:
        raise ArtifactError(f"{name} has no table {title} of {group}; it has {', '.join(found)}")
    return f"\n{markdown(found[title].rows)}\n"


def _picture(words: Sequence[str]) -> str:
    name, group, _, title = words
    place = "-".join([*Path(name).with_suffix("").parts, *([] if group in Path(name).parts else [group])])
    return f"images/{place}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.svg"


def _plot(name: str, group: str, _: str, title: str) -> str:
    found = {plot.title: plot for plot in section(group).plots}
    if title not in found:
        raise ArtifactError(f"{group} has no plot {title}; it has {', '.join(found)}")
    if not (drawing := svg(_read(name), group, found[title])):
        raise ArtifactError(f"{name} has too few figures for the plot {title} of {group}")
    return drawing


def _run(run: Run) -> str:
    machine = ", ".join(run.machine[key] for key in ("processor", "memory", "system") if key in run.machine)
    return (
        f"\n`{run.command}`, {run.started[:10]}, commit {run.machine['commit']}, {run.seconds:.0f} s on "
        f"{run.machine['cores']} cores ({machine}), load {run.machine['load_at_start']} at the start.\n\n"
    )


def _targets(group: str) -> str:
    targets = importlib.import_module(f"benchmarks.{group}").TARGETS
    rows = [(f"`{target.name}`", f"{target.kind} {target.goal:g}") for target in targets]
    return f"\n{markdown([('target', 'goal'), *rows])}\n"


def _figure(words: list[str]) -> str:
    name, group, figure, way, *place = words
    at = dict(pair.split("=", 1) for pair in place)
    for result in _read(name).of(group):
        here = {key: value if isinstance(value, str) else f"{value:g}" for key, value in result.at.items()}
        if (result.name, result.way, here) == (figure, way, at):
            return quantity(result.median, result.unit)
    raise ArtifactError(f"{name} has no figure {'; '.join(words[1:])}")


@cache
def _read(name: str) -> Run:
    return Run.read(_file(name))


def _file(name: str) -> Path:
    path = RESULTS / name
    if not path.is_file():
        raise ArtifactError(f"benchmarks/results/{name} is missing: a document shows figures of it")
    return path
