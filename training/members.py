"""Combining of bundles and runs into members: networks of equal settings become one member, others further ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import fmean

from longilesion.bundle import SETTINGS_FILE, Member, is_bundle, read_manifest
from longilesion.config import Axis, ModelSettings, Thresholds
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from training.differences import differences
from training.run_folder import RunFolder, RunRecord, package_versions, read_record
from training.synthesis.shape_library import LICENCE_NOT_STATED

FITTED, AS_TRAINED = "fitted further", "as trained"

_PRESENCE = "presence"
_FOLDS, _HEAD = "folds", "presence head"
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A member of a bundle to combine, by the given folder; `record` is None where the bundle is not part of a run."""

    folder: Path
    bundle: Path
    member: Member
    provenance: dict[str, str]
    record: RunRecord | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joined:
    """A member of the combined model, and the parts that its networks come from."""

    member: Member
    parts: Sequence[Part]

    @property
    def record(self) -> RunRecord | None:
        """The record of the first network's run."""
        return self.parts[0].record

    @property
    def judges_presence(self) -> bool:
        """Whether its networks predict the presence."""
        return self.member.networks[0].presence is not None

    @property
    def detects(self) -> bool:
        """Whether its networks were trained to find all lesions, with no click."""
        return self.record is not None and self.record.recipe.task == "detection"


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


def weighted_folder(text: str) -> tuple[Path, float | None]:
    """The folder and the weight of FOLDER or FOLDER:WEIGHT; raises InputError for a weight that is none."""
    folder, separator, number = text.rpartition(":")
    if not separator or Path(text).exists():
        return Path(text), None
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not (isfinite(weight) and weight > 0):
        raise InputError(f"--members {text}: weight {number}; expected FOLDER, or FOLDER:WEIGHT with a number over 0")
    return Path(folder), weight


def read_parts(folder: Path, weight: float | None = None) -> list[Part]:
    """Reads the members of a bundle, or of the bundle of a run; raises InputError or BundleError.

    The weight is divided among the members in the proportion of their own; None keeps these.
    """
    bundle = exported_bundle(folder)
    members = load_ensemble(bundle, device="cpu", precision="float32").members
    factor = 1.0 if weight is None else weight / sum(member.weight for member in members)
    run = next((run for run in map(RunFolder, (bundle, bundle.resolve().parent)) if run.record.is_file()), None)
    provenance = read_manifest(bundle).provenance
    record = None if run is None else read_record(run)
    return [
        Part(
            folder=folder,
            bundle=bundle,
            member=replace(member, weight=factor * member.weight),
            provenance=provenance,
            record=record,
        )
        for member in members
    ]


def with_views(part: Part, *, mirror_axes: Sequence[Axis] | None, zoom_factors: Sequence[float] | None) -> Part:
    """The part with these views, and its own where None is given; raises InputError where one is named twice."""
    if mirror_axes is not None and len(set(mirror_axes)) < len(mirror_axes):
        raise InputError(f"--mirror-axes {' '.join(mirror_axes)}: an axis twice; expected each once")
    if zoom_factors is not None:
        _check_factors(zoom_factors)
    own = part.member.settings.inference
    settings = part.member.settings.with_views(
        own.mirror_axes if mirror_axes is None else mirror_axes,
        own.zoom_factors if zoom_factors is None else zoom_factors,
    )
    return replace(part, member=replace(part.member, settings=settings))


def joined(parts: Sequence[Part], presence_threshold: float | None = None, *, may_differ: bool) -> list[Joined]:
    """Joins parts of equal settings, but for the presence threshold, whose mean is taken unless it is given.

    Raises InputError where the settings of others differ, unless they may, for parts of one member whose weights
    differ, and for a threshold that is not a probability.
    """
    if presence_threshold is not None and not 0 <= presence_threshold <= 1:
        raise InputError(f"--presence-threshold {presence_threshold:g}; expected 0 to 1")
    groups: list[list[Part]] = []
    for part in parts:
        for group in groups:
            found = _first_difference(group[0].member.settings, part.member.settings)
            if found is None:
                group.append(part)
                break
            if not may_differ:
                name, before, now = found
                raise InputError(
                    f"{part.folder}: {name} = {now}, but {before} in {group[0].folder}; expected the same settings, "
                    "or --members before the folders"
                )
        else:
            groups.append([part])
    return [_joined(group, presence_threshold) for group in groups]


