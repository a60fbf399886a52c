"""LiFE-Net: what it sees of the prior, and where its skips are."""

from dataclasses import replace

import pytest
import torch

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.network_settings import JointEncoderSettings
from longilesion.networks import build_network
from longilesion.networks.interface import NetworkInput
from longilesion.networks.joint_encoder import JointEncoder
from test.unit.builders import model_settings, random_input

ORGANS = EncodingSettings(
    followup_channels=("image", "organ_mask"), baseline_channels=("image", "lesion_mask", "organ_mask")
)


def settings_of(**changes: object) -> ModelSettings:
    small = {"features_per_stage": (4, 8), "strides": ((2, 2, 2), (1, 1, 1)), "joint_features_per_stage": (8,)}
    network = JointEncoderSettings(**{**small, "joint_strides": ((2, 2, 2),), **changes})
    return model_settings(encoding=ORGANS, network=network)


def lifenet(settings: ModelSettings) -> JointEncoder:
    torch.manual_seed(0)
    network = build_network(settings)
    assert isinstance(network, JointEncoder)
    return network


def gradient_of_the_prior(network: JointEncoder, batch: NetworkInput) -> torch.Tensor:
    """Of what is said of each lesion, by its prior's maps."""
    baseline = batch.baseline.clone().requires_grad_()
    logits = network(replace(batch, baseline=baseline)).lesion_logits
    sum(level.square().sum() for level in logits).backward()
    assert baseline.grad is not None
    return baseline.grad.abs().flatten(1).amax(1)


@pytest.mark.parametrize("training", [True, False])
def test_masked_lifenet_is_independent_of_the_prior(training: bool) -> None:
    settings = settings_of()
    network, batch = lifenet(settings).train(training), random_input(settings, 3)
    masked = replace(batch, has_baseline=torch.tensor([True, False, True]))
    gradient = gradient_of_the_prior(network, masked)
    assert gradient[1] == 0
    assert bool((gradient[[0, 2]] > 0).all())


def test_masked_prior_is_that_of_lifenet_with_zero_features() -> None:
    settings = settings_of()
    network, batch = lifenet(settings).eval(), random_input(settings)
    with torch.no_grad():
        masked = network(batch.without_baseline()).lesion_logits[0]
        network.prior.forward = lambda maps: [torch.zeros_like(level) for level in network.current(batch.followup)]
        zero = network(batch).lesion_logits[0]
    assert torch.equal(masked, zero)


def test_published_size_has_the_levels_and_the_skips_of_equation_3() -> None:
    settings = model_settings(encoding=ORGANS, network=JointEncoderSettings(), shape_zyx=(32, 32, 32))
    with torch.device("meta"):
        network = lifenet(settings)
    for encoder, channels in ((network.prior, 3), (network.current, 2)):
        convolutions = [part for part in encoder.modules() if isinstance(part, torch.nn.Conv3d)]
        assert [part.in_channels for part in convolutions] == [channels, 8, 8, 16, 16, 32]
        assert [part.stride for part in convolutions] == [(2, 2, 2), (1, 1, 1)] * 3
    assert network.attention.out.in_features == 64
    joint = [part for part in network.joint.modules() if isinstance(part, torch.nn.Conv3d)]
    assert [(part.in_channels, part.out_channels) for part in joint] == [(64, 128), (128, 128), (128, 256), (256, 256)]
    inputs = [block.convs[0].conv.in_channels for block in network.decoder.blocks]
    # Full size and an eighth have no skip; half and a quarter those of both encoders, a sixteenth the joint one's.
    assert inputs == [8, 16 + 2 * 8, 32 + 2 * 16, 64, 128 + 128]


def test_baseline_without_channels_is_an_error() -> None:
    settings = settings_of().model_copy(update={"encoding": EncodingSettings(baseline_channels=())})
    with pytest.raises(ValueError, match="baseline_channels is empty"):
        lifenet(settings)
