"""Cases in the layout of Grand Challenge: one folder of inputs, one folder of outputs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel

from longilesion.case import SCAN_NAMES, Baseline, Case, LesionMap, ScanName
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError
from longilesion.files import check_replaceable, written_together
from longilesion.geometry import Grid
from longilesion.images import READABLE, check_lesion_map, read_scan, write_lesion_map
from longilesion.json_file import read_json
from longilesion.outlines import read_baseline
from longilesion.shipped import SOCKETS_FILE

OUTPUT_NAME = "output.mha"

# Suffixes of images of any kind, also of those that are not read.
_IMAGES = (*READABLE, ".tif", ".tiff", ".nhdr", ".dcm", ".png", ".jpg", ".jpeg")

TimePoint: TypeAlias = Literal["baseline", "followup"]

_log = logging.getLogger(__name__)


class _Sockets(BaseModel):
    """The path of each input and output relative to its folder, by slug."""

    inputs: dict[str, Path]
    outputs: dict[str, Path]


class _Socket(BaseModel):
    slug: str
    relative_path: Path


class _Entry(BaseModel):
    """An entry of inputs.json; older versions use `interface`."""

    socket: _Socket | None = None
    interface: _Socket | None = None


def read_case(directory: Path) -> tuple[Case, dict[ScanName, Path]]:
    """Reads a case of any of the four interfaces; returns it and the follow-up scans' files, for writing its outputs.

    The primary follow-up scan is required. Baseline scans, masks and clicks may be missing: there is no prior then.
    Raises InputError for another layout, or for any file that cannot be used. A scan that cannot be in Hounsfield units
    is logged as a warning, as an error would fail the whole case.
    """
    inputs = _located(directory)
    for name in SCAN_NAMES:
        mask = inputs.get(f"{name}-baseline-ct-tumor-lesion-seg")
        if mask is not None and f"{name}-baseline-ct" not in inputs:
            raise InputError(
                f"{mask}: a mask without its scan; expected {_sockets().inputs[f'{name}-baseline-ct']} too"
            )
    followup_files = {
        name: _only_image(inputs[f"{name}-followup-ct"]) for name in SCAN_NAMES if f"{name}-followup-ct" in inputs
    }
    followups = {name: read_scan(path, implausible="warn") for name, path in followup_files.items()}
    baselines: dict[ScanName, Baseline] = {}
    for name in SCAN_NAMES:
        if f"{name}-baseline-ct" in inputs:
            scan = read_scan(_only_image(inputs[f"{name}-baseline-ct"]), implausible="warn")
            folder = inputs.get(f"{name}-baseline-ct-tumor-lesion-seg")
            baselines[name] = read_baseline(scan, None if folder is None else _only_image(folder))
    before = {name: baseline.scan.grid for name, baseline in baselines.items()}
    after = {name: scan.grid for name, scan in followups.items()}
    clicks = read_click_pairs(
        baseline=_click_files(inputs, "baseline", before, priors=baselines),
        followup=_click_files(inputs, "followup", after, priors={}),
        may_lack_points=True,
    )
    return Case(baselines=baselines, followups=followups, clicks=clicks), followup_files


def output_paths(directory: Path) -> dict[ScanName, Path]:
    """Where the lesion map of each follow-up scan is written in a folder of outputs."""
    return {name: folder / OUTPUT_NAME for name, folder in _output_folders(directory).items()}


def check_outputs(directory: Path, followups: Collection[ScanName]) -> None:
    """Raises InputError where a map of these scans would not be the only image in its folder of outputs.

    Maps of an earlier run that new ones replace are allowed.
    """
    paths = output_paths(directory)
    for name, path in paths.items():
        for other in _visible(path.parent):
            if name not in followups:
                raise InputError(f"{other}: in the way, there is no {name} follow-up scan; expected an empty folder")
            if other != path and other.name.lower().endswith(_IMAGES):
                raise InputError(f"{other}: another image in an output folder; expected {OUTPUT_NAME} at most")
    check_replaceable(*(paths[name] for name in followups))


def write_outputs(
    directory: Path, maps: Mapping[ScanName, LesionMap], *, followup_files: Mapping[ScanName, Path]
) -> None:
    """Writes one lesion map per follow-up scan, all or none.

    The maps get the header geometry of the follow-up scans' files. Raises InputError where writing fails, or where a
    map would not be the only image in its folder.
    """
    check_outputs(directory, maps)
    paths = output_paths(directory)
    checks = {paths[name]: partial(check_lesion_map, written=each) for name, each in maps.items()}
    with written_together(checks) as temporaries:
        for name, temporary in zip(maps, temporaries, strict=True):
            write_lesion_map(temporary, maps[name], like=followup_files[name])


def find_followup_maps(directory: Path) -> dict[ScanName, Path]:
    """The lesion maps in a folder of outputs, by scan; raises InputError where one is not the only one of its kind."""
    return {name: _only_image(folder) for name, folder in _output_folders(directory).items() if folder.is_dir()}


def find_baseline_maps(directory: Path) -> dict[ScanName, Path]:
    """The baseline lesion maps in a folder of inputs, by scan."""
    inputs = _inputs(directory)
    slugs = {name: f"{name}-baseline-ct-tumor-lesion-seg" for name in SCAN_NAMES}
    return {name: _only_image(inputs[slug]) for name, slug in slugs.items() if slug in inputs}


def find_followup_clicks(directory: Path) -> dict[ScanName, Path]:
    """The point lists of the follow-up in a folder of inputs, by scan."""
    inputs = _inputs(directory)
    slugs = {name: f"{name}-followup-lesion-clicks" for name in SCAN_NAMES}
    return {name: inputs[slug] for name, slug in slugs.items() if slug in inputs}


@cache
def _sockets() -> _Sockets:
    return read_json(SOCKETS_FILE, _Sockets, expected="the sockets, which come with longilesion: install it again")


def _located(directory: Path) -> dict[str, Path]:
    """The inputs of a case that is complete enough to be segmented."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; expected a case")
    located = _inputs(directory)
    if "primary-followup-ct" not in located:
        # Two levels are enough to recognise the layout, and avoid traversing a whole disk.
        present = [path for depth in ("*", "*/*") for path in directory.glob(depth)]
        found = ", ".join(sorted(str(path.relative_to(directory)) for path in present))
        expected = _sockets().inputs["primary-followup-ct"]
        raise InputError(f"{directory}: no follow-up scan, found {found or 'nothing'}; expected {expected}/<one image>")
    return located


