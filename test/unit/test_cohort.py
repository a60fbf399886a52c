"""Many cases by one process: what is a case, what is done again, and the tables and the page of all lesions."""

from __future__ import annotations

import contextlib
import csv
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import process
from longilesion.cohort import worker
from longilesion.cohort.lesions import COLUMNS, FATES, lesion_rows
from longilesion.cohort.page import write_summary
from longilesion.cohort.plan import CohortCase, find_cases
from longilesion.cohort.record import CaseRecord
from longilesion.cohort.summary import CohortSummary
from longilesion.cohort.tables import schema, write_lesions
from longilesion.errors import InputError
from longilesion.report import LesionReport, RunReport
from test.unit.case_folders import files_under, write_case, write_single_files
from test.unit.cohorts import MAP, cohort, left_behind, lesions_of, maps, record, tables, write_cases
from test.unit.test_html_report import Page

pytestmark = pytest.mark.usefixtures("restored_logging")


def names(source: Path, output: Path) -> list[str]:
    return [case.name for case in find_cases(source, output)]


# ---------------------------------------------------------------------------------------------------------------- plan


def test_cases_are_found_in_groups_and_beside_their_truth_and_none_is_overlooked(tmp_path: Path) -> None:
    root = tmp_path / "cases"
    write_case(root / "one")
    write_case(root / "two" / "input")
    (root / "two" / "truth").mkdir()
    write_case(root / "site" / "a")
    write_case(root / "site" / "b")
    # Nothing that could be outlined: it has to fail, and not to be missing.
    (root / "empty").mkdir()
    (root / "site" / "forgotten" / "notes").mkdir(parents=True)
    (root / ".hidden" / "images").mkdir(parents=True)
    (root / "README.txt").write_text("cases")
    assert names(root, tmp_path / "out") == ["empty", "one", "site/a", "site/b", "site/forgotten", "two"]
    folders = {case.name: case.folder for case in find_cases(root, tmp_path / "out")}
    assert folders["two"] == root / "two" / "input"
    # The folder of one case, with what else may lie in it.
    assert names(root / "one", tmp_path / "out") == ["one"]
    write_case(root / "two" / "expected")
    (alone,) = find_cases(root / "two", tmp_path / "out")
    assert (alone.name, alone.folder) == ("two", root / "two" / "input")


def test_table_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case;followup;baseline;lesions;who\na/1;x/f.nii.gz;b.mha;;me\nb;/f.nii;;;\n")
    first, second = find_cases(tmp_path / "cases.csv", tmp_path / "out")
    assert (first.name, first.files) == ("a/1", {"followup": tmp_path / "x/f.nii.gz", "baseline": tmp_path / "b.mha"})
    assert (second.name, second.files) == ("b", {"followup": Path("/f.nii")})


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("name,followup\na,f\n", "no column case, columns name, followup; expected case and followup"),
        ("case,followup\na,f\nb,f\na,f\n", "line 4: case a as in line 2"),
        ("case,followup\na,\n", "line 2: case a has no followup"),
        ("case,followup\n,f\n", "line 2: case ''"),
        ("case,followup\n../a,f\n", "line 2: case '../a'"),
        ("case,followup\n/a,f\n", "line 2: case '/a'"),
        ("case,followup\n.a,f\n", "line 2: case '.a'"),
        ("case,followup\na,f\na/b,f\n", "case a/b lies in case a"),
        ("case,followup\nlesions.csv,f\n", "a case named lesions.csv"),
        ("case,followup\n", "no case"),
    ],
)
def test_table_that_cannot_be_used_is_refused(tmp_path: Path, content: str, finding: str) -> None:
    (tmp_path / "cases.csv").write_text(content)
    with pytest.raises(InputError, match=re.escape(finding)):
        find_cases(tmp_path / "cases.csv", tmp_path / "out", reserved=("lesions.csv",))


