"""Files that appear complete or not at all: on full disks, by writers that notice nothing, after killed runs."""

import errno
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from longilesion.case import LesionMap
from longilesion.errors import InputError
from longilesion.files import (
    Check,
    check_archive,
    check_json,
    check_picture,
    check_replaceable,
    check_tarball,
    check_text,
    write_together,
    written_together,
)
from longilesion.images import check_lesion_map, read_scan, write_lesion_map
from longilesion.weight_file import check_weights
from test.unit.case_folders import files_under, write_image

FORMATS = [".mha", ".nii", ".nii.gz", ".nrrd"]
SHAPE = (24, 48, 48)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("scan") / "scan.nii.gz", np.full(SHAPE, -1000, np.int16))


@pytest.fixture(scope="module")
def noise(scan: Path) -> LesionMap:
    """A map that does not compress."""
    ids = np.random.default_rng(0).integers(0, 60_000, SHAPE).astype(np.uint16)
    return LesionMap(ids=ids, grid=read_scan(scan).grid)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no small disk can be mounted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def write(path: Path, lesion_map: LesionMap, scan: Path) -> None:
    with written_together({path: partial(check_lesion_map, written=lesion_map)}) as (temporary,):
        write_lesion_map(temporary, lesion_map, like=scan)


@pytest.mark.parametrize("suffix", FORMATS)
def test_full_disk_leaves_the_map_before(small_disk: Path, noise: LesionMap, scan: Path, suffix: str) -> None:
    path = small_disk / f"map{suffix}"
    path.write_bytes(b"the map before")
    with pytest.raises(InputError) as error:
        write(path, noise, scan)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"the map before"
    assert files_under(small_disk) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_file_that_may_not_grow_is_not_there(tmp_path: Path, noise: LesionMap, scan: Path, suffix: str) -> None:
    path, (_, hard) = tmp_path / f"map{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(InputError) as error:
            write(path, noise, scan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert str(error.value).startswith(f"{path}: ")
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_map_with_another_voxel_than_was_written_is_not_there(
    tmp_path: Path, noise: LesionMap, scan: Path, suffix: str
) -> None:
    path, other = tmp_path / f"map{suffix}", noise.ids.copy()
    other[-1, -1, -1] += 1
    with (
        pytest.raises(InputError, match="not complete once written"),
        written_together({path: partial(check_lesion_map, written=noise)}) as (temporary,),
    ):
        write_lesion_map(temporary, LesionMap(ids=other, grid=noise.grid), like=scan)
    assert files_under(tmp_path) == []
    write(path, noise, scan)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), noise.ids)


def write_all(files: dict[Path, Check], make: Callable[[Path], object]) -> None:
    with written_together(files) as temporaries:
        for temporary in temporaries:
            make(temporary)


def _picture(path: Path) -> None:
    Figure(figsize=(1, 1)).savefig(path, format="png")


def _weights(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.arange(999.0)}, path)


def _tarball(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "member")


def _arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, values=np.arange(999))


KINDS: dict[str, tuple[Callable[[Path], object], Check]] = {
    "report.json": (lambda path: path.write_text('{"lesions": [1, 2, 3]}\n'), check_json),
    "table.csv": (lambda path: path.write_text("id,dice\n1,0.5\n2,0.7\n"), check_text),
    "picture.png": (_picture, check_picture),
    "fold.safetensors": (_weights, check_weights),
    "model.tar.gz": (_tarball, check_tarball),
    "cut_out.npz": (_arrays, check_archive),
}


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=12)
@given(share=st.floats(0.0, 0.95))
def test_truncated_file_of_any_kind_never_gets_its_name(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    make, check = KINDS[name]
    path = folder / name

    def make_in_part(temporary: Path) -> None:
        make(temporary)
        cut = int(share * temporary.stat().st_size)
        # A table that is cut after a line looks complete.
        while name.endswith(".csv") and cut and before[cut - 1 : cut] == b"\n":
            cut -= 1
        os.truncate(temporary, cut)

    write_all({path: check}, make)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not complete once written"):
        write_all({path: check}, make_in_part)
    assert path.read_bytes() == before
    assert files_under(folder) == [name]


@pytest.mark.parametrize("failing", [".partial-a.json", ".partial-b.json", ".partial-c.json", "gone.json"])
@pytest.mark.parametrize("stop", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_where_one_of_several_files_cannot_be_renamed_or_removed_all_are_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, stop: BaseException
) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    paths[0].write_text("1")
    paths[2].write_text("3")
    without = tmp_path / "gone.json"
    without.write_text("4")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == failing:
            raise stop
        return replace(self, target)

    def write(path: Path) -> object:
        return path.write_text("0")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_together(dict.fromkeys(paths, (write, check_json)), without=[without])
    before = {"a.json": "1", "c.json": "3", "gone.json": "4"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert write_together({paths[0]: (write, check_json)}, without=[without, tmp_path / "never"]) == paths[:1]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "0", "c.json": "3"}


@pytest.mark.parametrize("count", range(4))
def test_files_that_the_result_does_not_have_are_removed_where_it_has_none(tmp_path: Path, count: int) -> None:
    earlier = [tmp_path / f"{number}.json" for number in range(count)]
    for path in earlier:
        path.write_text("0")
    (tmp_path / "other.json").write_text("1")
    assert write_together({}, without=[*earlier, tmp_path / "missing" / "never.json"]) == []
    assert files_under(tmp_path) == ["other.json"]


def test_what_a_killed_run_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".partial-a.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".previous-a.json").write_text("old")
    with written_together({tmp_path / "a.json": check_json, tmp_path / "b.json": check_json}) as temporaries:
        for temporary in temporaries:
            temporary.write_text("0")
    assert files_under(tmp_path) == ["a.json", "b.json"]


def test_run_that_is_killed_leaves_the_file_before(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    script = f"""
import os, signal
from pathlib import Path
from longilesion.files import check_json, written_together
with written_together({{Path({str(tmp_path / "a.json")!r}): check_json}}) as (temporary,):
    temporary.write_text("2")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert (tmp_path / "a.json").read_text() == "1"
    with written_together({tmp_path / "a.json": check_json}) as (temporary,):
        temporary.write_text("3")
    assert files_under(tmp_path) == ["a.json"]


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("/dev/full"), Path("/tmp"), Path("/tmp") / ("n" * 252)])
def test_what_cannot_become_a_file_is_said_before_the_work(path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_replaceable(path)
    assert str(error.value).startswith(f"{path}: ")
