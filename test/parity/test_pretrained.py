"""What nnU-Net's own trainer has learned, in our network: the same features, and the same outlines to begin with."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.networks import build_network
from longilesion.networks.interface import NetworkInput
from test.unit.nnunet_folders import DEVIATION_HU, FEATURES, SHAPE, early_fusion_settings_of, settings_of
from training.nnunet import read_nnunet
from training.pretrained import initialise

LOW, HIGH = -1000.0, 400.0
ENCODING = EncodingSettings(
    clip_hu=((LOW, HIGH),),
    followup_channels=("image", "click_heatmap"),
    baseline_channels=("image", "lesion_mask", "click_heatmap"),
)


@dataclass(frozen=True)
class Said:
    """What a trained nnU-Net says of an image."""

    folder: Path
    image: torch.Tensor
    features: list[torch.Tensor]
    logits: list[torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of nnU-Net's results."""
    folder = tmp_path_factory.mktemp("nnunet")
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    subprocess.run(
        [sys.executable, "-m", "test.parity.tiny_nnunet", str(folder)],
        env={**os.environ, **places, "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )
    return folder / "results" / "Dataset001_Tiny"


@pytest.fixture(params=["plain", "residual"])
def said(trained: Path, request: pytest.FixtureRequest) -> Said:
    folder = trained / f"nnUNetTrainer__{request.param}__3d_fullres"
    return Said(folder=folder, **torch.load(folder / "said.pt", weights_only=True))


def settings_for(said: Said, kind: str = "pointwise") -> ModelSettings:
    encoder = said.folder.name.split("__")[1]
    if kind == "early fusion":
        return early_fusion_settings_of(encoder, encoding=ENCODING)
    return settings_of(encoder, encoding=ENCODING, fusion=kind)


def shown(said: Said) -> NetworkInput:
    """The image that nnU-Net has seen, from 0 to 1 over our window, among channels it knows nothing of."""
    generator = torch.Generator().manual_seed(2)
    size = len(said.image)
    followup, baseline = (torch.rand((size, channels, *SHAPE), generator=generator) for channels in (2, 3))
    followup[:, :1] = said.image * DEVIATION_HU / (HIGH - LOW)
    return NetworkInput(
        followup=followup,
        baseline=baseline,
        has_baseline=torch.ones(size, dtype=torch.bool),
        prior_mask=baseline[:, 1:2],
    )


def test_checkpoint_of_nnunet_is_read_without_trusting_its_pickle(said: Said) -> None:
    weights = read_nnunet(said.folder)
    assert weights.checkpoint == said.folder / "fold_0" / "checkpoint_final.pth"
    assert weights.configuration == "3d_fullres"
    assert weights.features_per_stage == FEATURES
    assert weights.deviation_hu == DEVIATION_HU
    assert not any(".all_modules." in name or name.startswith("decoder.encoder.") for name in weights.tensors)


def test_encoder_gives_nnunets_features_of_the_same_image(said: Said) -> None:
    settings = settings_for(said)
    network = build_network(settings).eval()
    initialise(network, read_nnunet(said.folder), settings)
    seen = []
    network.encoder.register_forward_hook(lambda *passed: seen.append(passed[-1]))
    with torch.inference_mode():
        network(shown(said))
    (features,) = seen
    assert len(features) == len(said.features) == 3
    for level, expected in zip(features, said.features, strict=True):
        torch.testing.assert_close(level[: len(expected)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pointwise", "difference", "iterative", "early fusion"])
def test_network_begins_with_nnunets_outline_of_the_followup(said: Said, kind: str) -> None:
    settings = settings_for(said, kind)
    network = build_network(settings)
    report = initialise(network, read_nnunet(said.folder), settings)
    assert report.count("unused") == 0
    with torch.no_grad():
        # Iterative fusion normalises features as soon as there is a prior.
        batch = shown(said).without_baseline() if kind == "iterative" else shown(said)
        logits = network(batch).lesion_logits
    assert len(logits) == len(said.logits) == 2
    for level, classes in zip(logits, said.logits, strict=True):
        torch.testing.assert_close(level, classes[:, 1:] - classes[:, :1], atol=1e-4, rtol=1e-4)
