"""The package as people install it: what the wheel holds, and that its commands work away from the repository."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import longilesion
from test.cases import CASES
from test.container.compare_outputs import MINIMUM_DICE, compare_lesions
from test.unit.case_folders import write_single_files

REPOSITORY = Path(__file__).parents[2]
NOT_SOURCES = (".*", "__pycache__", "*.egg-info", "build", "data", "demo", "dist", "out", "runs")
# Of the model's files, and of all else together.
MOST_BYTES_OF_MODEL, MOST_OTHER_BYTES = 24_000_000, 2_000_000
CASE = CASES / "interface_1"


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as setuptools leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY, folder / "sources", ignore=shutil.ignore_patterns(*NOT_SOURCES))
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, *build, folder / "sources", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment that holds the wheel, and sees the libraries of the running one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=environment)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).strip()
    # Makes that a folder to import from, without reading the .pth files in it, such as that of an editable longilesion.
    (Path(packages) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def test_wheel_holds_the_package_with_model_and_layout_and_nothing_of_the_repository(wheel: Path) -> None:
    modules = [path for path in (REPOSITORY / "longilesion").rglob("*.py") if "__pycache__" not in path.parts]
    expected = {str(path.relative_to(REPOSITORY)) for path in modules} | {"longilesion/py.typed"}
    expected |= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "longilesion").rglob("*.j2")}
    expected |= {f"longilesion/review/page/{path.name}" for path in (REPOSITORY / "longilesion/review/page").iterdir()}
    for folder in ("model", "resources"):
        files = (path for path in (REPOSITORY / folder).rglob("*") if path.is_file())
        expected |= {f"longilesion/{path.relative_to(REPOSITORY)}" for path in files}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        of_model = [file for file in archive.infolist() if file.filename.startswith("longilesion/model/")]
        metadata = archive.read(f"longilesion-{longilesion.__version__}.dist-info/METADATA").decode()
    assert held == expected
    assert sum(file.file_size for file in of_model) < MOST_BYTES_OF_MODEL
    assert wheel.stat().st_size - sum(file.compress_size for file in of_model) < MOST_OTHER_BYTES
    # What the platform, people and the evaluation need comes along; what only training and tests need does not.
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, flags=re.MULTILINE))
    assert {"torch", "simpleitk", "monai", "tyro"} <= {name.lower() for name in required}
    assert not {"nnunetv2", "batchgeneratorsv2", "evalutils"} & required


@pytest.mark.slow
def test_installed_command_segments_with_the_shipped_model_from_any_folder(commands: Path, tmp_path: Path) -> None:
    assert run(commands / "longilesion", "--version", cwd=tmp_path) == f"longilesion {longilesion.__version__}\n"
    write_single_files(tmp_path)
    images = ("--baseline", "before.nii.gz", "--lesions", "before_lesions.nii.gz", "--followup", "after.nii.gz")
    clicks = ("--baseline-clicks", "before_clicks.json", "--followup-clicks", "after_clicks.json")
    # The expected maps of the sample cases were written in this precision.
    exact = ("--device", "cpu", "--precision", "float32")
    run(commands / "longilesion", "segment", *images, *clicks, *exact, "--output", "after_lesions.nii.gz", cwd=tmp_path)
    found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "after_lesions.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(next((CASE / "expected").rglob("*.mha"))))
    rows = list(compare_lesions(found, np.where(expected <= 2, expected, 0)))
    assert [row[0] for row in rows if row[3] >= MINIMUM_DICE] == [1, 2]


@pytest.mark.slow
def test_installed_command_registers_and_evaluates_from_any_folder(commands: Path, tmp_path: Path) -> None:
    write_single_files(tmp_path)
    scans = ("--baseline", "before.nii.gz", "--followup", "after.nii.gz")
    assert "similarity" in run(commands / "longilesion", "register", *scans, "--output", "check.png", cwd=tmp_path)
    assert (tmp_path / "check.png").stat().st_size > 0
    for name in ("expected", "truth"):
        shutil.copytree(CASE / name, tmp_path / name / "one")
    printed = run(commands / "longilesion", "evaluate", "expected", "truth", "--output", "scores", cwd=tmp_path)
    assert "Dice" in printed
    assert (tmp_path / "scores" / "evaluation.json").is_file()


def test_installed_package_is_not_the_repositorys(commands: Path, tmp_path: Path) -> None:
    places = (
        "import longilesion, longilesion.shipped as s; print(longilesion.__file__, s.SHIPPED_MODEL, s.SOCKETS_FILE)"
    )
    for place in run(commands / "python", "-c", places, cwd=tmp_path).split():
        assert Path(place).is_relative_to(commands.parent)
    absent = (
        "from importlib.util import find_spec; print(find_spec('training'), find_spec('longilesion.cli') is not None)"
    )
    assert run(commands / "python", "-c", absent, cwd=tmp_path) == "None True\n"
