"""Model bundles, and the batched mean probability of their networks on a CPU or a GPU."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longilesion.config import Device, ModelSettings, Precision, from_schema_1
from longilesion.errors import BundleError, first_error
from longilesion.files import valid, written_together
from longilesion.json_file import read_json
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork, NetworkInput
from longilesion.shipped import SHIPPED_MODEL

SCHEMA_VERSION = 2
SETTINGS_FILE = "settings.json"

_AXES = {"z": 2, "y": 3, "x": 4}
_BATCH_SIZE = {"cpu": 2, "cuda": 8}
# On a CPU, lattices from this size are predicted one by one: as fast as two at once, with little over half the memory.
_LARGE_LATTICE_VOXELS = 2**19

_log = logging.getLogger(__name__)


class BundleManifest(BaseModel):
    """A bundle's `settings.json`; `provenance` records the training data of the weights, and their licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    settings: ModelSettings
    provenance: dict[str, str]


class _Version(BaseModel):
    """The part that manifests of all versions share."""

    schema_version: int


class _ManifestOfSchema1(BaseModel):
    """A manifest of schema 1, whose settings are still to be converted to the present schema."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    settings: dict[str, Any]
    provenance: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Mean:
    """Means over networks and views, on their device, and the lesions whose logits were all finite."""

    outline: Float[Tensor, "batch z y x"]
    presence: Float[Tensor, " batch"] | None
    is_finite: Bool[Tensor, " batch"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """Networks of one bundle, on their device, ready to predict; `name` is the bundle's name for messages."""

    settings: ModelSettings
    networks: tuple[LesionNetwork, ...]
    device: torch.device
    precision: torch.dtype
    name: str = "the networks"

    def predict(self, batch: NetworkInput) -> tuple[Float[Tensor, "batch z y x"], Float[Tensor, " batch"] | None]:
        """Mean outline probability and mean presence over networks and mirrored views, as float32 on the CPU.

        The presence is None where the networks do not predict it. Where a GPU runs out of memory, the batch is halved
        until it fits; where outputs in less than float32 are not finite, it is repeated in float32. Raises BundleError
        where they are not finite in float32 either.
        """
        try:
            return self._predict(batch)
        except torch.OutOfMemoryError:
            size = len(batch)
            if size == 1:
                raise
        # Not in the handler: the error's traceback keeps the tensors of the attempt in memory.
        half = (size + 1) // 2
        torch.cuda.empty_cache()
        _log.warning("the GPU ran out of memory with a batch of %d lesions; trying %d", size, half)
        parts = [self.predict(part) for part in batch.split(half)]
        presence = [part[1] for part in parts if part[1] is not None]
        return torch.cat([part[0] for part in parts]), torch.cat(presence) if presence else None

    @property
    def batch_size(self) -> int:
        """Number of lesions to predict at once."""
        if self.device.type == "cpu" and math.prod(self.settings.voi.shape_zyx) >= _LARGE_LATTICE_VOXELS:
            return 1
        return _BATCH_SIZE[self.device.type]

    def _predict(self, batch: NetworkInput) -> tuple[Float[Tensor, "batch z y x"], Float[Tensor, " batch"] | None]:
        mean = self._mean(batch, self.precision)
        if not bool(mean.is_finite.all()) and self.precision != torch.float32:
            _say_repeated(self.name, str(self.precision).removeprefix("torch."))
            mean = self._mean(batch, torch.float32)
        bad = int((~mean.is_finite).sum())
        if bad:
            raise BundleError(
                f"{self.name}: NaN or infinity for {bad} of {len(batch)} lesions, also in float32; expected numbers"
            )
        return mean.outline.cpu(), None if mean.presence is None else mean.presence.cpu()

    def _mean(self, batch: NetworkInput, precision: torch.dtype) -> _Mean:
        views = mirrored_views(self.settings)
        on_device = (batch if self.settings.inference.uses_baseline else batch.without_baseline()).to(self.device)
        size = len(batch)
        outline = torch.zeros((size, *batch.followup.shape[2:]), device=self.device)
        presence = torch.zeros(size, device=self.device)
        is_finite = torch.ones(size, dtype=torch.bool, device=self.device)
        is_judged = True
        mixed = torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32)
        with torch.inference_mode(), mixed:
            for view in views:
                seen = mirrored(on_device, view)
                for network in self.networks:
                    output = network(seen)
                    logits = output.lesion_logits[0].float()
                    outline += logits.sigmoid().flip(view)[:, 0]
                    is_finite &= logits.isfinite().flatten(1).all(1)
                    if output.presence_logit is None:
                        is_judged = False
                        continue
                    logit = output.presence_logit.float()
                    presence += logit.sigmoid()
                    is_finite &= logit.isfinite()
        count = len(views) * len(self.networks)
        return _Mean(outline=outline / count, presence=presence / count if is_judged else None, is_finite=is_finite)


