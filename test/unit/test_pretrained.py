"""What fits of an nnU-Net's weights goes where it belongs, is reported, and no unsafe pickle is loaded."""

import json
import os
from copy import deepcopy
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from longilesion.config import EncodingSettings
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.networks.unet import space_to_depth
from test.unit.nnunet_folders import (
    DATASET,
    DEVIATION_HU,
    FEATURES,
    early_fusion_settings_of,
    nnunet_of,
    plans_of,
    settings_of,
    write_folder,
)
from training.nnunet import read_nnunet
from training.pretrained import Arguments, TransferReport, initialise, show

FINAL = "fold_0/checkpoint_final.pth"
FIRST = "encoder.stages.stages.0.0.convs.0.conv.weight"
WINDOWS = EncodingSettings(
    clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
    followup_channels=("image", "lesion_likelihood", "click_heatmap"),
    baseline_channels=("image", "lesion_likelihood", "lesion_mask", "click_heatmap"),
)


class Malicious:
    """Makes a folder when it is loaded as pickle loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("nnunet") / "trained", plans_of(), FINAL)


def fates(report: TransferReport) -> dict[str, str]:
    return {tensor.ours: tensor.fate for tensor in report.tensors if tensor.ours}


def test_every_tensor_is_accounted_for_once(plain: Path) -> None:
    settings = settings_of(decoder_convolutions=(1, 1), encoding=WINDOWS, baseline_reconstruction=True)
    network = build_network(settings)
    weights = read_nnunet(plain)
    report = initialise(network, weights, settings)
    assert [tensor.ours for tensor in report.tensors if tensor.ours] == [name for name, _ in network.named_parameters()]
    theirs = [tensor.theirs for tensor in report.tensors if tensor.theirs]
    assert sorted(theirs) == sorted(weights.tensors)
    for name, fate in fates(report).items():
        part = name.split(".")[0]
        if part in ("baseline_decoder", "presence"):
            assert fate == "fresh", name
        elif part == "fusion" or name == FIRST or ".seg_layers." in name:
            assert fate == "adapted", name
        else:
            assert fate == "copied", name
    state = network.state_dict()
    for tensor in report.tensors:
        if tensor.fate == "copied":
            assert torch.equal(state[tensor.ours], weights.tensors[tensor.theirs]), tensor.ours


def test_what_stays_fresh_is_as_it_was(plain: Path) -> None:
    settings = settings_of(decoder_norm=False)
    network = build_network(settings)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = initialise(network, read_nnunet(plain), settings)
    kept = {name for name, fate in fates(report).items() if fate == "fresh"}
    # Without norms the decoder is no use, and without a decoder the fusion need not suit it.
    assert {name.split(".")[0] for name in kept} == {"decoder", "fusion", "presence"}
    for name in kept:
        assert torch.equal(network.state_dict()[name], before[name]), name
    assert report.count("unused") == sum(name.startswith("decoder.") for name in read_nnunet(plain).tensors)


def test_two_windows_show_nnunets_image_where_neither_clips(plain: Path) -> None:
    settings = settings_of(encoding=WINDOWS)
    network = build_network(settings)
    weights = read_nnunet(plain)
    initialise(network, weights, settings)
    generator = torch.Generator().manual_seed(0)
    hu = 300 * torch.rand((1, 1, 8, 16, 16), generator=generator) - 100
    image = torch.cat([(hu - low) / (high - low) for low, high in WINDOWS.clip_hu], dim=1)
    others = torch.rand((1, 3, 8, 16, 16), generator=generator)
    ours = network.state_dict()[FIRST]
    seen = torch.nn.functional.conv3d(torch.cat((image, others), dim=1), ours)
    # Both windows' middles are gone: what is left is a constant per kernel, which the norm takes away.
    theirs = weights.tensors["encoder.stages.0.0.convs.0.conv.weight"]
    expected = torch.nn.functional.conv3d((hu - (-1000 - 160) / 2) / DEVIATION_HU, theirs)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


def test_stem_shows_nnunet_the_mean_of_each_block(plain: Path) -> None:
    settings = settings_of(stem_zyx=(1, 2, 2), strides=((1, 1, 1), (1, 1, 1), (2, 1, 1)), encoding=WINDOWS)
    network = build_network(settings)
    weights = read_nnunet(plain)
    report = initialise(network, weights, settings)
    image = torch.zeros(1, 5, 8, 16, 16)
    image[:, :1] = torch.rand((1, 1, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    seen = torch.nn.functional.conv3d(space_to_depth(image, (1, 2, 2)), network.state_dict()[FIRST])
    pooled = torch.nn.functional.avg_pool3d(image[:, :1], (1, 2, 2))
    theirs = weights.tensors["encoder.stages.0.0.convs.0.conv.weight"]
    # Half, as the other window shows nothing.
    expected = torch.nn.functional.conv3d(pooled * 1400 / DEVIATION_HU / 2, theirs)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
    differences = "\n".join(report.differences)
    assert "strides: theirs 1x1x1, 1x2x2, 2x2x2, ours 1x1x1, 1x1x1, 2x1x1" in differences
    assert "spacing in mm of the first stage: theirs 2.0, 1.0, 1.0, ours 2.0, 2.0, 2.0" in differences


def test_other_normalisation_is_taken_as_it_is_and_reported(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, plans_of(normalization_schemes=["ZScoreNormalization"]), FINAL)
    settings = settings_of(encoding=EncodingSettings())
    network = build_network(settings)
    weights = read_nnunet(folder)
    report = initialise(network, weights, settings)
    theirs = weights.tensors["encoder.stages.0.0.convs.0.conv.weight"]
    assert torch.equal(network.state_dict()[FIRST][:, :1], theirs)
    assert not network.state_dict()[FIRST][:, 1:].any()
    assert any("ZScoreNormalization" in difference for difference in report.differences)


@pytest.mark.parametrize(("z_score", "divisor_hu"), [(None, 1400.0), ((40.0, 90.0), 90.0), ("voi", DEVIATION_HU)])
def test_zscores_of_ours_have_the_scale_of_theirs(plain: Path, z_score: object, divisor_hu: float) -> None:
    settings = settings_of(encoding=EncodingSettings(z_score=z_score))
    network = build_network(settings)
    weights = read_nnunet(plain)
    report = initialise(network, weights, settings)
    theirs = weights.tensors["encoder.stages.0.0.convs.0.conv.weight"]
    torch.testing.assert_close(network.state_dict()[FIRST][:, :1], theirs * divisor_hu / DEVIATION_HU)
    # The deviation in each VOI is not known; it is taken as theirs, and said.
    said = any("ours windows of HU as z-scores of each VOI" in difference for difference in report.differences)
    assert said is (z_score == "voi")


@pytest.mark.parametrize("kind", ["pointwise", "early fusion"])
def test_prompts_of_nninteractive_are_not_used_and_ours_begin_at_zero(tmp_path: Path, kind: str) -> None:
    # As it is stored: a folder of nnU-Net's, the image and seven prompts, a label for each of thousands of objects.
    plans = plans_of("residual", normalization_schemes=["ZScoreNormalization"])
    folder = write_folder(tmp_path, plans, FINAL, network_weights=nnunet_of(plans, channels=8).state_dict())
    labels = {"background": 0, **{f"object {number}": number for number in range(1, 3000)}}
    (folder / "dataset.json").write_text(json.dumps({**DATASET, "labels": labels}))
    (folder / "inference_session_class.json").write_text('{"point_radius": 4}')
    of_kind = {"pointwise": settings_of, "early fusion": early_fusion_settings_of}[kind]
    settings = of_kind("residual", encoding=WINDOWS)
    network, weights = build_network(settings), read_nnunet(folder)
    report = initialise(network, weights, settings)
    first = "encoder.stages.stem.convs.0.conv.weight"
    image = weights.tensors["encoder.stem.convs.0.conv.weight"][:, :1]
    ours = network.state_dict()[first]
    assert torch.equal(ours[:, :2], (image / 2).expand_as(ours[:, :2]))
    assert not ours[:, 2:].any()
    (row,) = (tensor for tensor in report.tensors if tensor.ours == first)
    assert row.fate == "adapted"
    assert row.reason.endswith("other channels begin at 0, 7 more of theirs are not used")
    assert "labels: theirs 3000 of them, ours the lesion" in report.differences
    rest = {
        fate for name, fate in fates(report).items() if name != first and name.split(".")[0] in ("encoder", "decoder")
    }
    assert rest == {"copied", "adapted"}


def test_followup_whose_image_is_not_shown_is_refused(plain: Path) -> None:
    encoding = EncodingSettings(followup_channels=("click_heatmap",), baseline_channels=("image",))
    settings = early_fusion_settings_of(encoding=encoding)
    with pytest.raises(InputError, match="its image has no counterpart; expected image in followup_channels"):
        initialise(build_network(settings), read_nnunet(plain), settings)


def test_other_kernels_in_a_stage_leave_that_stage_fresh(plain: Path) -> None:
    settings = settings_of(kernel_sizes=((1, 3, 3), (3, 3, 3), (1, 3, 3)))
    report = initialise(build_network(settings), read_nnunet(plain), settings)
    found = fates(report)
    # An encoder with a fresh stage has nothing to say yet; the fusion is left to learn.
    assert found["fusion.followup.0.weight"] == "fresh"
    changed = "encoder.stages.stages.2.0.convs.0.conv.weight"
    assert found[changed] == "fresh"
    assert found["encoder.stages.stages.1.0.convs.0.conv.weight"] == "copied"
    (row,) = (tensor for tensor in report.tensors if tensor.ours == changed)
    assert row.reason == "theirs is 8, 6, 3, 3, 3, ours 8, 6, 1, 3, 3"
    assert any(line.startswith("kernel sizes: theirs 1x3x3, 3x3x3, 3x3x3") for line in report.differences)


def test_another_number_of_stages_leaves_the_decoder_fresh(plain: Path) -> None:
    settings = settings_of(
        features_per_stage=FEATURES[:2],
        kernel_sizes=((1, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2)),
        blocks_per_stage=(1, 1),
        decoder_convolutions=(1,),
    )
    found = fates(initialise(build_network(settings), read_nnunet(plain), settings))
    assert {fate for name, fate in found.items() if not name.startswith("encoder.")} == {"fresh"}
    assert {fate for name, fate in found.items() if name.startswith("encoder.")} == {"copied", "adapted"}


@pytest.mark.parametrize("change", [{"features_per_stage": (5, 7, 9)}, {"encoder": "residual"}])
def test_nothing_that_fits_is_an_error_that_names_both_networks(plain: Path, change: dict[str, object]) -> None:
    settings = settings_of(**change)
    network = build_network(settings)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=r"0 of 28 tensors fit; theirs is a PlainConvUNet of 4, 6, 8 .* ours has a"):
        initialise(network, read_nnunet(plain), settings)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_one_sigmoid_head_is_the_lesions_logit_already(tmp_path: Path) -> None:
    plans = plans_of()
    folder = write_folder(tmp_path, plans, FINAL, network_weights=nnunet_of(plans, heads=1).state_dict())
    settings = settings_of()
    network, weights = build_network(settings), read_nnunet(folder)
    initialise(network, weights, settings)
    for name in ("weight", "bias"):
        ours = network.state_dict()[f"decoder.unet.seg_layers.1.{name}"]
        assert torch.equal(ours, weights.tensors[f"decoder.seg_layers.1.{name}"])


def test_many_classes_leave_the_last_layers_fresh(tmp_path: Path) -> None:
    plans = plans_of()
    folder = write_folder(tmp_path, plans, FINAL, network_weights=nnunet_of(plans, heads=5).state_dict())
    settings = settings_of()
    found = fates(initialise(build_network(settings), read_nnunet(folder), settings))
    assert {fate for name, fate in found.items() if ".seg_layers." in name} == {"fresh"}
    assert found["decoder.unet.transpconvs.0.weight"] == "copied"
    # A decoder without its last layers does not outline yet; the fusion is left to learn.
    assert found["fusion.followup.0.weight"] == "fresh"


def test_wrappers_prefixes_are_taken_off(tmp_path: Path) -> None:
    plans = plans_of()
    wrapped = {f"module.{name}": tensor for name, tensor in nnunet_of(plans).state_dict().items()}
    weights = read_nnunet(write_folder(tmp_path, plans, FINAL, network_weights=wrapped))
    assert weights.tensors.keys() == read_nnunet(write_folder(tmp_path, plans, FINAL)).tensors.keys()


def test_plans_of_earlier_versions_are_read(tmp_path: Path) -> None:
    # As ULS23's: a residual configuration that inherits from the plain one.
    plans = plans_of()
    full = plans["configurations"]["3d_fullres"]
    del full["architecture"]
    full |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    }
    plans["configurations"]["3d_fullres_resenc"] = {
        "inherits_from": "3d_fullres",
        "UNet_class_name": "ResidualEncoderUNet",
        "n_conv_per_stage_encoder": [1, 3, 4],
        "n_conv_per_stage_decoder": [1, 1],
    }
    folder = write_folder(tmp_path, plans, "fold_all/checkpoint_best.pth", network_weights={"some": torch.zeros(1)})
    weights = read_nnunet(folder, configuration="3d_fullres_resenc")
    assert weights.network_class == "ResidualEncoderUNet"
    assert weights.features_per_stage == (4, 8, 8)
    assert weights.blocks_per_stage == (1, 3, 4)
    assert weights.decoder_convolutions == (1, 1)
    assert weights.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))


def test_checkpoint_is_the_one_asked_for_or_the_likeliest(tmp_path: Path) -> None:
    def name(**wanted: object) -> str:
        return str(read_nnunet(folder, **wanted).checkpoint.relative_to(folder))

    content = {"network_weights": {"some": torch.zeros(1)}}
    folder = write_folder(tmp_path, plans_of(), "fold_10/checkpoint_final.pth", "fold_2/checkpoint_best.pth", **content)
    assert name() == "fold_2/checkpoint_best.pth"
    assert name(checkpoint="final") == "fold_10/checkpoint_final.pth"
    write_folder(folder, plans_of(), "fold_2/checkpoint_final.pth", **content)
    assert name() == "fold_2/checkpoint_final.pth"
    assert name(fold=2, checkpoint="best") == "fold_2/checkpoint_best.pth"
    write_folder(folder, plans_of(), "fold_all/checkpoint_best.pth", **content)
    assert name() == name(fold="all") == "fold_all/checkpoint_best.pth"


def test_pickle_that_would_run_a_program_is_refused_by_name(tmp_path: Path) -> None:
    made = tmp_path / "made"
    folder = write_folder(tmp_path / "trained", plans_of(), FINAL, logging={"losses": [Malicious(made)]})
    with pytest.raises(InputError, match=rf"{FINAL}: its pickle needs \w+\.mkdir, which is never loaded"):
        read_nnunet(folder)
    assert not made.exists()


def test_old_style_pickle_is_refused_as_well(tmp_path: Path) -> None:
    made = tmp_path / "made"
    folder = write_folder(tmp_path / "trained", plans_of(), FINAL)
    torch.save({"network_weights": Malicious(made)}, folder / FINAL, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: its pickle needs \w+\.mkdir, .*; expected tensors"):
        read_nnunet(folder)
    assert not made.exists()


def test_other_classes_than_numbers_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, plans_of(), FINAL, logging={"began": date(2025, 1, 1)})
    with pytest.raises(InputError, match=r"its pickle needs datetime\.date, which is never loaded"):
        read_nnunet(folder)


def test_numbers_of_nnunets_log_are_harmless(tmp_path: Path) -> None:
    log = {"losses": [np.float32(0.5), np.float64(0.25)], "epochs": [np.int64(3)], "best": None}
    assert read_nnunet(write_folder(tmp_path, plans_of(), FINAL, logging=log)).tensors


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_missing_or_damaged_description_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    folder = write_folder(tmp_path, plans_of(), FINAL, network_weights={})
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}: .*; expected nnU-Net's {name}"):
        read_nnunet(folder)


def test_missing_checkpoint_is_named_with_what_is_there(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, plans_of())
    with pytest.raises(InputError, match=r"no checkpoint_final\.pth or checkpoint_best\.pth in any fold; found none"):
        read_nnunet(folder)
    write_folder(tmp_path, plans_of(), FINAL, network_weights={})
    with pytest.raises(InputError, match=rf"no checkpoint_best\.pth in fold_3; found {FINAL}"):
        read_nnunet(folder, fold=3, checkpoint="best")


def test_unknown_configuration_is_named_with_those_there_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, plans_of(), FINAL, network_weights={})
    with pytest.raises(InputError, match=r"no configuration 2d; expected one of 3d_fullres"):
        read_nnunet(folder, configuration="2d")


def test_plans_without_a_network_are_an_error(tmp_path: Path) -> None:
    plans = deepcopy(plans_of())
    del plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
    folder = write_folder(tmp_path, plans, FINAL, network_weights={})
    with pytest.raises(InputError, match=r"'strides'.* is amiss; expected plans and a dataset of nnU-Net v2"):
        read_nnunet(folder)


def test_network_that_sees_other_axes_first_is_refused(tmp_path: Path) -> None:
    plans = {**plans_of(), "transpose_forward": [2, 0, 1]}
    folder = write_folder(tmp_path, plans, FINAL, network_weights={})
    with pytest.raises(InputError, match=r"axes in the order \[2, 0, 1\]; expected z, y, x"):
        read_nnunet(folder)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_checkpoint_is_an_error_of_one_line(tmp_path: Path, content: bytes | None) -> None:
    folder = write_folder(tmp_path, plans_of(), FINAL)
    path = folder / FINAL
    path.write_bytes(path.read_bytes()[:-4000] if content is None else content)
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: .*; expected") as raised:
        read_nnunet(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", [[1], {"weights": 1}, {"network_weights": {"some": 1}}])
def test_checkpoint_of_something_else_is_an_error(tmp_path: Path, state: object) -> None:
    folder = write_folder(tmp_path, plans_of(), FINAL)
    torch.save(state, folder / FINAL)
    with pytest.raises(InputError, match=r"expected a checkpoint of nnU-Net v2"):
        read_nnunet(folder)


def test_report_reads_back_from_json(plain: Path) -> None:
    settings = settings_of()
    report = initialise(build_network(settings), read_nnunet(plain), settings)
    assert TransferReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["checkpoint"] == str(plain / FINAL)


def test_command_shows_what_goes_where(tmp_path: Path, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = settings_of(encoding=WINDOWS, kernel_sizes=((1, 3, 3), (3, 3, 3), (1, 3, 3)))
    unet = model.network.unet
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        name = "tiny"
        steps = 1
        batch_size = 1
        [model.voi]
        shape_zyx = {list(model.voi.shape_zyx)}
        spacing_zyx_mm = {list(model.voi.spacing_zyx_mm)}
        [model.encoding]
        [model.network]
        kind = "dual_encoder"
        [model.network.unet]
        features_per_stage = {list(unet.features_per_stage)}
        kernel_sizes = {[list(sizes) for sizes in unet.kernel_sizes]}
        strides = {[list(sizes) for sizes in unet.strides]}
        blocks_per_stage = [1, 1, 1]
        decoder_convolutions = [1, 1]
        """
    )
    show(Arguments(folder=plain, recipe=recipe))
    printed = capsys.readouterr().out
    for expected in ("copied", "adapted", "fresh", "kernel sizes: theirs"):
        assert expected in printed
