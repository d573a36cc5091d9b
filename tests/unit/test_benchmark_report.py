"""What a benchmark leaves behind: data that survives the file, ratios to peers, tables and a page."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest

from benchmarks import harness
from benchmarks.report import results
from benchmarks.report.fits import fit, growth_rows, lines
from benchmarks.report.page import as_html, as_markdown
from benchmarks.report.plots import svg
from benchmarks.report.results import SCHEMA, Recorder, Result, Run
from benchmarks.report.tables import markdown, quantity, table_rows, told
from benchmarks.section import Fact, Plot, Section, Settings, Sheet, Step, Table
from del_codec.errors import ArtifactError


def run_of(*results: Result) -> Run:
    return Run("python -m benchmarks x", "2026-01-01T00:00:00+00:00", 1.5, True, {"cores": "2"}, results)


def result(way: str, size: int, *values: float, peer: str = "") -> Result:
    return Result("x", "time", "s", "lower", way, {"size": size}, values, peer)


RUN = run_of(
    result("ours", 1, 2.0, 6.0, 3.0, peer="theirs"),
    result("theirs", 1, 1.0, 2.0, 2.0),
    result("ours", 2, 4.0, peer="theirs"),
    result("theirs", 2, 2.0, 3.0),
    result("ours", 4, 0.008),
)
TABLE = Table("Times", ("size", "unused"), ("time",))


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    RUN.write_json(tmp_path / "a.json")
    assert Run.read(tmp_path / "a.json") == RUN
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == SCHEMA


SCHEMA_FILE = Path(results.__file__).parent / "results.schema.json"
DESCRIBED = json.loads(SCHEMA_FILE.read_text())
FOLDER = Path(harness.__file__).parent / "results"
COMMITTED = [path for path in sorted(FOLDER.rglob("*.json")) if '"schema": "del-benchmarks' in path.read_text()[:100]]


def test_a_run_is_as_the_schema_describes_it(tmp_path: Path) -> None:
    RUN.write_json(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    jsonschema.validate(document, DESCRIBED)
    for wrong in (
        {"extra": 1},
        {"schema": "del-benchmarks/0"},
        {"results": [{**document["results"][0], "values": []}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **wrong}, DESCRIBED)


def test_the_schema_has_every_field_and_the_documentation_names_it() -> None:
    told = (Path(harness.__file__).parents[1] / "docs" / "benchmarks.md").read_text().partition("## The JSON")[2]
    for kind, described in ((Run, DESCRIBED), (Result, DESCRIBED["$defs"]["result"])):
        names = {field.name for field in fields(kind)}
        assert names == set(described["properties"]) - {"schema"}
        assert all(any(form in told for form in (f"`{name}`", f"`{name}[]", f"[].{name}`")) for name in names)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_committed_runs_are_as_the_schema_describes(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text()), DESCRIBED)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "del-benchmarks/0"}', f'{{"schema": "{SCHEMA}", "x": 1}}']
)
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"a\.json"):
        Run.read(tmp_path / "a.json")


def test_ratios_pair_the_turns_where_they_can() -> None:
    paired, _, unpaired, _, alone = RUN.results
    assert RUN.ratio(paired) == 2.0  # of 2, 3 and 1.5
    assert RUN.ratio(unpaired) == 4 / 2.5
    assert RUN.ratio(alone) is None


def test_a_line_of_csv_for_each_figure(tmp_path: Path) -> None:
    RUN.write_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert rows[0] == {
        **{"group": "x", "name": "time", "way": "ours", "at": "size=1", "unit": "s", "median": "3.0", "low": "2.0"},
        **{"high": "6.0", "repeats": "3", "peer": "theirs", "ratio": "2.0"},
    }


def test_a_table_has_a_row_for_each_way_at_each_place() -> None:
    assert table_rows(RUN, "x", TABLE) == [
        ("size", "way", "time"),
        ("1", "ours", "3 s (2 to 6); 2 × theirs"),
        ("1", "theirs", "2 s (1 to 2)"),
        ("2", "ours", "4 s; 1.6 × theirs"),
        ("2", "theirs", "2.5 s (2 to 3)"),
        ("4", "ours", "8 ms"),
    ]
    assert markdown([("a", "b"), ("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_facts_are_told_first_where_a_run_has_them() -> None:
    facts = (Fact("Ours takes", "time", "ours", {"size": 1}), Fact("Not measured", "time", "ours", {"size": 9}))
    section = Section("x", "X", "About.", lambda settings: nullcontext([]), (TABLE,), (), facts=facts)
    expected = "Ours takes: 3 s (2 to 6); 2 × theirs"
    assert f"## In short\n\n- {expected}\n\n## X" in as_markdown(RUN, [section])
    assert f"<h2>In short</h2><ul><li>{expected}</li></ul>" in as_html(RUN, [section])
    assert "In short" not in as_html(RUN, [replace(section, facts=())])


def test_every_fact_is_a_figure_of_its_section() -> None:
    """So a figure that is called otherwise some day doesn't leave the page in silence."""
    run = Run.read(FOLDER / "reference.json")
    told_of = [told(run, group, fact) for group in harness.groups(run) for fact in harness.section(group).facts]
    assert len(told_of) > 8
    assert all(told_of)