@cache
def _say_repeated(name: str, precision: str) -> None:
    """Warns, once for any number of batches, that lesions are predicted again in float32."""
    _log.warning("%s: gives NaN or infinity in %s; such lesions are predicted again in float32", name, precision)


def save_bundle(
    directory: Path, settings: ModelSettings, networks: Sequence[LesionNetwork], *, provenance: dict[str, str]
) -> None:
    """Writes `settings.json` and one float16 `fold_k.safetensors` per network, all or none.

    Raises InputError where writing fails, and BundleError for weights that are not finite in float16.
    """
    manifest = BundleManifest(schema_version=SCHEMA_VERSION, settings=settings, provenance=provenance)
    folds = [directory / f"fold_{fold}.safetensors" for fold in range(len(networks))]
    checks = {**dict.fromkeys(folds, check_weights), directory / SETTINGS_FILE: valid(BundleManifest)}
    tensors = [_halved(network, fold) for network, fold in zip(networks, folds, strict=True)]
    with written_together(checks) as (*parts, described):
        for halved, part in zip(tensors, parts, strict=True):
            save_file(halved, part)
            # safetensors makes files readable for the owner only; a container runs as another user.
            part.chmod(0o644)
        described.write_text(manifest.model_dump_json(indent=2) + "\n")
    for stale in set(directory.glob("fold_*.safetensors")) - set(folds):
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


def load_ensemble(
    directory: str | Path = SHIPPED_MODEL, *, device: Device = "auto", precision: Precision = "auto"
) -> Ensemble:
    """Loads a bundle, by default the shipped one, and moves its networks to a device.

    Raises BundleError for a bundle that is missing, damaged, or of another version, or a device that is not available.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    folds = sorted(directory.glob("fold_*.safetensors"))
    if not folds:
        raise BundleError(f"{directory}: no fold_*.safetensors beside {SETTINGS_FILE}; expected one file per network")
    chosen = find_device(device)
    networks = tuple(_load_network(path, manifest.settings).to(chosen) for path in folds)
    if chosen.type == "cpu":
        for network in networks:
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return Ensemble(
        settings=manifest.settings,
        networks=networks,
        device=chosen,
        precision=find_precision(precision, chosen),
        name=str(directory),
    )


def read_manifest(directory: Path) -> BundleManifest:
    """Reads and checks `settings.json`, whose settings may be of schema 1; raises BundleError."""
    path = directory / SETTINGS_FILE
    read = partial(read_json, path, expected="a model bundle with its settings", failure=BundleError)
    # The version is checked first: other versions may have unknown keys.
    version = read(_Version).schema_version
    if version == SCHEMA_VERSION:
        return read(BundleManifest)
    if version != 1:
        raise BundleError(f"{path}: schema version {version}; expected 1 or {SCHEMA_VERSION}")
    before = read(_ManifestOfSchema1)
    try:
        return BundleManifest.model_validate(
            {**before.model_dump(), "schema_version": SCHEMA_VERSION, "settings": from_schema_1(before.settings)}
        )
    except ValidationError as error:
        raise BundleError(f"{path}: {first_error(error)}; expected a model bundle with its settings") from error


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


def find_device(device: Device) -> torch.device:
    """The device of that name; raises BundleError for one that is not available."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BundleError("--device cuda: no CUDA device is available; expected one, or --device cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def find_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision of that name; for "auto", the fastest that the device supports.

    On a GPU that is bfloat16, which has float32's range but 8 bits of precision instead of 24, or on older ones
    float16, with 11 bits and a maximum of 65504; on a CPU bfloat16 where it has instructions for it, else float32.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _has_cpu_bfloat16() else torch.float32


def _has_cpu_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is slower than float32."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if os.name == "posix" and flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def mirrored_views(settings: ModelSettings) -> list[list[int]]:
    """The axes that each view of a batch is mirrored along; the first view is the batch itself."""
    views: list[list[int]] = [[]]
    for axis in settings.inference.mirror_axes:
        views.extend([*view, _AXES[axis]] for view in list(views))
    return views


def mirrored(batch: NetworkInput, view: list[int]) -> NetworkInput:
    """A batch mirrored along those axes, with channels last on a CPU, whose bfloat16 convolutions need that."""
    turned = batch.mirrored(view)
    if batch.followup.device.type != "cpu":
        return turned
    return turned.changed(lambda maps: maps.contiguous(memory_format=torch.channels_last_3d))
