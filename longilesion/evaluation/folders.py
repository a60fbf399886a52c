"""The folder layouts of an evaluation's files.

True and predicted maps are either files in one folder (`<exam>.nii.gz`; `<patient>_FU_mask_00.nii.gz`, as in the
challenge's training data), or are in a folder per exam in the layout of Grand Challenge,
`images/<scan>-followup-ct-tumor-lesion-seg/<one image>`, there or in its folder `truth`, predictions in its folder
`output`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longilesion.errors import InputError
from longilesion.grand_challenge import find_baseline_maps, find_followup_clicks, find_followup_maps
from longilesion.images import READABLE

# The challenge's training data: patient, time point, kind, image. An earlier release names the image twice.
_CHALLENGE = re.compile(r"(?P<patient>.+?)_FU_(?:mask|img|seg|pred)_(?:FU_img_)?(?P<scan>[0-9]{2})")
_ONLY_SCAN = "primary"
_TABLES = (".json", ".csv")
# The challenge's folder of baselines by the folder of truths.
_INPUTS_OF = {"targetsTr": "inputsTr", "targetsTs": "inputsTs"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExamFiles:
    """The files of an exam: true maps by scan, baseline maps, follow-up clicks by scan, a lesion table.

    `case` is the input folder for a model.
    """

    name: str
    truth: Mapping[str, Path]
    baselines: tuple[Path, ...] = ()
    clicks: Mapping[str, Path]
    table: Path | None = None
    case: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionFiles:
    """The files of a prediction: maps by scan, and run reports, one for all maps or one for each."""

    maps: Mapping[str, Path]
    reports: tuple[Path, ...]


def find_exams(truth: Path, *, inputs: Path | None = None) -> list[ExamFiles]:
    """The exams in a folder of truths, sorted by name; raises InputError where there is nothing to score.

    `inputs` holds baselines, clicks and lesion tables, laid out like the truths. Without it, a case folder's own
    `input` is used, and the challenge's `inputsTr` beside `targetsTr`. What is left out is logged as a warning.
    """
    for folder in (truth, inputs):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: {_found(folder)}; expected a folder of label maps")
    beside = _INPUTS_OF.get(truth.resolve().name)
    if inputs is None and beside is not None and (truth.resolve().parent / beside).is_dir():
        inputs = truth.resolve().parent / beside
    exams = list(_exams_in_folders(truth, inputs))
    if exams:
        for path in _images(truth):
            _log.warning("%s: a label map beside case folders; left out", path)
    else:
        exams = list(_exams_in_files(truth, inputs))
    if not exams:
        raise InputError(
            f"{truth}: no true label maps, found {content_of(truth)}; expected <exam>.nii.gz, .mha or .nrrd files, "
            "or a folder per exam with images/primary-followup-ct-tumor-lesion-seg/<one image>"
        )
    if inputs is not None or any(exam.baselines for exam in exams):
        for exam in exams:
            if not exam.baselines:
                _log.warning(
                    "%s: no baseline of %s; its change and response are not scored", inputs or truth, exam.name
                )
    return sorted(exams, key=lambda exam: exam.name)


def find_predictions(folder: Path, exams: Sequence[ExamFiles]) -> tuple[dict[str, PredictionFiles], list[Path]]:
    """The predictions for exams by name, and the files and folders that belong to none of them.

    Raises InputError where an exam has two predictions.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {_found(folder)}; expected a folder of predicted label maps")
    by_name = {exam.name: exam for exam in exams}
    found: dict[str, PredictionFiles] = {}
    extra: list[Path] = []
    for name, maps in _label_maps(folder).items():
        if name in by_name:
            named = (f"{stem}.json" for stem in (name, f"{name}_report", *map(_stem, maps.values())))
            reports = dict.fromkeys(folder / report for report in named if (folder / report).is_file())
            found[name] = PredictionFiles(maps=_same_scans(maps, by_name[name].truth), reports=tuple(reports))
        else:
            extra += maps.values()
    subfolders = _subfolders(folder)
    if len(exams) == 1 and _case_maps(folder, "output"):
        # The only case's own folder, as process.py writes it.
        subfolders = {exams[0].name: folder}
    for name, subfolder in subfolders.items():
        maps = _case_maps(subfolder, "output")
        if maps and name in found:
            raise InputError(f"{subfolder}: a second prediction for {name}, beside {name}'s label map; expected one")
        if maps and name in by_name:
            report = _first_file(subfolder, ("report.json", "output/report.json"))
            found[name] = PredictionFiles(maps=maps, reports=() if report is None else (report,))
        elif maps:
            extra.append(subfolder)
    return found, extra


def _exams_in_folders(truth: Path, inputs: Path | None) -> Iterator[ExamFiles]:
    is_single = bool(_case_maps(truth, "truth"))
    for name, folder in ({truth.resolve().name: truth} if is_single else _subfolders(truth)).items():
        maps = _case_maps(folder, "truth")
        if not maps:
            if any((folder / part).is_dir() for part in ("input", "images", "output")):
                _log.warning("%s: a case without a true lesion map; left out", folder)
            continue
        own = (folder / "input", folder)
        given = () if inputs is None else (inputs / name / "input", inputs / name, *((inputs,) if is_single else ()))
        case = _first_folder(*(given if inputs else own))
        named = [f"{stem}{suffix}" for stem in ("lesions", name) for suffix in _TABLES]
        places = [*given, *((inputs,) if inputs else ()), folder / "truth", folder]
        yield ExamFiles(
            name=name,
            truth=maps,
            baselines=tuple(find_baseline_maps(case).values()) if case else (),
            clicks={str(scan): path for scan, path in find_followup_clicks(case).items()} if case else {},
            table=next((table for place in places if (table := _first_file(place, named))), None),
            case=case,
        )


def _exams_in_files(truth: Path, inputs: Path | None) -> Iterator[ExamFiles]:
    for name, maps in _label_maps(truth).items():
        tables = [folder for folder in (inputs, truth) if folder is not None]
        named = [f"{name}{suffix}" for suffix in (".csv", ".json")]
        yield ExamFiles(
            name=name,
            truth=maps,
            baselines=()
            if inputs is None
            else _baselines(inputs, name, is_separate=inputs.resolve() != truth.resolve()),
            clicks={} if inputs is None else _clicks(inputs, name, maps),
            table=next((table for folder in tables if (table := _first_file(folder, named))), None),
        )


def _same_scans(maps: Mapping[str, Path], truth: Mapping[str, Path]) -> dict[str, Path]:
    """The maps under the truth's name for the scan, where an exam has only one."""
    return dict(zip(truth, maps.values(), strict=True)) if len(maps) == len(truth) == 1 else dict(maps)


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


def _case_maps(folder: Path, part: str) -> dict[str, Path]:
    """The follow-up maps of a case folder: in its subfolder `part`, or else in itself."""
    found = (find_followup_maps(place) for place in (folder / part, folder))
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


def _found(path: Path) -> str:
    return "not a folder" if path.exists() else "no such folder"


def content_of(folder: Path) -> str:
    """The names of a few things in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