def test_quantities_have_three_digits_and_a_unit_that_suits() -> None:
    shown = [quantity(value, "s") for value in (0.0, 1234.5, 1.2345, 0.0123, 4.56e-5, 7e-9)]
    assert shown == ["0 s", "1234 s", "1.23 s", "12.3 ms", "45.6 µs", "7 ns"]
    assert quantity(0.5, "tokens/s") == "0.5 tokens/s"
    assert [quantity(value, "B") for value in (2120.0, 3.34e6, 7.4e8)] == ["2120 B", "3340 kB", "740 MB"]


def test_a_plot_has_a_line_for_each_way() -> None:
    drawn = svg(RUN, "x", Plot("Time by size", "time", "size"))
    assert drawn.startswith("<svg")
    assert all(text in drawn for text in ("ours", "theirs", "Time by size"))
    assert svg(RUN, "x", Plot("Nothing", "no such figure", "size")) == ""


def test_the_harness_writes_all_four_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    @contextmanager
    def steps(settings: Settings):  # type: ignore[no-untyped-def]
        def measure(record: Recorder) -> None:
            record.add("time", 1.0 if settings.quick else 2.0, "s", "lower", "<ours>", {"size": 1})

        yield [Step("one", measure), Step("two", measure)]
        ended.append(True)

    section = Section("x", "Ex & why", "About `it & more`.", steps, (TABLE,), ())
    monkeypatch.setattr(harness, "section", lambda group: section)
    run = harness.run(["x"], Settings(quick=True), tmp_path)
    assert ended
    assert [result.values for result in run.results] == [(1.0, 1.0)]
    assert Run.read(tmp_path / "results.json") == run
    assert "| 1 | <ours> | 1 s (1 to 1) |" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Ex &amp; why" in page
    assert "About <code>it &amp; more</code>." in page
    assert "&lt;ours&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")


