import pytest
import torch

from longilesion.config import EncodingSettings
from longilesion.errors import InputError
from longilesion.network_settings import DualEncoderSettings, EarlyFusionSettings
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork
from test.unit.builders import dual_encoder, model_settings, random_input, unet
from training.widening import widen


def built(seed: int = 0, **changes: object) -> LesionNetwork:
    torch.manual_seed(seed)
    network = build_network(model_settings(shape_zyx=(16, 16, 16), network=dual_encoder(**changes)))
    # No weight at a value, such as 0 or 1, that would hide what is not copied.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("reconstruction", [True, False])
@pytest.mark.parametrize("features", [(6, 9, 15), (4, 8, 12), (4, 20, 12)])
def test_wider_network_begins_with_the_same_outlines(
    encoder: str, reconstruction: bool, features: tuple[int, ...]
) -> None:
    changes = {"encoder": encoder, "baseline_reconstruction": reconstruction}
    narrow = built(features_per_stage=(4, 8, 12), **changes)
    wide = built(1, features_per_stage=features, **changes)
    widen(wide, narrow)
    batch = random_input(model_settings(shape_zyx=(16, 16, 16)))
    before, after = narrow.train()(batch), wide.train()(batch)
    parts = [(before.lesion_logits, after.lesion_logits)]
    if reconstruction:
        parts.append((before.baseline_logits, after.baseline_logits))
    for old, new in parts:
        for expected, found in zip(old, new, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_new_features_learn_from_the_first_step() -> None:
    wide = built(1, features_per_stage=(6, 10))
    widen(wide, built(features_per_stage=(4, 8)))
    output = wide.train()(random_input(model_settings(shape_zyx=(16, 16, 16))))
    sum(logits.square().mean() for logits in output.lesion_logits).backward()
    gradients = {name: parameter.grad for name, parameter in wide.named_parameters()}
    # The weights by which the old features see the new ones.
    assert gradients["decoder.unet.seg_layers.0.weight"][:, 4:].abs().min() > 0
    assert gradients["fusion.followup.0.weight"][:4, 4:].abs().max() > 0


def test_presence_of_a_network_that_is_no_wider_is_the_same() -> None:
    narrow, wide = built(), built(1)
    widen(wide, narrow)
    batch = random_input(model_settings(shape_zyx=(16, 16, 16)))
    torch.testing.assert_close(wide.eval()(batch).presence_logit, narrow.eval()(batch).presence_logit)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dual_encoder(features_per_stage=(3, 8)), "expected at least"),
        (dual_encoder(features_per_stage=(6, 8), fusion="iterative"), "expected pointwise fusion"),
        (
            dual_encoder(features_per_stage=(6, 8), blocks_per_stage=(2, 1)),
            "settings that differ in the features alone",
        ),
        (EarlyFusionSettings(unet=unet()), "expected two dual encoders"),
    ],
)
def test_networks_that_differ_in_more_are_refused(
    other: DualEncoderSettings | EarlyFusionSettings, message: str
) -> None:
    network = build_network(model_settings(shape_zyx=(16, 16, 16), network=other))
    with pytest.raises(InputError, match=message):
        widen(network, built())


def test_other_channels_are_refused() -> None:
    encoding = EncodingSettings(clip_hu=((-1000.0, 400.0), (-160.0, 240.0)))
    other = model_settings(shape_zyx=(16, 16, 16), network=dual_encoder(features_per_stage=(6, 8)), encoding=encoding)
    with pytest.raises(InputError, match="settings that differ in the features alone"):
        widen(build_network(other), built())
