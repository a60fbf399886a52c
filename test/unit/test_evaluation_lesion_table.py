import json
from pathlib import Path

import pytest

from longilesion.errors import InputError
from longilesion.evaluation.exam import LesionFact
from longilesion.evaluation.lesion_table import completed_facts, read_lesion_table

# A patient as in the challenge's training data: 1 stays, 2 goes, 3 comes, 4 and 5 merge into 5.
COLUMNS = (
    "lesion_id",
    "cog_bl",
    "cog_fu",
    "cog_backpropagated",
    "cog_propagated",
    "img_id_bl",
    "img_id_fu",
    "lesion_type",
    "topology_class",
    "merged_into",
    "volume_bl",
    "volume_fu",
    "target_lesion",
    "use_for_challenge",
    "linking_unclear",
)
ROWS = (
    "1|10.0 20.0 30.0|11.0 20.0 30.0||11.5 20.0 30.0|0|0|Liver|UNCHANGED||120.0|100.0|True|True|False",
    "2|40.0 20.0 30.0|||41.0 20.0 30.0|0||Lung|DISAPPEARING||64.0||True|True|False",
    "3||70.0 20.0 30.0|69.0 21.0 30.0|||0|Soft tissue / Skin|NEWLYAPPEARING|||33.0|False|True|False",
    "4|10.0 60.0 30.0|||12.0 60.0 30.0|1||Lymph node|MERGING|5|20.0||False|True|False",
    "5|10.0 66.0 30.0|10.0 63.0 30.0||10.0 65.0 30.0|1|1|Lymph node|MERGING|5|30.0|60.0|False|True|True",
)
FACTS = {
    1: LesionFact(fate="persists", true_id=1, lesion_type="Liver", is_target=True),
    2: LesionFact(fate="gone", true_id=None, lesion_type="Lung", is_target=True),
    3: LesionFact(fate="new", true_id=3, lesion_type="Soft tissue / Skin", is_target=False),
    4: LesionFact(fate="merged", true_id=5, lesion_type="Lymph node", is_target=False),
    5: LesionFact(fate="merged", true_id=5, lesion_type="Lymph node", is_target=False),
}


def challenge_csv(separator: str = ",") -> str:
    return "\n".join(row.replace("|", separator) for row in ("|".join(COLUMNS), *ROWS)) + "\n"