class TestOfSeveralGroups:
    @pytest.fixture(autouse=True)
    def sections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that fails, one that breaks, one that this machine refuses, and one that works."""

        @contextmanager
        def failing(settings: Settings):  # type: ignore[no-untyped-def]
            raise SystemExit("no server")
            yield []

        @contextmanager
        def breaking(settings: Settings):  # type: ignore[no-untyped-def]
            raise ConnectionError("/a/path of this machine")
            yield []

        @contextmanager
        def working(settings: Settings):  # type: ignore[no-untyped-def]
            yield [Step("one", lambda record: record.add("time", 1.0, "s", "lower", "ours", {"size": 1}))]

        sections = {
            "fails": Section("fails", "Fails", "", failing, (), ()),
            "breaks": Section("breaks", "Breaks", "", breaking, (), ()),
            "refused": Section("refused", "Refused", "", failing, (), (), refused=lambda: "no root"),
            "works": Section("works", "Works", "", working, (), ()),
        }
        monkeypatch.setattr(harness, "section", lambda group: sections[group])

    def test_one_that_is_refused_is_noted(self, tmp_path: Path) -> None:
        run = harness.run(["refused", "works"], Settings(quick=True), tmp_path)
        assert dict(run.notes) == {"refused": "Not measured: no root."}
        assert [each.group for each in run.results] == ["works"]
        assert "Not measured: no root." in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(("group", "why"), [("fails", "no server"), ("breaks", "ConnectionError")])
    def test_one_that_fails_is_told_when_the_others_are_done(self, tmp_path: Path, group: str, why: str) -> None:
        with pytest.raises(SystemExit, match=f"{group} failed: {why}"):
            harness.run([group, "works"], Settings(quick=True), tmp_path)
        run = Run.read(tmp_path / "results.json")
        assert dict(run.notes) == {group: f"Failed: {why}."}
        assert [each.group for each in run.results] == ["works"]

    @pytest.mark.parametrize(("group", "why"), [("fails", "no server"), ("refused", "no root")])
    def test_nothing_is_left_where_nothing_was_measured(self, tmp_path: Path, group: str, why: str) -> None:
        with pytest.raises(SystemExit, match=why):
            harness.run([group], Settings(quick=True), tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_recorder_keeps_repeats_together() -> None:
    record = Recorder("x")
    for value in (1.0, 2.0):
        record.add("time", value, "s", "lower", "ours", {"size": 1}, peer="theirs")
        record.add("time", value + 1, "s", "lower", "ours", {"size": 2})
    assert list(record.results()) == [result("ours", 1, 1.0, 2.0, peer="theirs"), result("ours", 2, 2.0, 3.0)]


def test_growth_is_the_exponent_of_a_power_law() -> None:
    exact = fit([(x, 3 * x**1.5) for x in (1.0, 2.0, 4.0, 8.0)])
    assert exact is not None
    assert exact.exponent == pytest.approx(1.5)
    assert exact.low == pytest.approx(exact.high)
    scattered = fit([(1.0, 1.0), (2.0, 2.5), (4.0, 3.5), (8.0, 9.0)])
    assert scattered is not None
    assert scattered.low < 1 < scattered.high
    assert fit([(1.0, 1.0), (2.0, 2.0), (0.0, 5.0)]) is None


def test_a_row_of_growth_for_each_line_with_places_enough() -> None:
    rows = growth_rows(RUN, "x", [Plot("Time by size", "time", "size")])
    assert [row[:3] for row in rows[1:]] == [("time", "size", "ours")]
    assert rows[1][5] == "3"


def test_a_plot_has_a_line_for_each_value_that_it_tells_apart() -> None:
    at = [{"size": size, "bits": bits} for bits in (1, 8) for size in (1, 2)]
    run = run_of(*(Result("x", "time", "s", "lower", "ours", place, (1.0,)) for place in at))
    found = lines(run, "x", Plot("Time", "time", "size", by=("bits",)))
    assert {name: len(points) for name, points in found.items()} == {"ours, bits 1": 2, "ours, bits 8": 2}
    assert lines(run, "x", Plot("Time", "time", "size")) == {}


def test_what_follows_from_figures_comes_first_and_long_tables_are_folded() -> None:
    def steps(settings: Settings):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def sheets(run: Run) -> list[Sheet]:
        return [Sheet("The answer", "Of it all.", [("a", "b"), (str(len(run.results)), "<2>")])]

    long = run_of(*(result("ours", size, 1.0) for size in range(1, 40)))
    section = Section("x", "Ex", "About.", steps, (Table("Times", ("size",), ("time",), "All."),), (), sheets)
    text, page = as_markdown(long, [section]), as_html(long, [section])
    assert text.index("### The answer\n\nOf it all.\n\n| a | b |") < text.index("### Times\n\nAll.\n")
    assert "&lt;2&gt;" in page
    assert page.count("<details>") == 2  # the machine is one
    assert "<summary>39 rows</summary>" in page


def test_a_report_is_written_anew_from_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section("x", "Ex", "About.", lambda settings: None, (TABLE,), (), words={"ex": "`x`"})  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(harness, "section", lambda group: section)
    RUN.write_json(tmp_path / "run.json")
    harness.report(Run.read(tmp_path / "run.json"), tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"results.csv", "report.md", "report.html"}
    assert "- **ex**: `x`" in (tmp_path / "again" / "report.md").read_text()
    page = (tmp_path / "again" / "report.html").read_text()
    assert "<dt>ex</dt><dd><code>x</code></dd>" in page
    assert page.index('href="#x"') < page.index('id="x"')
