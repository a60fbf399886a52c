"""Combines networks into a model for inference: `python -m training.export RUN_OR_BUNDLE... --output MODEL`.

The result is a bundle with a model card, and beside it MODEL.tar.gz, which Grand Challenge unpacks to /opt/ml/model.
"""

from __future__ import annotations

import gzip
import logging
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import tyro

from longilesion.bundle import SETTINGS_FILE, is_bundle, read_manifest, save_bundle
from longilesion.config import ModelSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.run import EvaluationReport
from longilesion.evaluation.tables import figure
from longilesion.files import check_copy, check_tarball, check_writable, written_together
from longilesion.json_file import read_json
from longilesion.networks.interface import LesionNetwork
from training.command import run_command
from training.differences import differences
from training.model_card import AS_TRAINED, CARD_FILE, FITTED, Model, model_card
from training.run_folder import RunFolder, RunRecord, package_versions, read_record

_log = logging.getLogger("training")

# Grand Challenge accepts more, but the repository that contains the model should stay small.
LARGEST_BYTES = 24_000_000
_PRESENCE = "presence"


@dataclass
class Arguments:
    """Command line of an export."""

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Bundles, or folders of runs, of which the last weights are taken, with their fitted presence head if they have
    one. All networks of all bundles become one ensemble."""
    output: Path
    """Folder of the model; the tarball is written beside it."""
    name: str | None = None
    """The model's name in its card; that of the folder if not given."""
    data_licence: str | None = None
    """Licence and attribution of what the networks were trained on, for the card."""
    evaluation: Path | None = None
    """An evaluation.json of the networks, out of fold, for the card."""
    presence_threshold: float | None = None
    """Below this mean presence a lesion is gone; the mean of the bundles' own thresholds if not given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A bundle to export, by the given folder; `record` is None where it is not part of a run."""

    folder: Path
    bundle: Path
    settings: ModelSettings
    provenance: dict[str, str]
    networks: tuple[LesionNetwork, ...]
    record: RunRecord | None


def export(arguments: Arguments) -> Path:
    """Writes the bundle, its card and the tarball, all or none; returns the tarball's path.

    Raises InputError where the bundles cannot be combined.
    """
    if not arguments.bundles:
        raise InputError("no bundle given; expected the folders of runs or bundles")
    parts = [read_part(folder) for folder in arguments.bundles]
    report = None if arguments.evaluation is None else read_report(arguments.evaluation)
    settings = joined_settings(parts, arguments.presence_threshold)
    networks = [network for part in parts for network in part.networks]
    provenance = _provenance(parts, report, arguments)
    model = Model(
        name=arguments.name or arguments.output.resolve().name,
        settings=settings,
        networks=networks,
        provenance=provenance,
        record=parts[0].record,
        report=report,
    )
    tarball = arguments.output.with_name(f"{arguments.output.name}.tar.gz")
    check_writable(arguments.output.parent)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=arguments.output.parent) as name:
        staged = Path(name)
        save_bundle(staged, settings, networks, provenance=provenance)
        (staged / CARD_FILE).write_text(model_card(model))
        files = sorted(staged.iterdir(), key=lambda path: (path.name == SETTINGS_FILE, path.name))
        paths = [arguments.output / path.name for path in files]
        checks = {path: partial(check_copy, of=file) for path, file in zip(paths, files, strict=True)}
        with written_together({**checks, tarball: check_tarball}) as (*temporaries, packed):
            for path, temporary in zip(files, temporaries, strict=True):
                shutil.copyfile(path, temporary)
            pack(files, packed)
    for stale in set(arguments.output.glob("fold_*.safetensors")) - set(paths):
        stale.unlink()
    size = sum(path.stat().st_size for path in paths)
    if size > LARGEST_BYTES:
        _log.warning("%s: %.1f MB; more than the %.0f MB to keep to", arguments.output, size / 1e6, LARGEST_BYTES / 1e6)
    _log.info("%d networks, %.1f MB: %s, %s", len(networks), size / 1e6, arguments.output, tarball)
    return tarball


