"""README.md and docs/ say what the committed results say, and no figure that was measured stands there unmarked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.document import documents, pictures, unmarked, update, written
from benchmarks.report.results import Result, Run
from del_codec.errors import ArtifactError

# What is measured has such units; what is set (timeouts, bounds) comes in whole seconds and binary units.
MEASURED = re.compile(r"\b\d[\d,.]* ?(?:ns|µs|ms|kB|MB|GB|tokens/s)\b|\b\d+\.\d+ s\b")
# A diary of what was seen, a page that a test of its own holds to its results, and one of results of its own.
DIARIES = {"log.md", "results.md", "timing.md"}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_figures_are_those_of_the_committed_results(path: Path) -> None:
    text = path.read_text()
    assert text == written(text), "run `python -m benchmarks document`; a program's output goes to benchmarks/results"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_pictures_are_those_of_the_committed_results(path: Path) -> None:
    for file, content in pictures(path).items():
        assert file.read_text() == content, "run `python -m benchmarks document`"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_no_measured_figure_stands_outside_of_what_is_written_from_results(path: Path) -> None:
    if path.name not in DIARIES:
        assert MEASURED.findall(unmarked(path.read_text())) == [], "mark it (benchmarks/document.py says how)"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    figures = (
        Result("edge", "installed", "MB", "lower", "DEL", {}, (179.0,)),
        Result("growth", "bytes", "B", "lower", "messages up", {"turn": 2.0}, (600.0, 700.0, 650.0)),
        Result("growth", "bytes", "B", "lower", "messages up", {"turn": 4.0}, (900.0,)),
    )
    machine = {"cores": "2", "commit": "abc", "load_at_start": "0.1", "memory": "4 GiB"}
    run = Run("python -m benchmarks all", "2026-01-02T00:00:00+00:00", 61.0, True, machine, figures)
    run.write_json(tmp_path / "run.json")
    (tmp_path / "out.txt").write_text("what was printed\n")
    (tmp_path / "out.md").write_text("| a |\n")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    document._read.cache_clear()
    return tmp_path


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("run.json; edge; Footprint", "| DEL | 179 MB |"),
        ("run.json; run", "`python -m benchmarks all`, 2026-01-02, commit abc, 61 s on 2 cores (4 GiB), load 0.1"),
        ("run.json; report", "## The device"),
        ("out.txt", "```\nwhat was printed\n```"),
        ("out.md", "| a |\n"),
        ("targets; edge", "| `edge.install_MB` | at most 190 |"),
    ],
)
def test_a_block_is_written_from_results(query: str, shown: str) -> None:
    text = f"Before\n<!-- figures: {query} -->\nold\n<!-- end of figures -->\nafter\n"
    new = written(text)
    assert shown in new
    assert "old" not in new
    assert new.startswith("Before\n")
    assert new.endswith("<!-- end of figures -->\nafter\n")
    assert written(new) == new
    assert unmarked(new) == "Before\n\nafter\n"


@pytest.mark.usefixtures("results")
def test_a_figure_in_a_line_is_the_median() -> None:
    text = "It took <!-- figure: run.json; growth; bytes; messages up; turn=2 -->9 B<!-- --> of it."
    assert ">650 B<" in written(text)
    assert unmarked(text) == "It took  of it."


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    "query",
    [
        *("nothing.json; run", "nothing.txt", "run.json; edge; No such table", "run.json", "targets"),
        "run.json; growth; plots; Bytes by turn",
        *("run.json; growth; bytes; messages up; turn=3", "run.json; growth; no; messages up; turn=2"),
    ],
)
def test_what_is_not_there_is_refused(query: str) -> None:
    kind = "figure" if "turn=" in query else "figures"
    end = "<!-- -->" if kind == "figure" else "<!-- end of figures -->"
    with pytest.raises(ArtifactError):
        written(f"<!-- {kind}: {query} -->\n{end}")


@pytest.mark.usefixtures("results")
def test_only_what_changed_is_written(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "stale.md", tmp_path / "fresh.md"
    stale.write_text("<!-- figures: out.md -->\n<!-- end of figures -->\n")
    fresh.write_text("No figures.\n")
    assert update([stale, fresh]) == [stale]
    assert "| a |" in stale.read_text()
    assert update([stale, fresh]) == []


@pytest.mark.usefixtures("results")
def test_a_plot_is_a_file_beside_its_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- figures: run.json; growth; plot; Bytes by turn -->\n<!-- end of figures -->\n")
    picture = tmp_path / "images" / "run-growth-bytes-by-turn.svg"
    assert update([document]) == [document, picture]
    assert "![Bytes by turn](images/run-growth-bytes-by-turn.svg)" in document.read_text()
    assert picture.read_text().startswith("<svg")
    assert "messages up" in picture.read_text()
    picture.write_text("old")
    assert update([document]) == [picture]
    assert update([document]) == []


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("title", ["CPU time by tokens of the prompt", "No such plot"])
def test_a_plot_of_what_was_not_measured_is_refused(tmp_path: Path, title: str) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"<!-- figures: run.json; growth; plot; {title} -->\n<!-- end of figures -->\n")
    with pytest.raises(ArtifactError):
        pictures(document)


def test_a_figure_that_was_measured_is_known_by_its_unit() -> None:
    assert MEASURED.findall("It takes 1.5 s, 12 ms and 3 MB.") == ["1.5 s", "12 ms", "3 MB"]
    assert MEASURED.findall("A timeout of 30 s, 8 MiB, version 1.2, mu 8.5") == []
