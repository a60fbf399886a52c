"""Tiny models of lesion types, and phases that are registered already, for tests of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.exam import RegisteredPhases
from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.geometry import Grid
from longilesion.network_settings import EncoderSettings, LesionQueriesSettings
from longilesion.networks.lesion_queries import PhaseInput, QueryOutput
from longilesion.sliding import Region

SPACING = (2.0, 2.0, 2.0)


def query_settings(**changes: object) -> LesionQueriesSettings:
    """The smallest network with queries."""
    encoder = EncoderSettings(
        features_per_stage=(4, 8),
        kernel_sizes=((3, 3, 3),) * 2,
        strides=((1, 1, 1), (2, 2, 2)),
        blocks_per_stage=(1, 1),
    )
    return LesionQueriesSettings(
        **{
            "phase_features": 4,
            "encoder": encoder,
            "pyramid_features": 8,
            "queries": 3,
            "decoder_layers": 1,
            "attention_heads": 2,
            "feedforward_features": 8,
            "embedding_features": 4,
            **changes,
        }
    )


def diagnosis_settings(*, network: LesionQueriesSettings | None = None, **changes: object) -> DiagnosisSettings:
    """A model of windows of 8 voxels of 2 mm, which sees HU from 0 to 100."""
    return DiagnosisSettings(
        **{
            "shape_zyx": (8, 8, 8),
            "spacing_zyx_mm": SPACING,
            "clip_hu": ((0.0, 100.0),),
            "network": network or query_settings(),
            **changes,
        }
    )


class StubNetwork(nn.Module):
    """Answers by a function of the input."""

    def __init__(self, answer: Callable[[PhaseInput], QueryOutput]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: PhaseInput) -> QueryOutput:
        return self.answer(inputs)


def model_of(settings: DiagnosisSettings, network: nn.Module | Callable[[PhaseInput], QueryOutput]) -> DiagnosisModel:
    return DiagnosisModel(
        settings=settings,
        network=network if isinstance(network, nn.Module) else StubNetwork(network),
        provenance={},
        name="stub",
        device=torch.device("cpu"),
        precision=torch.float32,
    )


def phases_of(hu: Sequence[np.ndarray | None], liver: np.ndarray | None = None) -> RegisteredPhases:
    """Phases on a lattice of 2 mm; all of it is liver where no mask is given."""
    shape = next(volume.shape for volume in hu if volume is not None)
    mask = np.ones(shape, np.bool_) if liver is None else liver
    return RegisteredPhases(
        hu=np.stack([np.zeros(shape, np.float32) if volume is None else volume.astype(np.float32) for volume in hu]),
        is_there=np.array([volume is not None for volume in hu]),
        region=Region(mask=mask, grid=Grid.from_spacing(shape, SPACING)),
    )
