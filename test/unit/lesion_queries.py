"""A small network of lesion queries, and inputs of it."""

from __future__ import annotations

import torch

from longilesion.diagnosis_settings import PHASES, DiagnosisSettings
from longilesion.network_settings import EncoderSettings, LesionQueriesSettings
from longilesion.networks.lesion_queries import LesionQueries, PhaseInput

TYPES = ("hcc", "cyst", "other")


def lesion_queries_settings(**changes: object) -> LesionQueriesSettings:
    """Three stages, of which the coarser two are attended to; `changes` are of these settings or of the encoder's."""
    features = changes.setdefault("features_per_stage", (4, 6, 8))
    stages = len(features)
    encoder = {
        "kernel_sizes": ((3, 3, 3),) * stages,
        "strides": ((1, 1, 1),) + ((2, 2, 2),) * (stages - 1),
        "blocks_per_stage": (1,) * stages,
    }
    encoder |= {name: changes.pop(name) for name in set(changes) & set(EncoderSettings.model_fields)}
    small = {"phase_features": 4, "pyramid_features": 12, "queries": 3, "decoder_layers": 3, "attention_heads": 2}
    small |= {"feedforward_features": 16, "embedding_features": 5}
    return LesionQueriesSettings(**{**small, "encoder": EncoderSettings(**encoder), **changes})


def diagnosis_settings(**changes: object) -> DiagnosisSettings:
    """All phases and three types; `changes` are of these settings or of the network's."""
    own = {name: changes.pop(name) for name in set(changes) & set(DiagnosisSettings.model_fields)}
    usual = {"types": TYPES, "shape_zyx": (8, 8, 8), "spacing_zyx_mm": (3.0, 2.0, 2.0)}
    return DiagnosisSettings(**{**usual, "network": lesion_queries_settings(**changes), **own})


def lesion_queries(settings: DiagnosisSettings) -> LesionQueries:
    """A network of random weights, the same ones each time."""
    torch.manual_seed(0)
    return LesionQueries(settings)


def random_phases(
    *is_there: str, shape_zyx: tuple[int, int, int] = (8, 8, 8), channels: int = 1, seed: int = 0
) -> PhaseInput:
    """Noise in every phase, a sample per word: "NAVD" has all phases, "V" the venous one alone."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.tensor([[phase[0].upper() in word for phase in PHASES] for word in is_there])
    maps = torch.rand((len(is_there), len(PHASES), channels, *shape_zyx), generator=generator)
    return PhaseInput(phases=maps, is_there=known)
