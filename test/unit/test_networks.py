from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.network_settings import DualEncoderSettings
from longilesion.networks import build_network
from longilesion.networks.dual_encoder import DualEncoder
from longilesion.networks.fusion import FUSIONS, Fusion, PointwiseFusion, TimePointFeatures
from longilesion.networks.interface import NetworkInput
from longilesion.networks.presence import LocalPresence
from longilesion.networks.unet import Decoder, Encoder, depth_to_space, space_to_depth
from test.unit.builders import dual_encoder, model_settings, random_input, unet
from training.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
CLICKED = EncodingSettings(
    clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
    followup_channels=("image", "click_heatmap"),
    baseline_channels=("image", "lesion_mask", "click_heatmap"),
)


def network_of(settings: ModelSettings, *, seed: int = 0) -> DualEncoder:
    torch.manual_seed(seed)
    network = build_network(settings)
    assert isinstance(network, DualEncoder)
    return network


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2), (2, 2, 4)])
def test_space_to_depth_and_back_is_the_identity(factor: tuple[int, int, int]) -> None:
    image = torch.rand(2, 3, 4, 6, 8)
    folded = space_to_depth(image, factor)
    z, y, x = factor
    assert folded.shape == (2, 3 * z * y * x, 4 // z, 6 // y, 8 // x)
    assert torch.equal(depth_to_space(folded, factor), image)


def test_space_to_depth_gathers_the_voxels_of_one_block() -> None:
    image = torch.arange(4 * 4 * 4.0).reshape(1, 1, 4, 4, 4)
    folded = space_to_depth(image, (2, 2, 2))
    assert torch.equal(folded[0, :, 1, 0, 1], image[0, 0, 2:4, 0:2, 2:4].flatten())


@pytest.mark.parametrize("stem", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_training_gives_every_resolution_and_inference_the_finest(encoder: str, stem: tuple[int, int, int]) -> None:
    network = dual_encoder(features_per_stage=(4, 8, 8), encoder=encoder, stem_zyx=stem)
    settings = model_settings(shape_zyx=(16, 16, 16), encoding=CLICKED, network=network)
    longinet, batch = network_of(settings), random_input(settings)
    output = longinet.train()(batch)
    assert [tuple(level.shape) for level in output.lesion_logits] == [(2, 1, 16, 16, 16), (2, 1, 8, 8, 8)]
    assert output.baseline_logits is not None
    assert [level.shape for level in output.baseline_logits] == [level.shape for level in output.lesion_logits]
    with torch.inference_mode():
        output = longinet.eval()(batch)
    assert [tuple(level.shape) for level in output.lesion_logits] == [(2, 1, 16, 16, 16)]
    assert output.presence_logit.shape == (2,)
    assert output.baseline_logits is None


def lesion_evidence(decoder: Decoder, share: float) -> float:
    """The logit inside a lesion that fills `share` of the VOI, above the one outside, from features 1 and 0."""
    finest = torch.zeros(1, 4, 8, 8, 8)
    finest[..., : round(8 * share)] = 1
    with torch.inference_mode():
        _, logits = decoder([finest, torch.zeros(1, 8, 4, 4, 4)], all_resolutions=False)
    inside, outside = logits[0][0, 0, 3:5, 3:5, 0], logits[0][0, 0, 3:5, 3:5, -1]
    return float((inside - outside).mean())


@pytest.mark.parametrize("norm", [False, True])
def test_large_lesion_is_as_evident_as_a_small_one_only_without_a_norm(norm: bool) -> None:
    torch.manual_seed(0)
    settings = unet(kernel_sizes=((1, 1, 1), (1, 1, 1)))
    decoder = Decoder(Encoder(1, settings), settings.decoder_convolutions, norm=norm)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("weight"):
                # Every channel says "lesion", none the opposite.
                parameter.abs_()
    small, large = lesion_evidence(decoder, 1 / 8), lesion_evidence(decoder, 1 / 2)
    assert small > 0
    if norm:
        assert large < 0.6 * small
    else:
        assert large == pytest.approx(small)


class FollowupAlone(Fusion):
    """Passes on the follow-up's features."""

    def __init__(self, features_per_stage: Sequence[int]) -> None:
        super().__init__()

    def forward(self, followup: Sequence[Tensor], priors: Iterable[TimePointFeatures]) -> list[Tensor]:
        return list(followup)

    def followup_alone(self) -> dict[str, Tensor]:
        return {}


def test_fusion_is_the_one_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(FUSIONS) == get_args(DualEncoderSettings.model_fields["fusion"].annotation)
    assert isinstance(network_of(model_settings()).fusion, PointwiseFusion)
    monkeypatch.setattr("longilesion.networks.dual_encoder.FUSIONS", {"followup_alone": FollowupAlone})
    chosen = dual_encoder().model_copy(update={"fusion": "followup_alone"})
    settings = model_settings(network=chosen)
    network, batch = network_of(settings).eval(), random_input(settings)
    assert isinstance(network.fusion, FollowupAlone)
    with torch.inference_mode():
        outlines = [network(given).lesion_logits[0] for given in (batch, batch.changed_baseline(torch.zeros_like))]
    assert torch.equal(*outlines)


def test_reconstruction_is_a_part_of_the_loss_only_where_there_is_a_mask_to_give_back() -> None:
    unmasked = EncodingSettings(baseline_channels=("image",))
    parts = [network_of(settings).loss_parts for settings in (model_settings(), model_settings(encoding=unmasked))]
    assert parts == [("outline", "presence", "reconstruction"), ("outline", "presence")]


@pytest.mark.parametrize("prior", [True, False], ids=["with a prior mask", "without one"])
def test_parts_of_a_batch_are_what_it_is_joined_of(prior: bool) -> None:
    settings = model_settings(encoding=EncodingSettings() if prior else EncodingSettings(baseline_channels=("image",)))
    batch = random_input(settings, 5)
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert (batch.prior_mask is not None) is prior
    joined = NetworkInput.joined(parts)
    assert joined.tensors().keys() == batch.tensors().keys()
    for name, tensor in batch.tensors().items():
        assert torch.equal(joined.tensors()[name], tensor), name
        assert torch.equal(batch[1:3].tensors()[name], tensor[1:3]), name


def test_batch_is_mirrored_and_moved_with_all_its_maps() -> None:
    batch = random_input(model_settings())
    turned = batch.mirrored([2, 4])
    for name, tensor in batch.tensors().items():
        expected = tensor if name == "has_baseline" else tensor.flip(2, 4)
        assert torch.equal(turned.tensors()[name], expected), name
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
    assert moved.tensors().keys() == batch.tensors().keys()


def test_network_without_reconstruction_gives_none() -> None:
    settings = model_settings(network=dual_encoder(baseline_reconstruction=False))
    assert network_of(settings).train()(random_input(settings)).baseline_logits is None


def test_both_time_points_pass_one_encoder() -> None:
    settings = model_settings(encoding=EncodingSettings(baseline_channels=("image",)))
    network, batch = network_of(settings).eval(), random_input(settings)
    assert [name for name, part in network.named_modules() if isinstance(part, Encoder)] == ["encoder"]
    seen = []
    network.fusion.forward = lambda followup, priors: seen.extend([followup, *priors]) or followup
    with torch.inference_mode():
        network(replace(batch, baseline=batch.followup))
    followup, baseline = seen
    for now, before in zip(followup, baseline.levels, strict=True):
        torch.testing.assert_close(now, before)


def test_absent_baseline_has_no_influence_on_the_outline() -> None:
    settings = model_settings()
    network, batch = network_of(settings).eval(), random_input(settings)
    absent = torch.zeros(2, dtype=torch.bool)
    with torch.inference_mode():
        zeros = network(replace(batch, baseline=0 * batch.baseline, has_baseline=absent))
        noise = network(replace(batch, has_baseline=absent))
        known = network(batch)
    torch.testing.assert_close(zeros.lesion_logits[0], noise.lesion_logits[0])
    assert not torch.allclose(zeros.lesion_logits[0], known.lesion_logits[0])


def test_absent_baseline_of_one_lesion_leaves_the_next_one_alone() -> None:
    settings = model_settings()
    network, batch = network_of(settings).eval(), random_input(settings)
    only_second = torch.tensor([0.0, 1.0])[:, None, None, None, None]
    mixed = replace(batch.changed_baseline(lambda maps: maps * only_second), has_baseline=torch.tensor([False, True]))
    with torch.inference_mode():
        known, beside = network(batch), network(mixed)
    torch.testing.assert_close(known.lesion_logits[0][1], beside.lesion_logits[0][1])
    torch.testing.assert_close(known.presence_logit[1], beside.presence_logit[1])
    assert not torch.allclose(known.presence_logit[0], beside.presence_logit[0])


def test_longinet_as_published_sees_image_and_mask_before_and_the_image_after() -> None:
    encoding = read_recipe(RECIPES / "longinet.toml").model.encoding
    assert encoding.clip_hu == ((-1000.0, 400.0),)
    assert encoding.baseline_channels == ("image", "lesion_mask")
    assert encoding.followup_channels == ("image",)


def test_presence_teaches_nothing_to_the_outline() -> None:
    settings = model_settings()
    network = network_of(settings).train()
    network(random_input(settings)).presence_logit.sum().backward()
    outline = network.decoder.unet.seg_layers[-1]
    assert all(parameter.grad is None for parameter in outline.parameters())
    assert all(parameter.grad is not None for parameter in network.presence.parameters())


def test_presence_is_defined_without_a_mask_or_any_probability() -> None:
    torch.manual_seed(0)
    head = LocalPresence(3, image_channels=2, hidden=4)
    nothing = torch.zeros(2, 1, 8, 8, 8)
    logit = head(head.describe([torch.rand(2, 3, 8, 8, 8)], [torch.rand(2, 2, 8, 8, 8)], nothing, nothing - 200))
    assert logit.shape == (2,)
    assert bool(logit.isfinite().all())


def test_presence_looks_where_the_lesion_was() -> None:
    torch.manual_seed(0)
    head = LocalPresence(1, image_channels=0, hidden=4).eval()
    outline, images = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 0, 8, 8, 8)
    outline[..., 1:3, 1:3, 1:3] = 1
    features = torch.zeros(1, 1, 8, 8, 8)
    near, far = features.clone(), features.clone()
    near[..., 1, 1, 1] = 100
    far[..., 7, 7, 7] = 100
    empty, inside, outside = (
        head(head.describe([maps], [images], outline, 0 * outline - 200)) for maps in (features, near, far)
    )
    assert (inside - empty).abs() > 0.01
    torch.testing.assert_close(outside, empty, atol=1e-3, rtol=0)


def test_network_without_a_mask_channel_still_judges_presence() -> None:
    encoding = EncodingSettings(baseline_channels=("image",))
    settings = model_settings(encoding=encoding)
    network = network_of(settings).eval()
    assert random_input(settings).prior_mask is None
    with torch.inference_mode():
        assert bool(network(random_input(settings)).presence_logit.isfinite().all())


def test_encoder_sees_each_streams_channels_in_their_place_and_zeros_elsewhere() -> None:
    settings = model_settings(encoding=CLICKED)
    network, batch = network_of(settings).eval(), random_input(settings)
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(batch)
    # Two windows, the mask, the click.
    assert batch.followup.shape[1] == 3
    assert batch.baseline.shape[1] == 4
    followup, baseline = seen[0].split(2)
    assert torch.equal(followup[:, [0, 1, 3]], batch.followup)
    assert not followup[:, 2].any()
    assert torch.equal(baseline, batch.baseline)