def exported_bundle(folder: Path) -> Path:
    """The bundle of a folder: itself, or a run's last weights, with its fitted presence head if any.

    Not the best ones: they were chosen on the validation cases, so that figures of these would be too optimistic.
    Raises InputError where there is none.
    """
    run = RunFolder(folder)
    for bundle in (folder, presence_bundle(run), run.last):
        if is_bundle(bundle):
            return bundle
    raise InputError(f"{folder}: neither {SETTINGS_FILE} nor {run.last.name}/{SETTINGS_FILE}; expected a bundle or run")


def presence_bundle(run: RunFolder) -> Path:
    """The folder of a run's last weights with a further fitted presence head."""
    return run.path / _PRESENCE


def read_part(folder: Path) -> Part:
    """Reads a bundle or the bundle of a run; raises InputError or BundleError."""
    bundle = exported_bundle(folder)
    ensemble = load_ensemble(bundle, device="cpu", precision="float32")
    run = next((run for run in map(RunFolder, (bundle, bundle.resolve().parent)) if run.record.is_file()), None)
    return Part(
        folder=folder,
        bundle=bundle,
        settings=ensemble.settings,
        provenance=read_manifest(bundle).provenance,
        networks=ensemble.networks,
        record=None if run is None else read_record(run),
    )


def read_report(path: Path) -> EvaluationReport:
    """Reads an evaluation.json; raises InputError."""
    return read_json(path, EvaluationReport, expected="the evaluation.json of this version")


def joined_settings(parts: Sequence[Part], presence_threshold: float | None) -> ModelSettings:
    """The settings of all bundles with one presence threshold; raises InputError where they differ in more."""
    first = parts[0]
    for other in parts[1:]:
        dumps = ((part.settings.model_dump(mode="json")) for part in (first, other))
        found = (each for each in differences(*dumps) if each[0] != "inference.presence_threshold")
        name, before, now = next(found, ("", None, None))
        if name:
            raise InputError(
                f"{other.folder}: {name} = {now}, but {before} in {first.folder}; expected the same settings"
            )
    if presence_threshold is None:
        presence_threshold = fmean(part.settings.inference.presence_threshold for part in parts)
    if not 0 <= presence_threshold <= 1:
        raise InputError(f"--presence-threshold {presence_threshold:g}; expected 0 to 1")
    inference = first.settings.inference.model_copy(update={"presence_threshold": round(presence_threshold, 3)})
    return first.settings.model_copy(update={"inference": inference})


def pack(files: Sequence[Path], path: Path) -> None:
    """Writes a tarball with those files at its top level; its bytes do not depend on owner and date."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for file in sorted(files, key=lambda file: file.name):
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)


def _provenance(parts: Sequence[Part], report: EvaluationReport | None, arguments: Arguments) -> dict[str, str]:
    """The provenance of the parts, without duplicates, and that of the export."""
    said: dict[str, str] = {}
    for key in ("recipe", "data", "steps"):
        values = [part.provenance[key] for part in parts if key in part.provenance]
        if values:
            said[key] = "; ".join(dict.fromkeys(values))
    runs = {part.bundle: part.record for part in parts if part.record is not None}
    if runs:
        said["folds"] = ", ".join("80/20 split" if run.fold is None else str(run.fold) for run in runs.values())
        if parts[0].networks[0].presence is not None:
            heads = (FITTED if bundle.name == _PRESENCE else AS_TRAINED for bundle in runs)
            said["presence head"] = ", ".join(dict.fromkeys(heads))
    if report is not None:
        for evaluation in report.evaluations:
            dice = figure(evaluation.challenge.dice)
            said[evaluation.name] = f"challenge Dice {dice} over {len(evaluation.exams)} cases"
    versions = parts[0].record.versions if parts[0].record is not None else package_versions()
    said["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    licences = [part.provenance.get("data licence") for part in parts]
    stated = dict.fromkeys(licence for licence in (arguments.data_licence, *licences) if licence)
    if stated:
        said["data licence"] = "; ".join(stated)
    said["licence"] = "research use only"
    return said


def main() -> int:
    """Command line; 1 where the bundles cannot be combined."""
    return run_command(export, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
