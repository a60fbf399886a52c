"""The requirement files: what the container installs is what a case needs, and all files agree with pyproject.toml."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import SimpleITK as sitk
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]

# Prints the top-level names of everything that a run of process.py has imported.
RUN_AND_LIST = """
import runpy, sys
try:
    runpy.run_path("process.py", run_name="__main__")
except SystemExit as ended:
    if ended.code:
        raise
print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """Version by name."""
    lines = (REPOSITORY / file).read_text().splitlines()
    named = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): version for name, version in named}


def with_all_it_requires(name: str) -> set[str]:
    """A distribution and, again and again, what it asks for, as far as that is installed."""
    found: set[str] = set()
    left = [name]
    while left:
        current = normal(left.pop())
        try:
            requirements = distribution(current).requires or []
        except PackageNotFoundError:
            continue
        if current not in found:
            found.add(current)
            left += [re.match(r"[\w.-]+", text)[0] for text in requirements if "extra ==" not in text]
    return found


def top_level(name: str) -> set[str]:
    """The files and folders of a distribution that lie directly among the installed packages."""
    return {file.parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}


def link_distributions(names: set[str], folder: Path) -> None:
    """Makes a folder of packages that holds those distributions and no others."""
    folder.mkdir()
    for name in names:
        for entry in top_level(name):
            if not (folder / entry).exists():
                (folder / entry).symlink_to(Path(str(distribution(name).locate_file(entry))))


def test_container_holds_what_a_case_without_followup_clicks_imports_and_no_more(tmp_path: Path, bundle: Path) -> None:
    packages, case = tmp_path / "packages", tmp_path / "case"
    pinned = pins("requirements.txt")
    link_distributions({*pinned, *with_all_it_requires("torch")}, packages)
    # Without these clicks the scans are registered, too: all that can happen to a case does.
    shutil.copytree(REPOSITORY / "test/cases/interface_1/input", case)
    (case / "primary-followup-lesion-clicks.json").write_text('{"points": []}')
    # Of the formats that are read, NIfTI needs a library of its own.
    (image,) = (case / "images/primary-followup-ct").iterdir()
    sitk.WriteImage(sitk.ReadImage(str(image)), str(image.with_suffix(".nii.gz")))
    image.unlink()
    arguments = ["--input", case, "--output", tmp_path / "out", "--model", bundle, "--report", tmp_path / "report.json"]
    finished = subprocess.run(
        # Without the running environment's packages.
        [sys.executable, "-S", "-c", RUN_AND_LIST, *arguments],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{packages}:{REPOSITORY}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert list((tmp_path / "out").rglob("*.mha"))
    imported = set(finished.stdout.splitlines()[-1].split()[1:])
    assert [name for name in pinned if imported.isdisjoint(entry.partition(".")[0] for entry in top_level(name))] == []


@pytest.mark.parametrize(
    ("extra", "files"),
    [
        (None, ("requirements.txt", "requirements-evaluate.txt")),
        ("review", ("requirements-review.txt",)),
        ("cohort", ("requirements-cohort.txt",)),
        ("train", ("requirements-train.txt",)),
        ("dev", ("requirements-dev.txt",)),
    ],
)
def test_exact_versions_lie_in_the_packages_ranges(extra: str | None, files: tuple[str, ...]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    ranges = {normal(each.name): each.specifier for each in map(Requirement, texts)}
    versions = {name: version for file in files for name, version in pins(file).items()}
    assert [name for name in ranges if versions.get(name) not in ranges[name]] == []


def test_no_package_is_pinned_twice() -> None:
    files = sorted(REPOSITORY.glob("requirements*.txt"))
    names = [name for file in files if file.name != "requirements-runner.txt" for name in pins(file.name)]
    assert len(files) >= 5
    assert [name for name, count in Counter(names).items() if count > 1] == []
