"""Where the files of an evaluation lie.

True and predicted maps are either files in one folder (`<exam>.nii.gz`; `<patient>_FU_mask_00.nii.gz`, as in the
challenge's training data), or lie in a folder per exam as Grand Challenge has them, `images/<scan>-followup-ct-tumor-
lesion-seg/<one image>`, there or in its folder `truth` or `output`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longilesion.errors import InputError
from longilesion.grand_challenge import find_baseline_maps, find_followup_clicks, find_followup_maps
from longilesion.images import READABLE

# The challenge's training data: patient, time point, kind, image. An earlier release names the image twice.
_CHALLENGE = re.compile(r"(?P<patient>.+)_FU_(?:mask|img|seg|pred)_(?:FU_img_)?(?P<scan>[0-9]{2})")
_ONLY_SCAN = "primary"
_TABLES = (".json", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExamFiles:
    """An exam's true maps by scan and what else is known: baseline maps, follow-up clicks by scan, a lesion table.

    `case` is the folder that a model takes as its input.
    """

    name: str
    truth: Mapping[str, Path]
    baselines: tuple[Path, ...] = ()
    clicks: Mapping[str, Path]
    table: Path | None = None
    case: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionFiles:
    """An exam's predicted maps by scan, and its run report where there is one."""

    maps: Mapping[str, Path]
    report: Path | None


def find_exams(truth: Path, *, inputs: Path | None = None) -> list[ExamFiles]:
    """The exams in a folder of truths, sorted by name; raises InputError where there is nothing to score.

    `inputs` holds baselines, clicks and lesion tables, laid out like the truths. Without it, a case folder's own
    `input` is taken, and the challenge's `inputsTr` beside `targetsTr`.
    """
    for folder in (truth, inputs):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected label maps")
    exams = list(_exams_in_folders(truth, inputs)) or list(_exams_in_files(truth, inputs))
    if not exams:
        found = ", ".join(sorted(path.name for path in truth.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{truth}: no true label maps, found {found}; expected <exam>.nii.gz, .mha or .nrrd files, "
            "or a folder per exam with images/primary-followup-ct-tumor-lesion-seg/<one image>"
        )
    return sorted(exams, key=lambda exam: exam.name)


def find_predictions(folder: Path, exams: Sequence[ExamFiles]) -> tuple[dict[str, PredictionFiles], list[Path]]:
    """The predictions for exams by name, and the files and folders that belong to none of them."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected predicted label maps")
    names = {exam.name for exam in exams}
    found: dict[str, PredictionFiles] = {}
    extra: list[Path] = []
    files = _label_maps(folder)
    for name, maps in files.items():
        if name in names:
            report = _first_file(
                folder, (f"{name}.json", f"{name}_report.json", *(f"{_stem(path)}.json" for path in maps.values()))
            )
            found[name] = PredictionFiles(maps=maps, report=report)
        else:
            extra += maps.values()
    subfolders = _subfolders(folder)
    if len(exams) == 1 and _case_maps(folder):
        # The only case's own folder, as process.py writes it.
        subfolders = {exams[0].name: folder}
    for name, subfolder in subfolders.items():
        maps = _case_maps(subfolder)
        if maps and name in names and name not in found:
            report = _first_file(subfolder, ("report.json", "output/report.json"))
            found[name] = PredictionFiles(maps=maps, report=report)
        elif maps:
            extra.append(subfolder)
    return found, extra


def _exams_in_folders(truth: Path, inputs: Path | None) -> Iterator[ExamFiles]:
    folders = {truth.resolve().name: truth} if _case_maps(truth) else _subfolders(truth)
    for name, folder in folders.items():
        maps = _case_maps(folder)
        if not maps:
            continue
        case = _first_folder(*((inputs / name / "input", inputs / name) if inputs else (folder / "input", folder)))
        table = _first_file(
            folder,
            [
                f"{place}{name_}{suffix}"
                for place in ("truth/", "")
                for name_ in ("lesions", name)
                for suffix in _TABLES
            ],
        )
        yield ExamFiles(
            name=name,
            truth=maps,
            baselines=tuple(find_baseline_maps(case).values()) if case else (),
            clicks={str(scan): path for scan, path in find_followup_clicks(case).items()} if case else {},
            table=table,
            case=case,
        )


def _exams_in_files(truth: Path, inputs: Path | None) -> Iterator[ExamFiles]:
    beside = truth.parent / truth.name.replace("targets", "inputs")
    if inputs is None and beside != truth and beside.is_dir():
        inputs = beside
    for name, maps in _label_maps(truth).items():
        tables = [folder for folder in (inputs, truth) if folder is not None]
        yield ExamFiles(
            name=name,
            truth=maps,
            baselines=()
            if inputs is None
            else _baselines(inputs, name, is_separate=inputs.resolve() != truth.resolve()),
            clicks={} if inputs is None else _clicks(inputs, name, maps),
            table=next(
                (
                    table
                    for folder in tables
                    if (table := _first_file(folder, [f"{name}{suffix}" for suffix in (".csv", ".json")]))
                ),
                None,
            ),
        )


def _baselines(inputs: Path, name: str, *, is_separate: bool) -> tuple[Path, ...]:
    """The baseline maps of an exam: those named as the challenge does, or else the file with the exam's name."""
    named = sorted(
        path for path in _images(inputs) if re.fullmatch(re.escape(name) + r"_BL_mask(_BL_img)?_[0-9]{2}", _stem(path))
    )
    return tuple(named) or tuple(path for path in _images(inputs) if is_separate and _stem(path) == name)


def _clicks(inputs: Path, name: str, maps: Iterable[str]) -> dict[str, Path]:
    files = {
        scan: inputs / (f"{name}_clicks.json" if scan == _ONLY_SCAN else f"{name}_FU_{scan}.json") for scan in maps
    }
    return {scan: path for scan, path in files.items() if path.is_file()}


def _label_maps(folder: Path) -> dict[str, dict[str, Path]]:
    """The images of a folder by exam and scan."""
    exams: dict[str, dict[str, Path]] = {}
    for path in _images(folder):
        match = _CHALLENGE.fullmatch(_stem(path))
        name, scan = (match["patient"], match["scan"]) if match else (_stem(path), _ONLY_SCAN)
        maps = exams.setdefault(name, {})
        if scan in maps:
            raise InputError(f"{path}: a second map of {name}, beside {maps[scan].name}; expected one")
        maps[scan] = path
    return exams


def _case_maps(folder: Path) -> dict[str, Path]:
    """The follow-up maps of a case folder, in the place where they are looked for first."""
    places = (folder / "truth", folder / "output", folder)
    found = (find_followup_maps(place) for place in places)
    return {str(scan): path for scan, path in next(filter(None, found), {}).items()}


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(READABLE)
    )


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _stem(path: Path) -> str:
    """The file's name without its suffix, which may be .nii.gz."""
    suffix = max((suffix for suffix in READABLE if path.name.lower().endswith(suffix)), key=len)
    return path.name[: -len(suffix)]


def _first_file(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _first_folder(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)
