"""Bundles of models of lesion types: a manifest with settings and provenance, and one file of weights beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from longilesion.bundle import SETTINGS_FILE, is_bundle
from longilesion.config import Device, Precision
from longilesion.diagnosis_settings import STATEMENT, DiagnosisSettings
from longilesion.ensemble import find_device, find_precision
from longilesion.errors import BundleError
from longilesion.files import valid, written_together
from longilesion.json_file import read_json
from longilesion.networks.lesion_queries import LesionQueries, PhaseInput, QueryOutput, QueryPrediction
from longilesion.shipped import DIAGNOSIS_FOLDER, SHIPPED_MODEL
from longilesion.weight_file import WithoutInitialisation, check_weights, halved_weights, load_weights, write_weights

WEIGHTS_FILE = "network.safetensors"
SCHEMA_VERSION: Final = 1

_EXPECTED = "a bundle of a model of lesion types"

_log = logging.getLogger(__name__)


class DiagnosisManifest(BaseModel):
    """A bundle's `settings.json`; `provenance` records the training data of the weights, and their licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["diagnosis"] = "diagnosis"
    schema_version: Literal[1] = SCHEMA_VERSION
    statement: str = STATEMENT
    settings: DiagnosisSettings
    provenance: dict[str, str]


class _Header(BaseModel):
    """The part that manifests of all kinds and versions share."""

    schema_version: int
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DiagnosisModel:
    """A network of lesion types on its device, ready to predict; `name` is the bundle's name for messages."""

    settings: DiagnosisSettings
    network: nn.Module
    provenance: Mapping[str, str]
    name: str
    device: torch.device
    precision: torch.dtype

    def predict(self, batch: PhaseInput) -> QueryOutput:
        """The network's outputs for a batch of windows, in float32 on the CPU.

        Where outputs in a lower precision are not finite, they are computed again in float32. Raises BundleError where
        they are not finite then either.
        """
        output = self._output(batch, self.precision)
        if not _is_finite(output) and self.precision != torch.float32:
            _log.info("%s: NaN or infinity in %s; the window is predicted again in float32", self.name, self.precision)
            output = self._output(batch, torch.float32)
        if not _is_finite(output):
            raise BundleError(f"{self.name}: gives NaN or infinity, also in float32; expected numbers")
        return output

    def _output(self, batch: PhaseInput, precision: torch.dtype) -> QueryOutput:
        mixed = torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32)
        with torch.inference_mode(), mixed:
            output: QueryOutput = self.network(
                PhaseInput(phases=batch.phases.to(self.device), is_there=batch.is_there.to(self.device))
            )
        return _on_cpu(output)


def save_diagnosis_bundle(
    folder: Path, settings: DiagnosisSettings, network: nn.Module, *, provenance: Mapping[str, str]
) -> None:
    """Writes the manifest and the weights in float16, both or neither.

    Raises InputError where writing fails, and BundleError for weights that are not finite in float16.
    """
    manifest = DiagnosisManifest(settings=settings, provenance=dict(provenance))
    weights = folder / WEIGHTS_FILE
    tensors = halved_weights(network, weights)
    checks = {weights: check_weights, folder / SETTINGS_FILE: valid(DiagnosisManifest)}
    with written_together(checks) as (part, described):
        write_weights(part, tensors)
        described.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_diagnosis_bundle(
    folder: Path | None = None, device: Device = "auto", precision: Precision = "auto"
) -> DiagnosisModel:
    """Reads a bundle, by default the shipped one, and moves its network to a device.

    Raises BundleError for a bundle that is missing, damaged, of another kind or version, or a device that is not
    available.
    """
    folder = usual_bundle() if folder is None else folder
    manifest = _read_manifest(folder)
    with WithoutInitialisation():
        network = LesionQueries(manifest.settings)
    load_weights(network, folder / WEIGHTS_FILE, settings_file=SETTINGS_FILE)
    chosen = find_device(device)
    return DiagnosisModel(
        settings=manifest.settings,
        network=network.to(chosen),
        provenance=manifest.provenance,
        name=str(folder),
        device=chosen,
        precision=find_precision(precision, chosen),
    )


def usual_bundle(model: Path = SHIPPED_MODEL) -> Path:
    """The bundle beside a model's files, or else beside the shipped ones; raises BundleError where there is none."""
    usual = (folder / DIAGNOSIS_FOLDER for folder in (model, SHIPPED_MODEL))
    found = next((folder for folder in usual if is_bundle(folder)), None)
    if found is None:
        shipped = SHIPPED_MODEL / DIAGNOSIS_FOLDER
        raise BundleError(f"{shipped}: no model of lesion types is shipped; expected the folder of {_EXPECTED}")
    return found


def _read_manifest(folder: Path) -> DiagnosisManifest:
    path = folder / SETTINGS_FILE
    read = partial(read_json, path, expected=_EXPECTED, failure=BundleError)
    # First: other kinds and versions have other keys.
    header = read(_Header)
    if header.kind != "diagnosis":
        raise BundleError(f"{folder}: a bundle of a model that outlines lesions; expected {_EXPECTED}")
    if header.schema_version != SCHEMA_VERSION:
        raise BundleError(f"{path}: schema version {header.schema_version}; expected {SCHEMA_VERSION}")
    manifest = read(DiagnosisManifest)
    if not (folder / WEIGHTS_FILE).is_file():
        raise BundleError(f"{folder / WEIGHTS_FILE}: no such file; expected the weights beside {SETTINGS_FILE}")
    return manifest


def _on_cpu(output: QueryOutput) -> QueryOutput:
    layers = tuple(
        QueryPrediction(class_logits=layer.class_logits.float().cpu(), mask_logits=layer.mask_logits.float().cpu())
        for layer in output.layers
    )
    return QueryOutput(semantic_logits=output.semantic_logits.float().cpu(), layers=layers)


def _is_finite(output: QueryOutput) -> bool:
    queries = [logits for layer in output.layers for logits in (layer.class_logits, layer.mask_logits)]
    return all(bool(logits.isfinite().all()) for logits in (output.semantic_logits, *queries))