@given(name=st.text(st.characters(exclude_characters='"\n\r\0', exclude_categories=("Cs",)), min_size=1, max_size=12))
def test_results_of_any_case_lie_in_the_output(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("table", numbered=True)
    (folder / "cases.csv").write_text(f'case,followup\n"{name}",f.mha\n')
    cases: Sequence[CohortCase] = ()
    with contextlib.suppress(InputError):
        cases = find_cases(folder / "cases.csv", folder / "out")
    for case in cases:
        assert (folder / "out") in (folder / "out" / case.name).resolve().parents


@pytest.mark.parametrize("place", ["cases", "cases/out", "cases/case0/out"])
def test_output_among_the_cases_is_refused(tmp_path: Path, place: str) -> None:
    write_cases(tmp_path / "cases", count=1)
    with pytest.raises(InputError, match="where its results would be cases"):
        find_cases(tmp_path / "cases", tmp_path / place)


# ------------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cohort") / "cases")


@pytest.fixture(scope="module")
def done(cases: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a cohort; the tests leave them as they are."""
    output = tmp_path_factory.mktemp("done")
    assert cohort(cases, output, bundle, "--one-process") == 1
    return output


def test_cases_and_table_are_those_of_a_process_each(done: Path, cases: Path, bundle: Path, tmp_path: Path) -> None:
    rows = []
    for case in ("case0", "case1", "case2", "case3"):
        paths = {
            "input": cases / case,
            "output": tmp_path / case,
            "model": bundle,
            "report": tmp_path / case / "r.json",
        }
        words = [str(word) for name, value in paths.items() for word in (f"--{name}", value)]
        assert process.main([*words, "--device", "cpu", "--precision", "float32"]) == 0
        assert maps(done / case) == maps(tmp_path / case)
        assert lesions_of(done / case / "report.json") == lesions_of(tmp_path / case / "r.json")
        rows += lesion_rows(case, RunReport.model_validate_json((tmp_path / case / "r.json").read_bytes()))
    assert len(maps(done)) == 5
    assert (done / "lesions.parquet").exists()
    found = parquet.read_table(done / "lesions.parquet").to_pylist()
    assert found == [{column.name: _plain(row.get(column.name)) for column in COLUMNS} for row in rows]
    assert {row["fate"] for row in found} <= set(FATES)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_bad_case_is_said_in_a_line_and_stops_no_other(
    cases: Path,
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert cohort(cases, tmp_path, bundle, "--one-process") == 1
    captured = capfd.readouterr()
    (line,) = caplog.messages
    assert line.startswith("case damaged: ")
    assert "truncated" in line
    (last,) = captured.err.splitlines()
    assert last == f"{tmp_path}: 1 of 5 cases failed (see above, and cases.csv); expected none"
    # No progress where there is no terminal.
    assert captured.out.splitlines() == ["4 of 5 cases done; 8 lesions"]
    table = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    assert [row["state"] for row in table] == ["done"] * 4 + ["failed"]
    assert "truncated" in table[-1]["error"]
    assert table[-1]["lesions"] == ""
    assert files_under(tmp_path / "damaged") == []
    assert left_behind(tmp_path) == []


def test_only_what_has_changed_is_done_again(
    cases: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(cases, tmp_path / "cases")
    output = tmp_path / "out"
    segmented = []
    segment_inputs = worker.segment_inputs

    def noted(inputs: worker.Inputs, **options: Any) -> object:
        segmented.append(inputs.followup_files["primary"].relative_to(source).parts[0])
        return segment_inputs(inputs, **options)

    monkeypatch.setattr(worker, "segment_inputs", noted)

    def again(*options: object) -> list[str]:
        segmented.clear()
        cohort(source, output, bundle, "--one-process", *options)
        return segmented

    everything = ["case0", "case1", "case2", "case3"]
    assert again() == everything
    assert again() == []
    assert "4 of 5 cases done, 4 of them by an earlier run" in capfd.readouterr().out
    # Another scan; a map that somebody has changed; a second scan that is there no more.
    shutil.copy(
        source / "case3/images/primary-baseline-ct/scan.mha", source / "case2/images/primary-followup-ct/scan.mha"
    )
    (output / "case3" / MAP).write_bytes(b"")
    for path in [*(source / "case1" / "images").glob("secondary*"), *(source / "case1").glob("secondary*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again() == ["case1", "case2", "case3"]
    assert list(maps(output / "case1")) == [MAP]
    write_case(source / "damaged")
    assert again() == ["damaged"]
    assert again("--refine-clicks") == [*everything, "damaged"]
    # What fails now, though it did not before, has no results of before.
    (source / "case0/images/primary-followup-ct/scan.mha").write_bytes(b"no image")
    assert again("--refine-clicks") == []
    assert files_under(output / "case0") == []
    assert b"case0" not in tables(output)["lesions.csv"]


def test_run_that_is_interrupted_is_resumed_to_the_same_tables(
    done: Path, cases: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT when the second case's maps are written, and its report is not."""
    write_report, calls = worker.write_report, []

    def interrupted(path: Path, report: RunReport) -> None:
        calls.append(path)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        write_report(path, report)

    monkeypatch.setattr(worker, "write_report", interrupted)
    assert cohort(cases, tmp_path, bundle, "--one-process") == 128 + signal.SIGINT
    assert not (tmp_path / "lesions.csv").exists()
    assert (tmp_path / "case0" / "case.json").exists()
    assert not (tmp_path / "case1" / "case.json").exists()
    assert cohort(cases, tmp_path, bundle, "--one-process") == 1
    assert len(calls) == 2 + 3
    assert tables(tmp_path) == tables(done)
    assert maps(tmp_path) == maps(done)


def test_without_ray_one_process_does_the_same(
    done: Path,
    cases: Path,
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cohort(cases, tmp_path, bundle) == 1
    assert "Ray is not installed: all cases are run in this process" in capfd.readouterr().out
    assert tables(tmp_path) == tables(done)
    assert cohort(cases, tmp_path, bundle, "--address", "127.0.0.1:6379") == 1
    assert capfd.readouterr().err == (
        "--address 127.0.0.1:6379 without Ray; expected it: pip install 'longilesion[cohort]'\n"
    )


def test_without_pyarrow_there_is_no_parquet_and_this_is_said(
    done: Path,
    cases: Path,
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cohort(cases, tmp_path, bundle, "--one-process") == 1
    assert "pyarrow is not installed: there is no lesions.parquet" in capfd.readouterr().out
    assert (tmp_path / "lesions.csv").read_bytes() == tables(done)["lesions.csv"]
    assert not (tmp_path / "lesions.parquet").exists()


def test_full_disk_is_said_for_each_case_and_a_later_run_goes_on(
    done: Path,
    cases: Path,
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file system of 40 KB has room for two cases or three, each of which has three files of a page or two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        assert cohort(cases, disk, bundle, "--one-process") == 1
        *full, damaged = caplog.messages
        assert 1 <= len(full) <= 3
        assert all(re.match(rf"case case\d: {disk}/.*(No space left|room for it)", line) for line in full), full
        assert damaged.startswith("case damaged: ")
        (last,) = capfd.readouterr().err.splitlines()
        assert last.startswith(f"{disk}/")
        assert left_behind(disk) == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert cohort(cases, disk, bundle, "--one-process") == 1
        printed = capfd.readouterr().out
        assert f"4 of 5 cases done, {4 - len(full)} of them by an earlier run" in printed
        assert tables(disk) == tables(done)
        assert maps(disk) == maps(done)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_table_of_files_is_run_as_folders_are(bundle: Path, tmp_path: Path) -> None:
    write_single_files(tmp_path)
    names = {"followup": "after", "baseline": "before", "lesions": "before_lesions"}
    cells = [f"{name}.nii.gz" for name in names.values()]
    table = tmp_path / "cases.csv"
    table.write_text(
        ",".join(("case", *names, "baseline_clicks", "followup_clicks"))
        + f"\nsite/1,{','.join(cells)},before_clicks.json,after_clicks.json\n"
    )
    assert cohort(table, tmp_path / "out", bundle, "--one-process") == 0
    assert list(maps(tmp_path / "out")) == [f"site/1/{MAP}"]
    assert record(tmp_path / "out", "site/1").state == "done"
    assert '<a href="site/1/report.json">' in (tmp_path / "out" / "summary.html").read_text()


def test_what_a_case_warns_of_is_kept_with_it(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A click outside the scan is found when the case is read; each case says its name when it is outlined."""
    segment_inputs = worker.segment_inputs

    def said(inputs: worker.Inputs, **options: Any) -> object:
        logging.getLogger("longilesion.test").warning("outlines %s", inputs.followup_files["primary"])
        return segment_inputs(inputs, **options)

    monkeypatch.setattr(worker, "segment_inputs", said)
    write_case(tmp_path / "cases" / "good")
    write_case(tmp_path / "cases" / "outside", followup_clicks={"1": (500, 4, 3)})
    assert cohort(tmp_path / "cases", tmp_path / "out", bundle, "--one-process") == 0
    assert capfd.readouterr().err == ""
    for case in ("good", "outside"):
        warnings = record(tmp_path / "out", case).warnings
        (outlines,) = [line for line in warnings if line.startswith("outlines ")]
        assert f"/{case}/" in outlines
        assert any("outside its scan" in line for line in warnings) == (case == "outside")


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        (("--workers", 0), "--workers 0; expected 1 or more"),
        (("--cores-per-worker", -1), "--cores-per-worker -1; expected 1 or more"),
        (("--detector", "d"), "--detector without a search; expected --find-new too"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    cases: Path,
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: Sequence[object],
    finding: str,
) -> None:
    assert cohort(cases, tmp_path / "out", bundle, "--one-process", *options) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert finding in line


# ------------------------------------------------------------------------------------------------------ tables and page


def test_parquet_has_types_that_say_what_columns_are() -> None:
    types = {field.name: field.type for field in schema()}
    assert types["click_mm"] == pa.list_(pa.field("element", pa.float64()), 3)
    assert types["fate"] == pa.dictionary(pa.int8(), pa.string())
    assert (types["target"], types["lesion"], types["volume_low"]) == (pa.bool_(), pa.uint16(), pa.float64())
    assert not schema().field("case").nullable
    assert schema().field("volume_baseline").metadata[b"unit"] == b"ml"


def test_documentation_describes_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text()
    for column in COLUMNS:
        assert f"| `{column.name}` | {column.kind} | {column.unit or '-'} | {column.meaning} |" in text


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
points = st.none() | st.tuples(*[st.floats(-1e4, 1e4)] * 3)
KINDS = {
    "text": texts,
    "flag": st.booleans(),
    "id": st.integers(1, 65535),
    "number": numbers,
    "point": points,
}


def values(column: Any) -> st.SearchStrategy[object]:
    kinds = KINDS | {"category": st.sampled_from(FATES if column.name == "fate" else ("primary", "secondary"))}
    return kinds[column.kind] if not column.is_nullable else st.none() | kinds[column.kind]


@settings(max_examples=25)
@given(rows=st.lists(st.fixed_dictionaries({column.name: values(column) for column in COLUMNS}), max_size=4))
def test_both_tables_hold_what_is_written(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tables", numbered=True)
    write_lesions(folder, rows)
    read = parquet.read_table(folder / "lesions.parquet")
    assert read.schema.equals(schema(), check_metadata=True)
    assert read.to_pylist() == [{name: _plain(value) for name, value in row.items()} for row in rows]
    with (folder / "lesions.csv").open(encoding="utf-8", newline="") as text:
        cells = list(csv.DictReader(text))
    assert len(cells) == len(rows)
    for row, cell in zip(rows, cells, strict=True):
        for column in COLUMNS:
            value, found = row[column.name], cell[column.name]
            if value is None:
                assert found == ""
            elif column.kind == "number":
                assert float(found) == value
            elif column.kind == "point":
                assert tuple(map(float, found.split())) == value
            else:
                assert found == str(value)


def lesion(lesion_id: int, **changed: Any) -> LesionReport:
    known: dict[str, Any] = {"scan": "primary", "volume_baseline_ml": 2.0, "volume_followup_ml": 1.0, **changed}
    click = None if known["scan"] is None else (1.0, 2.0, 3.0)
    return LesionReport(
        id=lesion_id, click=click, click_xyz_mm=click, click_clamped=False, propagated=False, confidence=1.0,
        presence=None, probability=0.5, note="", **known,
    )  # fmt: skip


def test_fate_is_told_by_the_outlines() -> None:
    lesions = [
        lesion(1),
        lesion(2, volume_baseline_ml=0.0),
        lesion(3, volume_followup_ml=0.0, absence="gone"),
        lesion(4, volume_followup_ml=0.0, absence="merged", merged_into=1),
        lesion(5, volume_followup_ml=0.0, absence="outside", scan=None),
        # Its part belongs to another one: where it is seen, nothing is left of it, though it is there.
        lesion(7, volume_followup_ml=0.0, absence="not outlined"),
        # Without a map of the baseline.
        lesion(6, volume_baseline_ml=None),
    ]
    report = RunReport(
        versions={}, seconds={}, peak_memory_bytes=0, peak_gpu_memory_bytes=None, lesions=lesions, left_out=[9]
    )
    rows = list(lesion_rows("a", report))
    assert [(row["lesion"], row["fate"]) for row in rows] == [
        (1, "persists"), (2, "new"), (3, "gone"), (4, "merged"), (5, "outside"), (7, "not outlined"), (6, "persists"),
        (9, "left out"),
    ]  # fmt: skip


def test_page_shows_failures_first_and_links_to_reports_that_are_there(done: Path) -> None:
    page = Page((done / "summary.html").read_text())
    assert page.text.index("truncated") < page.text.index("Lesions")
    links = [str(link["href"]) for link in page.of("a")]
    assert len(links) == 5
    assert all((done / link).is_file() for link in links)
    assert "5 cases, 1 of them failed" in page.text
    # One file, which asks for nothing.
    assert not [tag for tag in ("script", "link", "img", "iframe") if page.of(tag)]


def test_page_shows_names_and_errors_as_text(tmp_path: Path) -> None:
    records = [CaseRecord(case="<script>x</script>", error="no <b>scan</b> & more")]
    summary = CohortSummary(tmp_path, records)
    assert list(summary.rows()) == []
    write_summary(tmp_path, summary, model="m")
    page = Page((tmp_path / "summary.html").read_text())
    assert page.of("script") == page.of("b") == []
    assert "no <b>scan</b> & more" in page.text