def table(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def short_csv(path: Path, *rows: str, columns: str = "lesion_id,topology_class,merged_into,lesion_type") -> Path:
    return table(path, "\n".join((columns, *rows)) + "\n")


def refusal(path: Path) -> str:
    with pytest.raises(InputError, match="expected") as refused:
        read_lesion_table(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    # A place that the message cannot name is left out, and does not stand there as nothing between two colons.
    assert ": :" not in message
    return message


# ------------------------------------------------------------------------------------------------ the challenge's CSV


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_challenges_table_with_any_separator(tmp_path: Path, separator: str) -> None:
    assert read_lesion_table(table(tmp_path / "p.csv", challenge_csv(separator))) == FACTS


def test_table_from_a_spreadsheet_with_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeff" + challenge_csv(";").replace("\n", "\r\n")
    assert read_lesion_table(table(tmp_path / "p.CSV", text)) == FACTS


def test_only_the_id_and_the_class_are_needed(tmp_path: Path) -> None:
    path = short_csv(tmp_path / "p.csv", "7,UNCHANGED", "8,DISAPPEARING", columns="lesion_id,topology_class")
    assert read_lesion_table(path) == {
        7: LesionFact(fate="persists", true_id=7),
        8: LesionFact(fate="gone", true_id=None),
    }


def test_table_without_a_row_knows_nothing(tmp_path: Path) -> None:
    assert read_lesion_table(short_csv(tmp_path / "p.csv")) == {}


def test_ids_that_a_spreadsheet_wrote_as_7_0(tmp_path: Path) -> None:
    found = read_lesion_table(short_csv(tmp_path / "p.csv", "7.0,MERGING,6.0,", "6.0,MERGING,6.0,"))
    assert {lesion_id: fact.true_id for lesion_id, fact in found.items()} == {7: 6, 6: 6}


def test_spaces_around_headings_and_cells_do_not_count(tmp_path: Path) -> None:
    path = short_csv(
        tmp_path / "p.csv", " 7 , unchanged , , Liver ", columns="lesion_id , topology_class,x, lesion_type"
    )
    assert read_lesion_table(path) == {7: LesionFact(fate="persists", true_id=7, lesion_type="Liver")}


def test_separator_inside_a_quoted_cell(tmp_path: Path) -> None:
    path = short_csv(tmp_path / "p.csv", '7,UNCHANGED,,"Bone, spine"')
    assert read_lesion_table(path)[7].lesion_type == "Bone, spine"


def test_empty_cells_say_nothing(tmp_path: Path) -> None:
    # A merging lesion that does not say into which is the one that the others merge into.
    path = short_csv(
        tmp_path / "p.csv", "7,MERGING,,,", columns="lesion_id,topology_class,merged_into,lesion_type,target_lesion"
    )
    assert read_lesion_table(path) == {7: LesionFact(fate="merged", true_id=7, lesion_type=None, is_target=None)}


@pytest.mark.parametrize(
    ("cell", "is_target"),
    [("True", True), ("TRUE", True), ("1", True), ("1.0", True), ("False", False), ("0", False), ("", None)],
)
def test_target_lesions(tmp_path: Path, cell: str, is_target: bool | None) -> None:
    path = short_csv(tmp_path / "p.csv", f"7,UNCHANGED,{cell}", columns="lesion_id,topology_class,target_lesion")
    assert read_lesion_table(path)[7].is_target is is_target


def test_not_a_number_in_the_merged_into_column_is_an_empty_cell(tmp_path: Path) -> None:
    # As pandas writes a column of numbers with gaps, where it is told to name them.
    assert read_lesion_table(short_csv(tmp_path / "p.csv", "7,MERGING,nan,"))[7].true_id == 7


def test_blank_last_lines_are_no_lesions(tmp_path: Path) -> None:
    assert set(read_lesion_table(short_csv(tmp_path / "p.csv", "7,UNCHANGED,,", "", ""))) == {7}


# ------------------------------------------------------------------------------------------------------- lesions.json


def test_json_table_with_the_fates_of_the_sample_cases(tmp_path: Path) -> None:
    entries = {
        "1": {"fate": "persists", "truth_id": 1},
        "2": {"fate": "grows", "truth_id": 2, "type": "Liver", "is_target": True},
        "3": {"fate": "shrinks", "truth_id": 3, "is_target": False},
        "4": {"fate": "gone", "truth_id": None},
        "5": {"fate": "new", "truth_id": 5},
        "6": {"fate": "merged", "truth_id": 6},
        "300": {"fate": "merged", "truth_id": 6},
    }
    assert read_lesion_table(table(tmp_path / "lesions.json", json.dumps(entries))) == {
        1: LesionFact(fate="persists", true_id=1),
        2: LesionFact(fate="persists", true_id=2, lesion_type="Liver", is_target=True),
        3: LesionFact(fate="persists", true_id=3, is_target=False),
        4: LesionFact(fate="gone", true_id=None),
        5: LesionFact(fate="new", true_id=5),
        6: LesionFact(fate="merged", true_id=6),
        300: LesionFact(fate="merged", true_id=6),
    }


def test_json_table_with_byte_order_mark(tmp_path: Path) -> None:
    path = table(tmp_path / "lesions.json", '\ufeff{"1": {"fate": "gone"}}')
    assert read_lesion_table(path) == {1: LesionFact(fate="gone", true_id=None)}


# ---------------------------------------------------------------------------------------------------------- bad tables


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "columns nothing"),
        ("id,class\n1,UNCHANGED\n", "columns id, class"),
        ("lesion_id\n1\n", "columns lesion_id"),
        ("lesion_id topology_class\n1 UNCHANGED\n", "columns lesion_id topology_class"),
    ],
)
def test_csv_without_the_needed_columns(tmp_path: Path, text: str, found: str) -> None:
    message = refusal(table(tmp_path / "p.csv", text))
    assert found in message
    assert "expected lesion_id and topology_class" in message


