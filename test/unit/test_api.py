import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import longilesion
from longilesion.errors import BundleError, InputError
from longilesion.images import read_lesion_map
from test.unit.case_folders import lesion_ids, soft_tissue, write_image, write_points, write_single_files

REPOSITORY = Path(__file__).parents[2]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with the files that the documentation speaks of."""
    monkeypatch.chdir(tmp_path)
    return write_single_files(tmp_path)


def test_files_by_text_or_path_give_an_outline_per_lesion_on_the_followup_scan(tmp_path: Path, bundle: Path) -> None:
    scan = write_image(tmp_path / "scan.mha", soft_tissue())
    lesions = write_image(tmp_path / "lesions.mha", lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}).astype(np.uint8))
    clicks = write_points(tmp_path / "clicks.json", {"30": (5, 5, 3)})
    ensemble = longilesion.load_ensemble(bundle, device="cpu", precision="float32")
    result = longilesion.segment(
        str(scan), baseline=scan, lesions=str(lesions), followup_clicks=clicks, ensemble=ensemble
    )
    assert [lesion.prompt.lesion_id for lesion in result.lesions] == [7, 9, 30]
    grid = longilesion.read_scan(scan).grid
    assert result.maps["primary"].ids.shape == grid.shape_zyx
    assert np.array_equal(result.maps["primary"].grid.world_from_voxel, grid.world_from_voxel)
    longilesion.write_lesion_map(tmp_path / "map.nii.gz", result.maps["primary"], like=scan)
    assert np.array_equal(read_lesion_map(tmp_path / "map.nii.gz").ids, result.maps["primary"].ids)


def test_nothing_to_look_for_is_an_error_and_no_empty_map(tmp_path: Path) -> None:
    scan = write_image(tmp_path / "scan.mha", soft_tissue())
    with pytest.raises(InputError, match="expected lesions, baseline_clicks, followup_clicks or find_new"):
        longilesion.segment(scan, baseline=scan)


def test_example_of_an_older_scan_follows_that_of_a_case_in_memory(files: Path, bundle: Path) -> None:
    for older, newer in {"oldest": "before", "oldest_lesions": "before_lesions"}.items():
        shutil.copy(files / f"{newer}.nii.gz", files / f"{older}.nii.gz")
    shutil.copytree(bundle, files / "my_bundle")
    names: dict[str, Any] = {}
    for example in examples("docs/python.md")[1:3]:
        exec(compile(example, "docs/python.md", "exec"), names)
    assert [lesion.prompt.lesion_id for lesion in names["result"].lesions] == [1]


@pytest.mark.parametrize(
    ("page", "number"), [("README.md", 0), ("docs/python.md", 0), ("docs/python.md", 1), ("docs/response.md", 0)]
)
def test_examples_of_the_documentation_run_as_they_are_written(
    page: str, number: int, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(examples(page)[number], page, "exec"), {})
    assert capsys.readouterr().out
    if "write_lesion_map(" in examples(page)[number]:
        assert set(np.unique(read_lesion_map(files / "after_lesions.nii.gz").ids)) == {0, 1, 2}


def test_importing_the_package_loads_nothing_until_a_function_is_asked_for() -> None:
    code = (
        "import sys, longilesion; assert {'segment', 'load_ensemble'} <= set(longilesion.__all__);"
        "print(*({'torch', 'numpy', 'pydantic'} & set(sys.modules)), longilesion.load_ensemble.__module__)"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["longilesion.ensemble"]


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="segmentt"):
        _ = longilesion.segmentt
    with pytest.raises(ImportError):
        exec("from longilesion import segmentt", {})


def test_a_package_without_its_model_says_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longilesion.shipped._PACKAGE", tmp_path / "site-packages" / "longilesion")
    from longilesion.shipped import _folder

    with pytest.raises(BundleError, match=re.escape(f"{tmp_path}/site-packages/model/settings.json: No such file")):
        longilesion.load_ensemble(_folder("model"), device="cpu")


def test_data_inside_the_package_come_before_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longilesion.shipped._PACKAGE", tmp_path / "longilesion")
    from longilesion.shipped import _folder

    (tmp_path / "model").mkdir()
    assert _folder("model") == tmp_path / "model"
    (tmp_path / "longilesion" / "model").mkdir(parents=True)
    assert _folder("model") == tmp_path / "longilesion" / "model"
