from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from longilesion.errors import InputError
from longilesion.json_file import read_json


class Lesion(BaseModel):
    number: int
    name: str


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@given(number=st.integers(), name=st.text(st.characters(exclude_categories=["Cs"])), escaped=st.booleans())
def test_what_is_read_is_what_was_written_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, number: int, name: str, escaped: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "lesions.json"
    lesions = [{"number": number, "name": name}]
    path.write_bytes(json.dumps(lesions, ensure_ascii=escaped).encode(encoding))
    assert read_json(path, list[Lesion], expected="lesions") == [Lesion(number=number, name=name)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"number": 1}', "name: Field required"),
        (b'{"number": "one", "name": "a"}', "number: Input should be a valid integer.*"),
        (b"[]", "the file: Input should be an object"),
        (b'{"number": 1, "na', "the file: Invalid JSON: .*"),
        (b"", "the file: Invalid JSON: .*"),
        (b'{"number": 1, "name": "\xff"}', "no text in UTF-8 or UTF-16"),
    ],
)
def test_first_thing_that_is_wrong_is_said_in_one_line_with_the_file_and_what_was_expected(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "lesion.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"/lesion\.json: {found}; expected a lesion$") as caught:
        read_json(path, Lesion, expected="a lesion")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=rf"^{path}: {reason}; expected a lesion$"):
            read_json(path, Lesion, expected="a lesion")