def _inputs(directory: Path) -> dict[str, Path]:
    """The inputs that exist, by slug: those at their usual paths, and those that inputs.json names."""
    usual = {slug: directory / path for slug, path in _sockets().inputs.items()}
    return {slug: path for slug, path in usual.items() if path.exists()} | _promised(directory)


def _output_folders(directory: Path) -> dict[ScanName, Path]:
    return {name: directory / _sockets().outputs[f"{name}-followup-ct-tumor-lesion-seg"] for name in SCAN_NAMES}


def _promised(directory: Path) -> dict[str, Path]:
    """The inputs that inputs.json names, which must exist; none where that file is missing, as in local runs."""
    manifest = directory / "inputs.json"
    if not manifest.exists():
        return {}
    entries: list[_Entry] = read_json(manifest, list[_Entry], expected="a list of inputs with their sockets")
    promised = {}
    for position, entry in enumerate(entries):
        socket = entry.socket or entry.interface
        if socket is None:
            raise InputError(f"{manifest}: entry {position} has no socket; expected its slug and relative_path")
        if socket.slug not in _sockets().inputs:
            _log.warning("%s: unknown socket %s is ignored", manifest, socket.slug)
            continue
        promised[socket.slug] = directory / socket.relative_path
        if not promised[socket.slug].exists():
            raise InputError(f"{promised[socket.slug]}: missing; expected it, as {manifest.name} names {socket.slug}")
    return promised


def _only_image(folder: Path) -> Path:
    """The one image in a folder; hidden files, and others such as the voxels beside an .mhd, do not count."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected a folder with one image")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    images = [name for name in names if name.lower().endswith(READABLE)]
    if len(images) != 1:
        found = ", ".join(images or names) or "nothing"
        raise InputError(f"{folder}: {len(images)} images, found {found}; expected one of {', '.join(READABLE)}")
    return folder / images[0]


def _click_files(
    inputs: Mapping[str, Path],
    time_point: TimePoint,
    grids: Mapping[ScanName, Grid],
    *,
    priors: Mapping[ScanName, Baseline],
) -> list[ClickFile]:
    return [
        ClickFile(path=inputs[slug], scan_name=name, grid=grids.get(name), prior=priors.get(name))
        for name in SCAN_NAMES
        if (slug := f"{name}-{time_point}-lesion-clicks") in inputs
    ]


def _visible(folder: Path) -> list[Path]:
    """The content of a folder, except hidden files; empty if there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder that can be written to") from error
