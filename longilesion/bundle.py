"""Model bundles: members, each of one or more networks of equal settings, in safetensors files beside one manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longilesion.config import ModelSettings, Thresholds, from_schema_1
from longilesion.errors import BundleError, first_error
from longilesion.files import valid, written_together
from longilesion.json_file import read_json
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork

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

    `provenance` records the training data of the weights, and their licence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = SCHEMA_VERSION
    thresholds: Thresholds
    members: tuple[MemberEntry, ...] = Field(min_length=1)
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
    """The part that manifests of all versions share."""

    schema_version: int


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
    directory: Path, members: Sequence[Member], thresholds: Thresholds, *, provenance: dict[str, str]
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
    manifest = BundleManifest(thresholds=thresholds, members=tuple(entries), provenance=provenance)
    checks = {**dict.fromkeys(folds, check_weights), directory / SETTINGS_FILE: valid(BundleManifest)}
    tensors = [_halved(network, fold) for network, fold in zip(networks, folds, strict=True)]
    with written_together(checks) as (*parts, described):
        for halved, part in zip(tensors, parts, strict=True):
            save_file(halved, part)
            # safetensors makes files readable for the owner only; a container runs as another user.
            part.chmod(0o644)
        described.write_text(manifest.model_dump_json(indent=2) + "\n")
    for stale in set(directory.glob(_FOLDS)) - set(folds):
        stale.unlink()


def check_weights(path: Path) -> None:
    """Raises ValueError where a safetensors file does not have the length that its header implies."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _halved(network: LesionNetwork, path: Path) -> dict[str, Tensor]:
    """A network's state in float16; a tensor with several names is stored under the first.

    `save_model` would list the other names in the header, in an order that differs between runs.
    """
    state = network.state_dict()
    names = [name for name, _ in chain(network.named_parameters(), network.named_buffers()) if name in state]
    halved = {
        name: state[name].half().contiguous() if state[name].is_floating_point() else state[name] for name in names
    }
    _check_finite(halved, path)
    return halved


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BundleError(f"{path}: tensor {name} has NaN or infinity; expected finite float16 numbers")


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
    version = read(_Version).schema_version
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


class _WithoutInitialisation(TorchFunctionMode):
    """Skips the random initialisation of new tensors, as a bundle's weights are loaded into them."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        is_initialisation = getattr(func, "__module__", None) == nn.init.__name__
        return given["tensor"] if is_initialisation else func(*args, **given)


def _load_network(path: Path, settings: ModelSettings) -> LesionNetwork:
    with _WithoutInitialisation():
        network = build_network(settings)
    try:
        # Layers with two names are stored once; `load_model` detects which names share a tensor.
        missing, unexpected = load_model(network, str(path), strict=False)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: damaged or not a safetensors file ({error})") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BundleError(f"{path}: {reason}; expected the tensors of the network in {SETTINGS_FILE}") from error
    for odd in sorted({*missing, *unexpected}):
        found = "missing" if odd in missing else "unknown"
        raise BundleError(f"{path}: tensor {odd} is {found}; expected the tensors of the network in {SETTINGS_FILE}")
    _check_finite(network.state_dict(), path)
    return network.eval()
