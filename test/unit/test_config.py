import copy
import math

import pytest
from pydantic import ValidationError

from longilesion.config import EncodingSettings, InferenceSettings, ModelSettings, VoiSettings, from_schema_1

SETTINGS = {
    "voi": {"shape_zyx": [16, 32, 32], "spacing_zyx_mm": [2.5, 1.25, 1.25]},
    "encoding": {},
    "network": {
        "kind": "dual_encoder",
        "unet": {
            "stem_zyx": [1, 2, 2],
            "features_per_stage": [4, 8],
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "blocks_per_stage": [1, 1],
            "decoder_convolutions": [1],
        },
    },
}


def changed(**changes):
    settings = copy.deepcopy(SETTINGS)
    for path, value in changes.items():
        *parts, key = path.split("__")
        table = settings
        for part in parts:
            table = table.setdefault(part, {})
        table[key] = value
    return settings


def test_settings_survive_the_way_through_json():
    settings = ModelSettings.model_validate(SETTINGS)
    assert ModelSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    "key",
    ["voi__shape", "encoding__windows", "network__depth", "network__unet__depth", "inference__tta", "training__epochs"],
)
def test_unknown_key_is_refused(key):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ModelSettings.model_validate(changed(**{key: 1}))


def test_settings_cannot_be_changed():
    settings = ModelSettings.model_validate(SETTINGS)
    with pytest.raises(ValidationError, match="frozen"):
        settings.voi.zoom_max = 9.0


@pytest.mark.parametrize("key", ["kernel_sizes", "strides", "blocks_per_stage"])
def test_stages_described_by_lists_of_different_length_are_refused(key):
    shorter = SETTINGS["network"]["unet"][key][:1]
    with pytest.raises(ValidationError, match="differ in length"):
        ModelSettings.model_validate(changed(**{f"network__unet__{key}": shorter}))


def test_decoder_has_one_stage_less_than_the_encoder():
    with pytest.raises(ValidationError, match="decoder_convolutions has 2 entries, expected 1"):
        ModelSettings.model_validate(changed(network__unet__decoder_convolutions=[1, 1]))


@pytest.mark.parametrize(("shape", "axis"), [([17, 32, 32], "z"), ([16, 30, 32], "y"), ([16, 32, 34], "x")])
def test_lattice_that_the_network_cannot_halve_is_refused(shape, axis):
    with pytest.raises(ValidationError, match=f"along {axis} is not a multiple"):
        ModelSettings.model_validate(changed(voi__shape_zyx=shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape_zyx": (4, 32, 32)},
        {"spacing_zyx_mm": (2.5, 0.0, 1.25)},
        {"spacing_zyx_mm": (2.5, 1.25)},
        {"zoom_min": 4.0},
        {"zoom_max": -1.0},
        {"lesion_fraction": 1.5},
        {"growth_limit": -1},
    ],
)
def test_impossible_lattice_is_refused(wrong):
    with pytest.raises(ValidationError):
        VoiSettings(**{"shape_zyx": (16, 32, 32), "spacing_zyx_mm": (2.5, 1.25, 1.25), **wrong})


@pytest.mark.parametrize("windows", [(), ((100.0, 100.0),), ((-1000.0, 400.0), (240.0, -160.0))])
def test_empty_or_reversed_windows_are_refused(windows):
    with pytest.raises(ValidationError, match="window"):
        EncodingSettings(clip_hu=windows)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"presence_threshold": 1.1},
        {"mirror_axes": ["w"]},
        {"mirror_axes": ["x", "x"]},
        {"zoom_factors": []},
        {"zoom_factors": [1.0, 1.0]},
        {"zoom_factors": [1.0, 0.0]},
        {"zoom_factors": [math.inf]},
    ],
)
def test_impossible_decisions_are_refused(wrong):
    with pytest.raises(ValidationError):
        InferenceSettings(**wrong)


def test_channels_of_a_stream_stand_in_one_order_however_they_are_named():
    encoding = EncodingSettings(
        clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
        followup_channels=("click_heatmap", "image"),
        baseline_channels=("click_heatmap", "lesion_mask", "image", "lesion_mask"),
    )
    assert encoding.followup_channels == ("image", "click_heatmap")
    assert encoding.baseline_channels == ("image", "lesion_mask", "click_heatmap")
    assert encoding.width(encoding.followup_channels) == 3
    assert encoding.width(encoding.baseline_channels) == 4


def test_followup_without_a_channel_is_refused():
    with pytest.raises(ValidationError, match="followup_channels"):
        EncodingSettings(followup_channels=())


@pytest.mark.parametrize("network", [{}, {"kind": "transformer"}, {"kind": ["dual_encoder"]}])
def test_network_of_no_known_kind_is_refused(network):
    with pytest.raises(ValidationError, match=r"network\n.*kind is .*; expected one of dual_encoder"):
        ModelSettings.model_validate(changed() | {"network": network})


def test_error_in_a_networks_settings_names_its_place():
    with pytest.raises(ValidationError) as caught:
        ModelSettings.model_validate(changed(network__unet__stem_zyx=[1, 2]))
    assert caught.value.errors()[0]["loc"] == ("network", "unet", "stem_zyx", 2)


def test_network_settings_of_version_0_1_are_told_where_they_belong():
    flat = SETTINGS["network"]["unet"] | {"kind": "dual_encoder"}
    with pytest.raises(ValidationError, match=r"stem_zyx stands beside kind; expected it in the table unet"):
        ModelSettings.model_validate(changed() | {"network": flat})


def test_settings_of_schema_1_are_those_of_schema_2_with_the_unet_apart():
    network = SETTINGS["network"]
    flat = {"kind": "dual_encoder", "fusion": "pointwise", "presence_features": 16, **network["unet"]}
    before = changed() | {"network": flat}
    now = changed(network__presence_features=16)
    assert ModelSettings.model_validate(from_schema_1(before)) == ModelSettings.model_validate(now)
