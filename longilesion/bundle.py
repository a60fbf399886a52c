"""Model bundles: members, each of one or more networks of equal settings, in safetensors files beside one manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from longilesion.config import MeasurementErrors, ModelSettings, Thresholds, from_schema_1
from longilesion.errors import BundleError, first_error
from longilesion.files import valid, written_together
from longilesion.json_file import read_json
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork
from longilesion.weight_file import WithoutInitialisation, check_weights, halved_weights, load_weights, write_weights

SCHEMA_VERSION: Final = 3
SETTINGS_FILE = "settings.json"

_FOLDS = "fold_*.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """Networks of equal settings, whose mean counts with a weight among the members of a bundle.

    The thresholds in its settings are those for the member alone.
    """

    settings: ModelSettings
    networks: tuple[LesionNetwork, ...]
    weight: float = 1.0


class MemberEntry(BaseModel):
    """A member in the manifest: `networks` are the names of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: ModelSettings
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    networks: tuple[Annotated[str, Field(pattern=r"^fold_\d+\.safetensors$")], ...] = Field(min_length=1)


class BundleManifest(BaseModel):
    """A bundle's `settings.json`; `thresholds` apply to the weighted mean of all members.

    `errors` are those of measures of its outlines (`training.measurement_errors`), None where they are not known.
    `provenance` records the training data of the weights, and their licence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = SCHEMA_VERSION
    thresholds: Thresholds
    members: tuple[MemberEntry, ...] = Field(min_length=1)
    errors: MeasurementErrors | None = None
    provenance: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> BundleManifest:
        names = self.files
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice; expected one file per network")
        return self

    @property
    def files(self) -> list[str]:
        """The names of all networks' files."""
        return [name for member in self.members for name in member.networks]


class _Version(BaseModel):
    """The part that manifests of all versions share; `kind` is that of a bundle for another purpose."""

    schema_version: int
    kind: str | None = None


class _Settings(BaseModel):
    """Settings under the name that they have in messages about a manifest of schema 1 or 2."""

    settings: ModelSettings


class _ManifestOfOneMember(BaseModel):
    """A manifest of schema 1 or 2, of one member, whose settings are still to be converted to the present schema."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    settings: dict[str, Any]
    provenance: dict[str, str]


def save_bundle(
    directory: Path, settings: ModelSettings, networks: Sequence[LesionNetwork], *, provenance: dict[str, str]
) -> None:
    """Writes a bundle of one member; as `save_members`."""
    member = Member(settings=settings, networks=tuple(networks))
    save_members(directory, [member], settings.inference.thresholds, provenance=provenance)


def save_members(
    directory: Path,
    members: Sequence[Member],
    thresholds: Thresholds,
    *,
    provenance: dict[str, str],
    errors: MeasurementErrors | None = None,
) -> None:
    """Writes `settings.json` and one float16 `fold_k.safetensors` per network, all or none.

    The networks of all members are numbered in their order. Raises InputError where writing fails, and BundleError for
    weights that are not finite in float16.
    """
    networks = [network for member in members for network in member.networks]
    folds = [directory / f"fold_{number}.safetensors" for number in range(len(networks))]
    names = iter(folds)
    entries = [
        MemberEntry(
            settings=member.settings,
            weight=member.weight,
            networks=tuple(next(names).name for _ in member.networks),
        )
        for member in members
    ]
    manifest = BundleManifest(thresholds=thresholds, members=tuple(entries), errors=errors, provenance=provenance)
    checks = {**dict.fromkeys(folds, check_weights), directory / SETTINGS_FILE: valid(BundleManifest)}
    tensors = [halved_weights(network, fold) for network, fold in zip(networks, folds, strict=True)]
    with written_together(checks) as (*parts, described):
        for halved, part in zip(tensors, parts, strict=True):
            write_weights(part, halved)
        described.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for stale in set(directory.glob(_FOLDS)) - set(folds):
        stale.unlink()


def is_bundle(directory: Path) -> bool:
    """Whether a directory contains a bundle's settings file."""
    return (directory / SETTINGS_FILE).is_file()


def load_bundle(directory: Path) -> tuple[BundleManifest, tuple[Member, ...]]:
    """Reads a bundle's manifest and the networks of all members, on the CPU.

    Raises BundleError for a bundle that is missing, damaged, or of another version.
    """
    manifest = read_manifest(directory)
    members = tuple(
        Member(
            settings=entry.settings,
            networks=tuple(_load_network(directory / name, entry.settings) for name in entry.networks),
            weight=entry.weight,
        )
        for entry in manifest.members
    )
    return manifest, members


def read_manifest(directory: Path) -> BundleManifest:
    """Reads and checks `settings.json`, of this schema or an earlier one, against the files beside it.

    Raises BundleError.
    """
    path = directory / SETTINGS_FILE
    read = partial(read_json, path, expected="a model bundle with its settings", failure=BundleError)
    # The version is checked first: other versions may have unknown keys.
    header = read(_Version)
    if header.kind is not None:
        raise BundleError(f"{directory}: a bundle of kind {header.kind}; expected one that outlines lesions")
    version = header.schema_version
    found = {file.name for file in directory.glob(_FOLDS)}
    if version in {1, 2}:
        return _of_one_member(path, read(_ManifestOfOneMember), sorted(found))
    if version != SCHEMA_VERSION:
        raise BundleError(f"{path}: schema version {version}; expected 1 to {SCHEMA_VERSION}")
    manifest = read(BundleManifest)
    for odd in sorted(found ^ set(manifest.files)):
        state = "is not listed in" if odd in found else "is missing, but listed in"
        raise BundleError(f"{directory / odd}: {state} {SETTINGS_FILE}; expected the files of its members")
    return manifest


def _of_one_member(path: Path, before: _ManifestOfOneMember, files: Sequence[str]) -> BundleManifest:
    """A manifest of schema 1 or 2, as of this schema."""
    settings = before.settings if before.schema_version == 2 else from_schema_1(before.settings)
    try:
        checked = _Settings.model_validate({"settings": settings}).settings
    except ValidationError as error:
        raise BundleError(f"{path}: {first_error(error)}; expected a model bundle with its settings") from error
    if not files:
        raise BundleError(f"{path.parent}: no {_FOLDS} beside {SETTINGS_FILE}; expected one file per network")
    return BundleManifest(
        thresholds=checked.inference.thresholds,
        members=(MemberEntry(settings=checked, networks=tuple(files)),),
        provenance=before.provenance,
    )


def _load_network(path: Path, settings: ModelSettings) -> LesionNetwork:
    with WithoutInitialisation():
        network = build_network(settings)
    load_weights(network, path, settings_file=SETTINGS_FILE)
    return network
