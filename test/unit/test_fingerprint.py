"""Fingerprints: what changes them, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import training.fingerprint
from longilesion.errors import InputError
from longilesion.fingerprint import folder_fingerprint
from training.fingerprint import code_fingerprint


@given(content=st.binary(min_size=1, max_size=50), position=st.integers(0, 49), mask=st.integers(1, 255))
def test_any_byte_of_any_file_changes_the_fingerprint_of_a_folder_even_under_the_same_date(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, position: int, mask: int
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    path = folder / "images" / "primary" / "a.mha"
    path.parent.mkdir(parents=True)
    (folder / "clicks.json").write_text("{}")
    path.write_bytes(content)
    before, dates = folder_fingerprint(folder), path.stat()
    changed = bytearray(content)
    changed[position % len(content)] ^= mask
    path.write_bytes(changed)
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert folder_fingerprint(folder) != before
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert folder_fingerprint(folder) == before


def test_renamed_file_changes_the_fingerprint_and_another_place_of_the_folder_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = folder_fingerprint(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert folder_fingerprint(moved) == before
    (moved / "a").rename(moved / "b")
    assert folder_fingerprint(moved) != before


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.mha").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.mha: No such file or directory; expected files that can be read"):
        folder_fingerprint(tmp_path)


SOURCES = {
    "top.py": "from toy.parts import middle\nimport toy.aside\n",
    "parts/__init__.py": "",
    "parts/middle.py": "def place():\n    from toy.parts.bottom import STEP\n\n    return STEP\n",
    "parts/bottom.py": "STEP = 3\n",
    "aside.py": "import toy.far\n",
    "far.py": "FAR = 1\n",
    "unrelated.py": "OTHER = 1\n",
}


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("parts/bottom.py", "STEP = 4\n", True),
        ("parts/middle.py", SOURCES["parts/middle.py"].replace("return STEP", "return -STEP"), True),
        ("top.py", SOURCES["top.py"] + "LATE = 1\n", True),
        ("parts/bottom.py", "# In voxels.\nSTEP  =  3\n", False),
        ("unrelated.py", "OTHER = 2\n", False),
        ("aside.py", "import toy.far\nX = 2\n", False),
        ("far.py", "FAR = 2\n", False),
    ],
)
def test_code_counts_where_it_is_imported_however_deep_and_comments_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, counts: bool
) -> None:
    monkeypatch.setattr(training.fingerprint, "_PACKAGES", {"toy": tmp_path})
    (tmp_path / "parts").mkdir()
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(source)
    before = code_fingerprint("toy.top", without=["toy.aside"])
    (tmp_path / file).write_text(text)
    assert (code_fingerprint("toy.top", without=["toy.aside"]) != before) == counts
