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

import tyro

from longilesion.bundle import SETTINGS_FILE, save_members
from longilesion.config import Axis
from longilesion.errors import InputError
from longilesion.evaluation.run import EvaluationReport
from longilesion.evaluation.tables import figure
from longilesion.files import check_copy, check_tarball, check_writable, written_together
from longilesion.json_file import read_json
from training.command import run_command
from training.members import (
    Part,
    joined,
    joined_provenance,
    mean_thresholds,
    read_parts,
    weighted_folder,
    with_views,
)
from training.model_card import CARD_FILE, Model, model_card

_log = logging.getLogger("training")

# Grand Challenge accepts more, but the repository that contains the model should stay small.
LARGEST_BYTES = 24_000_000


@dataclass
class Arguments:
    """Command line of an export."""

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Bundles, or folders of runs, of which the last weights are taken, with their fitted presence head if they have
    one. Their settings are equal; all networks of all bundles become one member."""
    output: Path
    """Folder of the model; the tarball is written beside it."""
    members: tuple[str, ...] = ()
    """Instead, such folders of different settings, as FOLDER or FOLDER:WEIGHT. Those of equal settings become one
    member, and the model is the weighted mean of its members; the weight is that of the member, 1 if not given."""
    name: str | None = None
    """The model's name in its card; that of the folder if not given."""
    data_licence: str | None = None
    """Licence and attribution of what the networks were trained on, for the card."""
    evaluation: Path | None = None
    """An evaluation.json of the networks, out of fold, for the card."""
    presence_threshold: float | None = None
    """Below this mean presence a lesion is gone; the weighted mean of the bundles' own thresholds if not given."""
    mirror_axes: tuple[Axis, ...] | None = None
    """Axes along which every network sees mirrored views, two views for one axis, four for two; the bundles' own if not
    given."""
    zoom_factors: tuple[float, ...] | None = None
    """Factors on a lesion's zoom at which every network sees it, 1 for its own; the bundles' own if not given."""


def export(arguments: Arguments) -> Path:
    """Writes the bundle, its card and the tarball, all or none; returns the tarball's path.

    Raises InputError where the bundles cannot be combined.
    """
    parts = _parts(arguments)
    report = None if arguments.evaluation is None else read_report(arguments.evaluation)
    axes, factors = arguments.mirror_axes, arguments.zoom_factors
    parts = [with_views(part, mirror_axes=axes, zoom_factors=factors) for part in parts]
    members = joined(parts, arguments.presence_threshold, may_differ=bool(arguments.members))
    thresholds = mean_thresholds(members)
    provenance = joined_provenance(parts, arguments.data_licence) | _figures(report)
    model = Model(
        name=arguments.name or arguments.output.resolve().name,
        members=members,
        thresholds=thresholds,
        provenance=provenance,
        data_licence=arguments.data_licence,
        mirror_axes=axes,
        zoom_factors=factors,
        report=report,
    )
    tarball = arguments.output.with_name(f"{arguments.output.name}.tar.gz")
    check_writable(arguments.output.parent)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=arguments.output.parent) as name:
        staged = Path(name)
        save_members(staged, [each.member for each in members], thresholds, provenance=provenance)
        (staged / CARD_FILE).write_text(model_card(model), encoding="utf-8")
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
    count = sum(len(each.member.networks) for each in members)
    _log.info("%d networks, %.1f MB: %s, %s", count, size / 1e6, arguments.output, tarball)
    return tarball


def read_report(path: Path) -> EvaluationReport:
    """Reads an evaluation.json; raises InputError."""
    return read_json(path, EvaluationReport, expected="the evaluation.json of this version")


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


def _parts(arguments: Arguments) -> list[Part]:
    if bool(arguments.bundles) == bool(arguments.members):
        found = "both bundles and --members" if arguments.bundles else "no bundle"
        raise InputError(f"{found} given; expected the folders of runs or bundles, or --members")
    given = [(folder, None) for folder in arguments.bundles] or map(weighted_folder, arguments.members)
    return [part for folder, weight in given for part in read_parts(folder, weight)]


def _figures(report: EvaluationReport | None) -> dict[str, str]:
    """The challenge's Dice of each evaluation, for the provenance."""
    said: dict[str, str] = {}
    for evaluation in () if report is None else report.evaluations:
        dice = figure(evaluation.challenge.dice)
        said[evaluation.name] = f"challenge Dice {dice} over {len(evaluation.exams)} cases"
    return said


def main() -> int:
    """Command line; 1 where the bundles cannot be combined."""
    return run_command(export, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
