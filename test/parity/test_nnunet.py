"""Encoders and decoders against nnU-Net's own networks with the same weights; the fusion against the paper's words."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.network_settings import EarlyFusionSettings, NetworkSettings
from longilesion.networks import build_network
from longilesion.networks.fusion import PointwiseFusion, TimePointFeatures
from longilesion.networks.unet import Decoder, Encoder
from test.unit.builders import dual_encoder, model_settings, random_input, unet

NETWORK = {
    "features_per_stage": (4, 6, 8),
    "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "blocks_per_stage": (2, 1, 2),
    "decoder_convolutions": (1, 2),
}


def nnunet(encoder: str, *, channels: int = 2) -> nn.Module:
    """nnU-Net's network as its plans describe it, for one class, with weights none of which is 0 or 1."""
    kind, blocks = (
        (PlainConvUNet, "n_conv_per_stage") if encoder == "plain" else (ResidualEncoderUNet, "n_blocks_per_stage")
    )
    network = kind(
        input_channels=channels,
        n_stages=3,
        features_per_stage=NETWORK["features_per_stage"],
        conv_op=nn.Conv3d,
        kernel_sizes=NETWORK["kernel_sizes"],
        strides=NETWORK["strides"],
        num_classes=1,
        n_conv_per_stage_decoder=NETWORK["decoder_convolutions"],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **{blocks: NETWORK["blocks_per_stage"]},
    )
    # Fresh norms and biases are ones and zeros, which would hide one that is missing.
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def copy_weights(reference: nn.Module, encoder: Encoder, decoder: Decoder) -> None:
    """Gives both parts the weights of nnU-Net's network."""
    encoder.stages.load_state_dict(reference.encoder.state_dict())
    weights = reference.decoder.state_dict()
    decoder.unet.load_state_dict({name: weights[name] for name in weights if not name.startswith("encoder.")})


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_encoder_and_decoder_are_those_of_nnunet(encoder: str) -> None:
    torch.manual_seed(0)
    reference = nnunet(encoder)
    settings = unet(encoder=encoder, **NETWORK)
    ours = Encoder(2, settings)
    decoder = Decoder(ours, settings.decoder_convolutions)
    copy_weights(reference, ours, decoder)
    image = torch.rand(2, 2, 8, 16, 16)
    with torch.inference_mode():
        expected = reference(image)
        features, logits = decoder(ours(image), all_resolutions=True)
        _, finest = decoder(ours(image), all_resolutions=False)
    assert len(logits) == len(expected) == 2
    for level, wanted in zip(logits, expected, strict=True):
        torch.testing.assert_close(level, wanted)
    assert len(finest) == 1
    torch.testing.assert_close(finest[0], expected[0])
    assert features.shape == (2, 4, 8, 16, 16)


def settings_of(network: NetworkSettings) -> ModelSettings:
    encoding = EncodingSettings(
        followup_channels=("image", "click_heatmap"), baseline_channels=("image", "lesion_mask", "click_heatmap")
    )
    return model_settings(shape_zyx=(8, 16, 16), encoding=encoding, network=network)


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_early_fusion_is_nnunet_of_the_concatenated_channels(encoder: str) -> None:
    torch.manual_seed(0)
    reference = nnunet(encoder, channels=5)
    settings = settings_of(EarlyFusionSettings(unet=unet(encoder=encoder, **NETWORK)))
    network, batch = build_network(settings), random_input(settings)
    copy_weights(reference, network.encoder, network.decoder)
    with torch.inference_mode():
        expected = reference(torch.cat((batch.followup, batch.baseline), dim=1))
        for level, wanted in zip(network(batch).lesion_logits, expected, strict=True):
            torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_difference_weighting_is_nnunets_encoder_twice_equation_2_and_its_decoder(encoder: str) -> None:
    torch.manual_seed(0)
    # Image, mask, click: the follow-up's mask is zero.
    reference = nnunet(encoder, channels=3)
    settings = settings_of(dual_encoder(fusion="difference", encoder=encoder, **NETWORK))
    network, batch = build_network(settings), random_input(settings)
    copy_weights(reference, network.encoder, network.decoder)
    for parameter in network.fusion.parameters():
        nn.init.normal_(parameter, std=0.3)
    norms = iter(network.fusion.norms)
    with torch.inference_mode():
        image, click = batch.followup.split(1, dim=1)
        levels = zip(
            reference.encoder(torch.cat((image, 0 * image, click), dim=1)),
            reference.encoder(batch.baseline),
            norms,
            strict=True,
        )
        weighted = [
            now * nn.functional.instance_norm(now - before, weight=norm.weight, bias=norm.bias) + now
            for now, before, norm in levels
        ]
        expected = reference.decoder(weighted)
        for level, wanted in zip(network(batch).lesion_logits, expected, strict=True):
            torch.testing.assert_close(level, wanted, atol=1e-4, rtol=1e-4)


def test_pointwise_fusion_is_a_1x1x1_convolution_of_both_time_points_features() -> None:
    torch.manual_seed(0)
    fusion = PointwiseFusion((4, 6))
    followup = [torch.rand(2, 4, 4, 4, 4), torch.rand(2, 6, 2, 2, 2)]
    baseline = [torch.rand(2, 4, 4, 4, 4), torch.rand(2, 6, 2, 2, 2)]
    fused = fusion(followup, [TimePointFeatures(levels=baseline, is_there=torch.ones(2, dtype=torch.bool))])
    for level, features in enumerate((4, 6)):
        convolution = nn.Conv3d(2 * features, features, kernel_size=1)
        halves = fusion.followup[level], fusion.baseline[level]
        with torch.no_grad():
            convolution.weight.copy_(torch.cat([half.weight for half in halves], dim=1))
            convolution.bias.copy_(halves[0].bias)
            expected = convolution(torch.cat((followup[level], baseline[level]), dim=1))
        torch.testing.assert_close(fused[level], expected)