def mean_thresholds(members: Sequence[Joined]) -> Thresholds:
    """The weighted mean of the members' thresholds; that of the presence is over those that predict it."""
    judging = [each for each in members if each.judges_presence] or members
    return Thresholds(
        threshold=round(_mean(members, "threshold"), 6),
        presence_threshold=round(_mean(judging, "presence_threshold"), 3),
    )


def joined_provenance(parts: Sequence[Part], data_licence: str | None) -> dict[str, str]:
    """The provenance of the parts, without duplicates; folds and presence heads are listed bundle by bundle.

    A given licence of the data stands before the recorded ones, and in place of the remark that there is none.
    """
    said: dict[str, str] = {}
    for key in ("recipe", "data", "steps"):
        values = [part.provenance[key] for part in parts if key in part.provenance]
        if values:
            said[key] = "; ".join(dict.fromkeys(values))
    bundles = {part.bundle: part for part in parts}.values()
    folds = [_fold(part) or part.provenance.get(_FOLDS, _NOT_RECORDED) for part in bundles]
    heads = [_head(part) or part.provenance.get(_HEAD, _NOT_RECORDED) for part in bundles]
    if set(folds) != {_NOT_RECORDED}:
        said[_FOLDS] = ", ".join(folds)
    if set(heads) != {_NOT_RECORDED}:
        said[_HEAD] = heads[0] if len(set(heads)) == 1 else ", ".join(heads)
    versions = parts[0].record.versions if parts[0].record is not None else package_versions()
    said["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    licences = [licence for part in parts if (licence := part.provenance.get("data licence"))]
    if data_licence:
        recorded = [clause for licence in licences for clause in licence.split("; ")]
        licences = [data_licence, *(clause for clause in recorded if not clause.endswith(LICENCE_NOT_STATED))]
    stated = dict.fromkeys(licences)
    if stated:
        said["data licence"] = "; ".join(stated)
    said["licence"] = "research use only"
    return said


def _fold(part: Part) -> str | None:
    if part.record is None:
        return None
    return "80/20 split" if part.record.fold is None else str(part.record.fold)


def _head(part: Part) -> str | None:
    if part.record is None or part.member.networks[0].presence is None:
        return None
    return FITTED if part.bundle.name == _PRESENCE else AS_TRAINED


def _check_factors(factors: Sequence[float]) -> None:
    if (
        not factors
        or len(set(factors)) < len(factors)
        or not all(isfinite(factor) and factor > 0 for factor in factors)
    ):
        said = " ".join(f"{factor:g}" for factor in factors) or "none"
        raise InputError(f"--zoom-factors: {said}; expected numbers over 0, each once")


def _first_difference(first: ModelSettings, other: ModelSettings) -> tuple[str, object, object] | None:
    dumps = (settings.model_dump(mode="json") for settings in (first, other))
    return next((found for found in differences(*dumps) if found[0] != "inference.presence_threshold"), None)


def _joined(parts: Sequence[Part], presence_threshold: float | None) -> Joined:
    first = parts[0]
    for other in parts[1:]:
        if other.member.weight != first.member.weight:
            raise InputError(
                f"{other.folder}: weight {other.member.weight:g}, but {first.member.weight:g} of {first.folder}, which "
                "has the same settings; expected one weight per member"
            )
    if presence_threshold is None:
        presence_threshold = fmean(part.member.settings.inference.presence_threshold for part in parts)
    settings = first.member.settings
    inference = settings.inference.model_copy(update={"presence_threshold": round(presence_threshold, 3)})
    return Joined(
        member=Member(
            settings=settings.model_copy(update={"inference": inference}),
            networks=tuple(network for part in parts for network in part.member.networks),
            weight=first.member.weight,
        ),
        parts=parts,
    )


def _mean(members: Sequence[Joined], name: str) -> float:
    return fmean(
        [getattr(each.member.settings.inference, name) for each in members],
        weights=[each.member.weight for each in members],
    )
