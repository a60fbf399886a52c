"""What is said of lesions besides their outlines: the table, and what the response makes of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.assessment import case_response
from longilesion.course import LesionRecord, TimePointRecord, course_of
from longilesion.errors import InputError
from longilesion.lesion_facts import NO_FACTS, lesions_of, read_lesion_facts, undecided, warn_of_strangers
from longilesion.report import make_report
from longilesion.response import Lesion
from test.unit.test_assessment import segmented


def table(folder: Path, text: str) -> Path:
    path = folder / "about.csv"
    path.write_text(text)
    return path


@given(
    rows=st.dictionaries(
        st.integers(1, 65535),
        st.tuples(st.sampled_from(["", "liver", "Lung"]), st.booleans(), st.sampled_from([None, True, False])),
        max_size=8,
    ),
    separator=st.sampled_from(",;\t"),
)
def test_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, tuple[str, bool, bool | None]], separator: str
) -> None:
    words = {True: "yes", False: "no", None: ""}
    lines = ["lesion,organ,node,target"]
    lines += [f"{each},{organ},{words[node]},{words[target]}" for each, (organ, node, target) in rows.items()]
    path = table(tmp_path_factory.mktemp("facts"), "\n".join(lines).replace(",", separator) + "\n")
    assert read_lesion_facts(path) == {
        each: Lesion(lesion_id=each, organ=organ.lower() or None, is_node=node, is_target=target)
        for each, (organ, node, target) in rows.items()
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lesion,organe\n1,liver\n", "column organe; expected lesion and any of organ, node, target"),
        ("organ,node\nliver,no\n", "columns organ, node; expected lesion and any of"),
        ("lesion\n1\n", "columns lesion; expected lesion and any of"),
        ("lesion,organ\n0,liver\n", "line 2: lesion 0; expected a lesion id"),
        ("lesion,organ\n,liver\n", "line 2: no lesion; expected its id"),
        ("lesion,node\n1,perhaps\n", "line 2: node 'perhaps'; expected True or False"),
        ("lesion,organ\n1,liver\n2,lung\n1,lung\n", "line 4: lesion 1 a second time; expected each once"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lesion_facts(table(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'about.csv'}: {said}")


def test_nothing_is_known_without_a_table() -> None:
    assert read_lesion_facts(None) is NO_FACTS
    assert lesions_of([2, 1], NO_FACTS) == [Lesion(lesion_id=1), Lesion(lesion_id=2)]


def test_rows_of_lesions_that_are_not_there_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    facts = {3: Lesion(lesion_id=3), 9: Lesion(lesion_id=9)}
    warn_of_strangers(Path("about.csv"), facts, [3, 4])
    (record,) = caplog.records
    assert record.getMessage().startswith("about.csv: lesions 9 are neither outlined nor clicked")


@pytest.mark.parametrize(
    ("facts", "organs", "nodes"),
    [
        ({}, "organs are not known", "lymph nodes are not known"),
        ({1: Lesion(lesion_id=1, organ="liver")}, "organs among lesions 2 are", "lymph nodes among lesions 2 are"),
        ({1: Lesion(lesion_id=1, organ="liver"), 2: Lesion(lesion_id=2)}, "organs among lesions 2 are", None),
        ({1: Lesion(lesion_id=1, is_node=True), 2: Lesion(lesion_id=2, is_node=True)}, None, None),
    ],
)
def test_what_nobody_has_said_is_named(facts: dict[int, Lesion], organs: str | None, nodes: str | None) -> None:
    said = undecided([1, 2], facts)
    assert len(said) == 1 + (organs is not None) + (nodes is not None)
    assert organs is None or said[0].startswith(organs)
    assert nodes is None or any(each.startswith(nodes) for each in said)


def test_no_more_than_two_targets_are_of_one_organ() -> None:
    radii = {1: 9.0, 2: 8.0, 3: 7.0}
    case, segmentation = segmented(radii, radii)
    course = case_response(case, segmentation).course
    assert course is not None
    assert course.targets == (1, 2, 3)
    facts = {each: Lesion(lesion_id=each, organ="liver") for each in radii}
    known = case_response(case, segmentation, facts).course
    assert known is not None
    assert (known.targets, known.non_targets) == ((1, 2), (3,))
    chosen = {**facts, 2: Lesion(lesion_id=2, organ="liver", is_target=False)}
    said = case_response(case, segmentation, chosen).course
    assert said is not None
    assert said.targets == (1, 3)
    report = make_report(case, segmentation, seconds={}, facts=facts)
    assert report.response is not None
    assert len(report.response.undecided) == 1


def test_lymph_nodes_are_measured_by_their_short_axis_in_a_course() -> None:
    records = [
        TimePointRecord(
            number=number,
            scan=f"{number}.nii.gz",
            fingerprint="",
            slice_mm=1.0,
            lesions=[LesionRecord(id=1, volume_ml=3.0, longest_mm=30.0, short_mm=short_mm)],
        )
        for number, short_mm in enumerate((20.0, 9.0), start=1)
    ]
    plain, _ = course_of(records)
    assert (plain.responses[0].sum_mm, plain.responses[0].overall) == (30.0, "SD")
    node, _ = course_of(records, {1: Lesion(lesion_id=1, is_node=True), 8: Lesion(lesion_id=8, organ="liver")})
    # A node under 10 mm is normal (4.3.1).
    assert (node.responses[0].sum_mm, node.responses[0].overall) == (9.0, "CR")
    assert (node.nodes, node.organs) == ([1], {})
