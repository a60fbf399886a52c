"""The mask decoder: attention and its regions written out, the order of the scales, positions."""

from math import cos, exp, pi, sin, sqrt

import pytest
import torch
from torch import Tensor

from longilesion.networks.mask_decoder import Attention, DecoderLayer, MaskDecoder, attended, sine_positions
from test.unit.lesion_queries import lesion_queries_settings


def attention_written_out(
    attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, region: Tensor
) -> Tensor:
    """Sample by sample, query by query, head by head, over the voxels of the region."""
    asked, offered, told = attention.query(queries), attention.key(keys), attention.value(values)
    gathered = torch.zeros_like(queries)
    width = queries.shape[2] // attention.heads
    for sample in range(len(queries)):
        for query in range(queries.shape[1]):
            for head in range(attention.heads):
                part = slice(head * width, (head + 1) * width)
                weights = {
                    voxel: exp(float(asked[sample, query, part] @ offered[sample, voxel, part]) / sqrt(width))
                    for voxel in range(keys.shape[1])
                    if region[sample, query, voxel]
                }
                for voxel, weight in weights.items():
                    gathered[sample, query, part] += weight / sum(weights.values()) * told[sample, voxel, part]
    return attention.out(gathered)


def test_masked_attention_is_the_loop_over_the_region() -> None:
    torch.manual_seed(0)
    attention = Attention(8, heads=2)
    queries, keys, values = torch.randn(2, 3, 8), torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    masks = torch.randn(2, 3, 2, 2, 3)
    masks[0, 1] = -1.0
    region = masks.flatten(2) > 0
    region[0, 1] = True
    with torch.inference_mode():
        found = attention(queries, keys, values, region=attended(masks))
        assert torch.allclose(found, attention_written_out(attention, queries, keys, values, region), atol=1e-5)
        everywhere = attention(queries, keys, values)
        assert torch.allclose(
            everywhere, attention_written_out(attention, queries, keys, values, torch.ones_like(region)), atol=1e-5
        )
    assert torch.allclose(found[0, 1], everywhere[0, 1])
    assert not torch.allclose(found[0, 0], everywhere[0, 0], atol=1e-3)


def test_layer_attends_to_the_image_then_to_the_queries_then_feeds_forward() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(8, heads=2, hidden=6)
    image, among, forward = layer.norms
    queries, positions, keys, values = (torch.randn(2, n, 8) for n in (3, 3, 12, 12))
    region = torch.rand(2, 3, 12) > 0.5
    with torch.inference_mode():
        first = image(queries + layer.to_image(queries + positions[0], keys, values, region=region))
        second = among(first + layer.to_queries(first + positions[0], first + positions[0], first))
        third = forward(second + layer.feedforward(second))
        assert torch.equal(layer(queries, positions[0], keys=keys, values=values, region=region), third)


def decoder_of(**changes: object) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(lesion_queries_settings(**changes), classes=3, scales=2)


def scales_and_pixels() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    coarse, fine, pixels = (torch.randn((2, 12, *(size,) * 3), generator=generator) for size in (2, 4, 8))
    return [coarse, fine], pixels


def recorded(
    decoder: MaskDecoder, scales: list[Tensor], pixels: Tensor
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The states before and after each layer, and what each layer was shown of the image."""
    shown: list[dict[str, Tensor]] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, given, named: shown.append(named), with_kwargs=True)
    return decoder(scales, pixels), shown


def test_layers_attend_where_the_mask_before_them_is_above_one_half() -> None:
    decoder, (scales, pixels) = decoder_of(decoder_layers=4, queries=6), scales_and_pixels()
    states, shown = recorded(decoder, scales, pixels)
    for number, (state, named) in enumerate(zip(states[:-1], shown, strict=True)):
        scale, region = scales[number % 2], named["region"]
        logits = decoder.mask_logits(state, pixels)
        averaged = torch.nn.functional.avg_pool3d(logits, pixels.shape[2] // scale.shape[2]).flatten(2)
        expected = averaged.sigmoid() > 0.5
        for sample, query in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
            if not expected[sample, query].any():
                expected[sample, query] = True
        assert torch.equal(region, expected)
        assert not region.all()


def test_query_with_an_empty_mask_attends_everywhere() -> None:
    decoder, (scales, pixels) = decoder_of(), scales_and_pixels()
    with torch.no_grad():
        decoder.mask_head[-1].weight.zero_()
        decoder.mask_head[-1].bias.zero_()
    states, shown = recorded(decoder, scales, pixels)
    assert all(named["region"].all() for named in shown)
    assert all(state.isfinite().all() for state in states)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_layers_go_over_the_scales_in_turn_from_coarse_to_fine(layers: int) -> None:
    decoder, (scales, pixels) = decoder_of(decoder_layers=layers), scales_and_pixels()
    states, shown = recorded(decoder, scales, pixels)
    assert len(states) == layers + 1
    assert [named["region"].shape[2] for named in shown] == [8, 64, 8, 64, 8][:layers]
    for number, named in enumerate(shown):
        scale = scales[number % 2]
        values = scale.flatten(2).mT + decoder.scale_embeddings[number % 2]
        assert torch.equal(named["values"], values)
        assert torch.equal(named["keys"], values + sine_positions(scale))


def test_no_gradient_passes_the_regions() -> None:
    decoder, (scales, pixels) = decoder_of(), scales_and_pixels()
    states, shown = recorded(decoder, scales, pixels.requires_grad_())
    assert not any(named["region"].requires_grad for named in shown)
    sum(state.square().sum() for state in states).backward()
    assert pixels.grad is None
    assert all(parameter.grad is None for parameter in decoder.mask_head.parameters())


def test_positions_are_sines_of_the_voxels_places() -> None:
    positions = sine_positions(torch.zeros(1, 14, 2, 3, 4)).reshape(2, 3, 4, 14)
    z, y, x = 1, 0, 2
    expected = []
    for place in ((z + 0.5) / 2, (y + 0.5) / 3, (x + 0.5) / 4):
        slow = 2 * pi * place / 100.0
        expected += [sin(2 * pi * place), sin(slow), cos(2 * pi * place), cos(slow)]
    torch.testing.assert_close(positions[z, y, x], torch.tensor([*expected, 0.0, 0.0]))
    assert len(positions.reshape(-1, 14).unique(dim=0)) == 24
