"""nnU-Net v2 training folders: plans and a dataset as it writes them, checkpoints of networks of fresh weights."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from torch import nn

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.network_settings import DualEncoderSettings, EarlyFusionSettings
from test.unit.builders import dual_encoder, model_settings

FEATURES, KERNELS, STRIDES = (4, 6, 8), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2))
SHAPE, SPACING, DEVIATION_HU = (8, 16, 16), (2.0, 1.0, 1.0), 70.0
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def network_settings(encoder: str = "plain", **changes: object) -> DualEncoderSettings:
    """Ours, of the same stages."""
    shared = {"features_per_stage": FEATURES, "kernel_sizes": KERNELS, "strides": STRIDES}
    return dual_encoder(encoder=encoder, **{**shared, "baseline_reconstruction": False, **changes})


def settings_of(
    encoder: str = "plain", *, encoding: EncodingSettings | None = None, **changes: object
) -> ModelSettings:
    return model_settings(
        shape_zyx=SHAPE, spacing_zyx_mm=SPACING, network=network_settings(encoder, **changes), encoding=encoding
    )


def early_fusion_settings_of(encoder: str = "plain", *, encoding: EncodingSettings | None = None) -> ModelSettings:
    """The same U-Net, which sees both time points at once."""
    network = EarlyFusionSettings(unet=network_settings(encoder).unet, presence_features=4)
    return model_settings(shape_zyx=SHAPE, spacing_zyx_mm=SPACING, network=network, encoding=encoding)


def plans_of(encoder: str = "plain", **changes: object) -> dict[str, Any]:
    """Plans of a three-stage network for one CT channel; `changes` are those of the configuration."""
    kind, blocks = (
        ("PlainConvUNet", "n_conv_per_stage") if encoder == "plain" else ("ResidualEncoderUNet", "n_blocks_per_stage")
    )
    resampling = {
        f"resampling_fn_{what}{suffix}": value
        for what in ("data", "seg", "probabilities")
        for suffix, value in (("", "resample_data_or_seg_to_shape"), ("_kwargs", {}))
    }
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": FEATURES,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": KERNELS,
            "strides": STRIDES,
            blocks: [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": SHAPE,
        "median_image_size_in_voxels": SHAPE,
        "spacing": SPACING,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        "architecture": architecture,
        **resampling,
    }
    return {
        "dataset_name": "Dataset001_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": SPACING,
        "original_median_shape_after_transp": SHAPE,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": {**configuration, **changes}},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": DEVIATION_HU, "percentile_00_5": -100.0, "percentile_99_5": 200.0}
        },
    }


def nnunet_of(plans: dict[str, Any], *, heads: int = 2, channels: int = 1) -> nn.Module:
    """The network that plans describe, none of whose weights is 0 or 1."""
    described = plans["configurations"]["3d_fullres"]["architecture"]
    arguments = dict(described["arch_kwargs"])
    for name in described["_kw_requires_import"]:
        arguments[name] = arguments[name] and locate(arguments[name])
    network = locate(described["network_class_name"])(
        input_channels=channels, num_classes=heads, deep_supervision=True, **arguments
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def write_folder(folder: Path, plans: dict[str, Any], *checkpoints: str, **content: object) -> Path:
    """A training folder with the same checkpoint under each of the names; `content` changes what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    for name in checkpoints:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        state = {"init_args": {"configuration": "3d_fullres", "plans": plans}, **content}
        if "network_weights" not in state:
            state["network_weights"] = nnunet_of(plans).state_dict()
        torch.save(state, path)
    return folder