@pytest.mark.parametrize("row", ["7,CHANGED,,", "7,,,", "seven,UNCHANGED,,", "7.5,UNCHANGED,,", ",UNCHANGED,,"])
def test_csv_row_of_no_known_class_or_id(tmp_path: Path, row: str) -> None:
    assert "line 3: " in refusal(short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", row))


@pytest.mark.parametrize("lesion_id", ["nan", "inf", "-inf", "1e400"])
def test_csv_row_with_a_number_that_is_no_integer(tmp_path: Path, lesion_id: str) -> None:
    assert "line 3: " in refusal(short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", f"{lesion_id},UNCHANGED,,"))


@pytest.mark.parametrize("lesion_id", ["0", "-3"])
def test_csv_row_with_an_id_that_no_voxel_can_have(tmp_path: Path, lesion_id: str) -> None:
    # 0 is the background: taken as a lesion, it would be one that is gone, in every patient's means.
    assert "line 3: " in refusal(short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", f"{lesion_id},UNCHANGED,,"))


def test_csv_row_that_ends_early(tmp_path: Path) -> None:
    assert "line 3: " in refusal(short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", "7"))


def test_line_of_a_bad_row_is_that_of_the_file_also_after_blank_lines(tmp_path: Path) -> None:
    # Line 1 has the headings, 2 is good, 3 is blank, 4 is bad.
    assert "line 4: " in refusal(short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", "", "7,CHANGED,,"))


def test_csv_with_one_lesion_twice(tmp_path: Path) -> None:
    path = short_csv(tmp_path / "p.csv", "6,UNCHANGED,,", "6,DISAPPEARING,,")
    message = refusal(path)
    assert "line 3: " in message
    assert "6" in message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["p.csv", "lesions.json"])
def test_table_that_is_no_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(challenge_csv().encode() + "Nähe".encode("latin-1"))
    refusal(path)


def test_table_in_utf_16_is_read_as_in_utf_8(tmp_path: Path) -> None:
    for name, encoding in (("a.csv", "utf-8"), ("b.csv", "utf-8-sig"), ("c.csv", "utf-16")):
        (tmp_path / name).write_bytes(challenge_csv().encode(encoding))
    first, *others = (read_lesion_table(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv"))
    assert len(first) > 0
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", ["p.csv", "lesions.json"])
def test_table_that_is_missing(tmp_path: Path, name: str) -> None:
    assert "No such file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"7": {"fate": "larger", "truth_id": 7}}', "7.fate"),
        ('{"7": {"truth_id": 7}}', "7.fate"),
        ('{"7": {"fate": "merged", "truth_id": "the other"}}', "7.truth_id"),
        ('{"seven": {"fate": "gone"}}', "seven"),
    ],
)
def test_json_table_with_a_bad_entry(tmp_path: Path, text: str, where: str) -> None:
    assert where in refusal(table(tmp_path / "lesions.json", text))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"7": {"fate": "gone"}'])
def test_json_that_is_no_table(tmp_path: Path, text: str) -> None:
    refusal(table(tmp_path / "lesions.json", text))


@pytest.mark.parametrize("lesion_id", ["0", "-3"])
def test_json_table_with_an_id_that_no_voxel_can_have(tmp_path: Path, lesion_id: str) -> None:
    refusal(table(tmp_path / "lesions.json", json.dumps({lesion_id: {"fate": "gone"}})))


# ----------------------------------------------------------------------------------------- completed from maps, clicks


def completed(
    facts: dict[int, LesionFact], *, true: set[int], baseline: set[int] | None, clicked: set[int] = frozenset()
) -> tuple[dict[int, LesionFact], list[str]]:
    return completed_facts(facts, source="p.csv", true_ids=true, baseline_ids=baseline, clicked_ids=clicked)


def test_without_a_table_the_two_maps_tell_the_fates() -> None:
    # 1 is in both maps, 2 only before, 3 only now, 4 is only clicked.
    facts, warnings = completed({}, true={1, 3}, baseline={1, 2}, clicked={1, 4})
    assert facts == {
        1: LesionFact(fate="persists", true_id=1),
        2: LesionFact(fate="gone", true_id=None),
        3: LesionFact(fate="new", true_id=3),
        4: LesionFact(fate="gone", true_id=None),
    }
    assert warnings == []


def test_without_table_and_baseline_nobody_knows_what_was_there_before() -> None:
    facts, warnings = completed({}, true={1}, baseline=None, clicked={1, 2})
    assert facts == {1: LesionFact(fate=None, true_id=1), 2: LesionFact(fate="gone", true_id=None)}
    assert warnings == []


def test_an_empty_baseline_is_not_a_missing_one() -> None:
    facts, _ = completed({}, true={1}, baseline=set())
    assert facts == {1: LesionFact(fate="new", true_id=1)}


def test_table_without_baseline_maps_still_tells_the_fates() -> None:
    facts, warnings = completed(FACTS, true={1, 3, 5}, baseline=None)
    assert facts == FACTS
    assert warnings == []


def test_complete_table_that_fits_the_maps_is_taken_as_it_is() -> None:
    facts, warnings = completed(FACTS, true={1, 3, 5}, baseline={1, 2, 4, 5}, clicked={1, 2, 3, 4, 5})
    assert facts == FACTS
    assert warnings == []


def test_lesions_that_the_table_lacks_are_completed_from_the_maps() -> None:
    facts, warnings = completed({1: FACTS[1]}, true={1, 8}, baseline={1, 8, 9})
    assert facts == {
        1: FACTS[1],
        8: LesionFact(fate="persists", true_id=8),
        9: LesionFact(fate="gone", true_id=None),
    }
    assert warnings == []


@pytest.mark.parametrize("baseline", [{4}, None])
def test_lesion_that_another_merged_into_has_merged_too_also_where_the_table_lacks_it(
    baseline: set[int] | None,
) -> None:
    facts, warnings = completed({4: FACTS[4]}, true={5}, baseline=baseline)
    assert facts == {4: FACTS[4], 5: LesionFact(fate="merged", true_id=5)}
    assert warnings == []


def test_lesion_whose_host_has_itself_merged_lies_in_the_last_host() -> None:
    # 9 into 8, 8 into 3: one outline holds all three.
    table = {
        9: LesionFact(fate="merged", true_id=8),
        8: LesionFact(fate="merged", true_id=3),
        3: LesionFact(fate="merged", true_id=3),
    }
    facts, warnings = completed(table, true={3}, baseline={3, 8, 9})
    assert facts == {lesion_id: LesionFact(fate="merged", true_id=3) for lesion_id in (3, 8, 9)}
    assert warnings == []


def test_hosts_in_a_circle_without_voxels_are_gone() -> None:
    table = {1: LesionFact(fate="merged", true_id=2), 2: LesionFact(fate="merged", true_id=1)}
    facts, warnings = completed(table, true=set(), baseline={1, 2})
    assert [fact.fate for fact in facts.values()] == ["gone", "gone"]
    assert len(warnings) == 2


# -------------------------------------------------------------------------------------------------- the maps decide


def test_lesion_that_the_table_calls_gone_but_that_has_voxels() -> None:
    facts, warnings = completed({2: FACTS[2]}, true={2}, baseline={2})
    # Its type and that it is a target are no matter of the maps.
    assert facts == {2: LesionFact(fate="persists", true_id=2, lesion_type="Lung", is_target=True)}
    (warning,) = warnings
    for text in ("p.csv", "lesion 2", "gone", "has voxels"):
        assert text in warning


@pytest.mark.parametrize("lesion_id", [1, 3])
def test_lesion_that_the_table_calls_present_but_that_has_no_voxels(lesion_id: int) -> None:
    fact = FACTS[lesion_id]
    facts, warnings = completed({lesion_id: fact}, true=set(), baseline={1})
    assert facts[lesion_id] == LesionFact(
        fate="gone", true_id=None, lesion_type=fact.lesion_type, is_target=fact.is_target
    )
    (warning,) = warnings
    for text in ("p.csv", f"lesion {lesion_id}", str(fact.fate), "has no voxels"):
        assert text in warning


def test_lesion_that_merged_into_one_without_voxels_is_gone() -> None:
    facts, warnings = completed({4: FACTS[4]}, true=set(), baseline={4})
    assert (facts[4].fate, facts[4].true_id) == ("gone", None)
    (warning,) = warnings
    assert "lesion 4" in warning
    # Which lesion is missing in the truth is what helps.
    assert "5" in warning.replace("p.csv", "")


def test_lesion_that_merged_but_has_voxels_of_its_own() -> None:
    # The table says that 4 is part of 5. The truth outlines 4 beside 5, so that there are two lesions to be found.
    facts, warnings = completed({4: FACTS[4], 5: FACTS[5]}, true={4, 5}, baseline={4, 5})
    assert (facts[4].fate, facts[4].true_id) == ("persists", 4)
    assert any("lesion 4" in warning and "merged" in warning for warning in warnings)


def test_new_lesion_with_voxels_before_is_said() -> None:
    _, warnings = completed({3: FACTS[3]}, true={3}, baseline={3})
    assert any("lesion 3" in warning and "new" in warning for warning in warnings)


def test_persisting_lesion_without_voxels_before_is_said() -> None:
    _, warnings = completed({1: FACTS[1]}, true={1}, baseline={2})
    assert any("lesion 1" in warning and "persists" in warning for warning in warnings)


def test_gone_lesion_that_others_merged_into_is_said() -> None:
    gone = LesionFact(fate="gone", true_id=None)
    facts, warnings = completed({4: FACTS[4], 5: gone}, true={5}, baseline={4, 5})
    assert (facts[5].fate, facts[5].true_id) == ("merged", 5)
    assert any("lesion 5" in warning for warning in warnings)
