"""Model bundles, and the batched mean probability of their networks on a CPU or a GPU."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longilesion.config import Device, ModelSettings, Precision
from longilesion.encoding import NetworkInput
from longilesion.errors import BundleError, first_error
from longilesion.files import written_together
from longilesion.networks import build_network

SCHEMA_VERSION = 1
SETTINGS_FILE = "settings.json"

_AXES = {"z": 2, "y": 3, "x": 4}
_BATCH_SIZE = {"cpu": 2, "cuda": 8}
# On a CPU, a lattice from this size goes alone: as fast as two at once, in little more than half the memory.
_LARGE_LATTICE_VOXELS = 2**19

# A safetensors file begins with the length of its header.
_HEADER_SIZE = struct.Struct("<Q")

_log = logging.getLogger(__name__)


class BundleManifest(BaseModel):
    """A bundle's `settings.json`; `provenance` says what the weights were trained on, and their licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    settings: ModelSettings
    provenance: dict[str, str]


class _Version(BaseModel):
    """What can be read of a manifest of any version."""

    schema_version: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """Networks of one bundle, on their device, ready to predict."""

    settings: ModelSettings
    networks: tuple[nn.Module, ...]
    device: torch.device
    precision: torch.dtype

    def predict(self, batch: NetworkInput) -> tuple[Float[Tensor, "batch z y x"], Float[Tensor, " batch"]]:
        """Mean outline probability and mean presence over networks and mirrored views, as float32 on the CPU.

        Where a GPU runs out of memory the batch is halved until it fits.
        """
        try:
            return self._predict(batch)
        except torch.OutOfMemoryError:
            size = len(batch.followup)
            if size == 1:
                raise
        # Not in the handler: the error's traceback holds on to the tensors of the attempt.
        half = (size + 1) // 2
        torch.cuda.empty_cache()
        _log.warning("the GPU ran out of memory with a batch of %d lesions; trying %d", size, half)
        parts = [self.predict(part) for part in _split(batch, half)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @property
    def batch_size(self) -> int:
        """Number of lesions to predict at once."""
        if self.device.type == "cpu" and math.prod(self.settings.voi.shape_zyx) >= _LARGE_LATTICE_VOXELS:
            return 1
        return _BATCH_SIZE[self.device.type]

    def _predict(self, batch: NetworkInput) -> tuple[Float[Tensor, "batch z y x"], Float[Tensor, " batch"]]:
        views = mirrored_views(self.settings)
        on_device = batch.to(self.device)
        outline = torch.zeros((len(batch.followup), *batch.followup.shape[2:]), device=self.device)
        presence = torch.zeros(len(batch.followup), device=self.device)
        mixed = torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)
        with torch.inference_mode(), mixed:
            for view in views:
                seen = mirrored(on_device, view)
                for network in self.networks:
                    output = network(seen)
                    outline += output.lesion_logits[0].float().sigmoid().flip(view)[:, 0]
                    presence += output.presence_logit.float().sigmoid()
        count = len(views) * len(self.networks)
        return (outline / count).cpu(), (presence / count).cpu()


def save_bundle(
    directory: Path, settings: ModelSettings, networks: Sequence[nn.Module], *, provenance: dict[str, str]
) -> None:
    """Writes `settings.json` and one float16 `fold_k.safetensors` per network, all or none.

    Raises InputError where it cannot write.
    """
    manifest = BundleManifest(schema_version=SCHEMA_VERSION, settings=settings, provenance=provenance)
    folds = [directory / f"fold_{fold}.safetensors" for fold in range(len(networks))]
    with written_together([*folds, directory / SETTINGS_FILE]) as (*parts, described):
        for network, part in zip(networks, parts, strict=True):
            halved = build_network(settings)
            halved.load_state_dict(network.state_dict())
            save_model(halved.half(), str(part))
            _order_header(part)
            # safetensors lets only the owner read; a container runs as somebody else.
            part.chmod(0o644)
        described.write_text(manifest.model_dump_json(indent=2) + "\n")
    for stale in set(directory.glob("fold_*.safetensors")) - set(folds):
        stale.unlink()


def _order_header(path: Path) -> None:
    """Sorts the names in a safetensors file's header, whose order otherwise is another one each time it is saved."""
    content = path.read_bytes()
    start = _HEADER_SIZE.size + _HEADER_SIZE.unpack_from(content)[0]
    header = json.loads(content[_HEADER_SIZE.size : start])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors have to begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    path.write_bytes(_HEADER_SIZE.pack(len(text)) + text + content[start:])


def is_bundle(directory: Path) -> bool:
    """Whether a directory looks like a bundle."""
    return (directory / SETTINGS_FILE).is_file()


def load_ensemble(directory: Path, *, device: Device = "auto", precision: Precision = "auto") -> Ensemble:
    """Reads a bundle once and puts its networks on a device.

    Raises BundleError for a bundle that is missing, damaged, or of another version, or a device that is not there.
    """
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
        settings=manifest.settings, networks=networks, device=chosen, precision=find_precision(precision, chosen)
    )


def read_manifest(directory: Path) -> BundleManifest:
    """Reads and checks `settings.json`; raises BundleError."""
    path = directory / SETTINGS_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); expected a model bundle there") from error
    try:
        # The version first: another one may hold keys that are unknown here.
        version = _Version.model_validate_json(text).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(f"{path}: schema version {version}; expected {SCHEMA_VERSION}")
        return BundleManifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path}: {first_error(error)}; expected the settings of a model bundle") from error


class _WithoutInitialisation(TorchFunctionMode):
    """Draws no numbers for new tensors, as those of a bundle are read into them right after."""

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


def _load_network(path: Path, settings: ModelSettings) -> nn.Module:
    with _WithoutInitialisation():
        network = build_network(settings)
    try:
        # Layers that bear two names are stored once; `load_model` knows which belong together.
        missing, unexpected = load_model(network, str(path), strict=False)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: damaged or not a safetensors file ({error})") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BundleError(f"{path}: {reason}; expected the tensors of the network in {SETTINGS_FILE}") from error
    for odd in sorted({*missing, *unexpected}):
        found = "missing" if odd in missing else "unknown"
        raise BundleError(f"{path}: tensor {odd} is {found}; expected the tensors of the network in {SETTINGS_FILE}")
    return network.eval()


def find_device(device: Device) -> torch.device:
    """The device of that name; raises BundleError for one that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BundleError("--device cuda: no CUDA device is available; expected one, or --device cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def find_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision of that name; by itself, the fastest that the device multiplies in without loss of range."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _has_cpu_bfloat16() else torch.float32


def _has_cpu_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere it is slower than float32."""
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
    """A batch mirrored along those axes, as the networks want it."""
    return NetworkInput(
        followup=_packed(batch.followup.flip(view)),
        baseline=_packed(batch.baseline.flip(view)),
        has_baseline=batch.has_baseline,
    )


def _split(batch: NetworkInput, size: int) -> list[NetworkInput]:
    return [
        NetworkInput(followup=followup, baseline=baseline, has_baseline=known)
        for followup, baseline, known in zip(
            batch.followup.split(size), batch.baseline.split(size), batch.has_baseline.split(size), strict=True
        )
    ]


def _packed(stream: Tensor) -> Tensor:
    """Channels last on a CPU, whose bfloat16 convolutions want it."""
    return stream.contiguous(memory_format=torch.channels_last_3d) if stream.device.type == "cpu" else stream
