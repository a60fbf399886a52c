"""Augmentation of encoded samples: rotation, scaling, mirroring, intensity; transforms of batchgeneratorsv2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from jaxtyping import Float32, Float64
from torch import Tensor
from torch.nn.functional import affine_grid

from longilesion.config import Channel, EncodingSettings
from longilesion.geometry import ZYX, Triple
from longilesion.networks.interface import NetworkInput
from training.batch import Batch
from training.recipe import AugmentationSettings, IntensityAugmentation, SpatialAugmentation

# A change that is applied to all maps of a sample.
Change: TypeAlias = Callable[[Float32[Tensor, "batch c z y x"]], Float32[Tensor, "batch c z y x"]]

# Kinds of random changes of a sample; each has its own stream of random numbers. Time points before the baseline follow
# it, the latest first.
_JOINT, _SEPARATE, _ALIKE, _FOLLOWUP, _BASELINE = range(5)


def augmented(
    batch: Batch,
    settings: AugmentationSettings,
    encoding: EncodingSettings,
    *,
    spacing_zyx_mm: Triple,
    seeds: Sequence[int],
) -> Batch:
    """The batch with every sample augmented by its own seed, independently of the rest of the batch.

    Rotation and scaling are about the lattice's centre, in millimetres; of `spacing_zyx_mm` only the ratios matter.
    Voxels rotated in from outside the lattice are 0: air without lesion or, with z-scores, the mean as in nnU-Net. An
    absent baseline stays zero.
    """
    if not _changes_anything(settings):
        return batch
    samples, targets = zip(
        *(
            _augmented_sample(
                batch.input[place : place + 1],
                batch.target[place : place + 1],
                settings=settings,
                encoding=encoding,
                spacing_zyx_mm=spacing_zyx_mm,
                seed=seed,
            )
            for place, seed in zip(range(len(batch.input)), seeds, strict=True)
        ),
        strict=True,
    )
    return replace(batch, input=NetworkInput.joined(samples), target=torch.cat(targets))


def _changes_anything(settings: AugmentationSettings) -> bool:
    moves = (settings.joint, settings.separate)
    varies = (settings.joint_intensity, settings.intensity)
    return any(spatial.probability or spatial.mirror_axes for spatial in moves) or any(
        intensity.probability for intensity in varies
    )


def _augmented_sample(
    sample: NetworkInput,
    target: Float32[Tensor, "1 1 z y x"],
    *,
    settings: AugmentationSettings,
    encoding: EncodingSettings,
    spacing_zyx_mm: Triple,
    seed: int,
) -> tuple[NetworkInput, Tensor]:
    """One augmented sample and its target; the zeros of absent time points stay unchanged."""
    z, y, x = target.shape[2:]
    with seeded(seed, _JOINT):
        turn = drawn_turn(settings.joint, (z, y, x), spacing_zyx_mm)
        mirror = drawn_mirror(settings.joint)
    turned = turn(target) > 0.5
    # A lesion that is rotated out of the lattice would still be labelled as present.
    if bool(turned.any()) or not bool(target.any()):
        sample, target = sample.changed(turn), turned.float()
    sample, target = sample.changed(mirror), mirror(target)
    followup = sample.followup
    with seeded(seed, _ALIKE):
        followup = _varied(followup, settings.joint_intensity, encoding, encoding.followup_channels)
    with seeded(seed, _FOLLOWUP):
        followup = _varied(followup, settings.intensity, encoding, encoding.followup_channels)
    sample = replace(sample, followup=followup)
    if not bool(sample.has_baseline):
        return sample, target
    with seeded(seed, _SEPARATE):
        turn = drawn_turn(settings.separate, (z, y, x), spacing_zyx_mm)
        mirror = drawn_mirror(settings.separate)
    sample = sample.changed_baseline(turn).changed_baseline(mirror)
    baseline = _varied_prior(sample.baseline, settings, encoding, seed=seed, drawn=_BASELINE)
    earlier = sample.earlier
    if earlier is not None and sample.has_earlier is not None:
        priors = list(earlier.unbind(1))
        for back, is_there in enumerate(sample.has_earlier[0].flip(0).tolist(), start=1):
            if is_there:
                priors[-back] = _varied_prior(priors[-back], settings, encoding, seed=seed, drawn=_BASELINE + back)
        earlier = torch.stack(priors, dim=1)
    return replace(sample, baseline=baseline, earlier=earlier), target


def _varied_prior(
    stream: Float32[Tensor, "1 c z y x"],
    settings: AugmentationSettings,
    encoding: EncodingSettings,
    *,
    seed: int,
    drawn: int,
) -> Float32[Tensor, "1 c z y x"]:
    """The baseline or an earlier time point with its intensities varied: as all of them are, and by itself."""
    with seeded(seed, _ALIKE):
        stream = _varied(stream, settings.joint_intensity, encoding, encoding.baseline_channels)
    with seeded(seed, drawn):
        return _varied(stream, settings.intensity, encoding, encoding.baseline_channels)


def drawn_turn(settings: SpatialAugmentation, shape_zyx: ZYX, spacing_zyx_mm: Triple) -> Change:
    """A rotation and scaling, drawn once, with linear interpolation; partial volumes stay partial volumes."""
    if float(torch.rand(())) >= settings.probability:
        return _unchanged
    angle, scaling = float(np.deg2rad(settings.rotation_deg)), settings.scaling
    transform = SpatialTransform(
        shape_zyx,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=float(angle > 0),
        rotation=(-angle, angle),
        p_scaling=float(scaling > 0),
        # The transform divides lengths by these.
        scaling=(1 / (1 + scaling), 1 / (1 - scaling)),
    )
    parameters = transform.get_parameters(image=torch.empty((1, *shape_zyx)))
    if parameters["affine"] is None:
        return _unchanged
    parameters["grid"] = _grid_in_mm(parameters["affine"], shape_zyx, spacing_zyx_mm)
    return lambda maps: transform.apply({"image": maps[0]}, **parameters)["image"][None]


def drawn_mirror(settings: SpatialAugmentation) -> Change:
    """A mirroring, drawn once."""
    transform = MirrorTransform(tuple("zyx".index(axis) for axis in settings.mirror_axes))
    parameters = transform.get_parameters()
    return lambda maps: transform.apply({"image": maps[0]}, **parameters)["image"][None]


def _unchanged(maps: Tensor) -> Tensor:
    return maps


def _grid_in_mm(
    affine: Float64[np.ndarray, "3 3"], shape_zyx: tuple[int, ...], spacing_zyx_mm: Triple
) -> Float32[Tensor, "z y x 3"]:
    """Sampling positions for a linear map of offsets from the lattice's centre, in millimetres.

    batchgeneratorsv2 applies the map to voxels, which distorts a ball where voxels are not cubes. Positions are
    fractions of each axis' half length, x first, as in torch.
    """
    half_mm = np.array(shape_zyx) * spacing_zyx_mm / 2
    fractions = affine * half_mm / half_mm[:, None]
    theta = np.column_stack((fractions[::-1, ::-1], np.zeros(3)))
    return affine_grid(torch.from_numpy(theta)[None].float(), [1, 1, *shape_zyx], align_corners=False)[0]


def _varied(
    stream: Float32[Tensor, "1 c z y x"],
    settings: IntensityAugmentation,
    encoding: EncodingSettings,
    channels: Sequence[Channel],
) -> Float32[Tensor, "1 c z y x"]:
    """The stream with its first channels, the images, varied: each HU window separately (LongiNet, section 2.5)."""
    images = encoding.width(channel for channel in channels if channel == "image")
    if not settings.probability or not images:
        return stream
    shown = varied_images(stream[0, :images], settings)
    varied = stream.clone()
    varied[0, :images] = shown.clamp(0, 1) if encoding.z_score is None else shown
    return varied


def varied_images(images: Float32[Tensor, "c z y x"], settings: IntensityAugmentation) -> Float32[Tensor, "c z y x"]:
    """Images with varied intensities, each separately; values may leave their range."""
    # The transforms change their arguments in place.
    shown = ComposeTransforms(_intensity_transforms(settings))(image=images.clone())["image"]
    if settings.shift and float(torch.rand(())) < settings.probability:
        # The library's own transform draws from a Gaussian, which is unbounded.
        shown = shown + settings.shift * (2 * torch.rand(len(images), 1, 1, 1) - 1)
    return torch.as_tensor(shown)


def _intensity_transforms(settings: IntensityAugmentation) -> list[BasicTransform]:
    """The intensity transforms that are switched on, each applied with the setting's probability."""
    transforms: list[BasicTransform] = []
    if settings.noise:
        # Its argument called variance is the standard deviation.
        transforms.append(GaussianNoiseTransform(noise_variance=settings.noise))
    if settings.scale:
        limits = (1 - settings.scale, 1 + settings.scale)
        transforms.append(MultiplicativeBrightnessTransform(limits, synchronize_channels=False))
    if settings.gamma != (1.0, 1.0):
        transforms.append(
            GammaTransform(
                settings.gamma, p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=0
            )
        )
    if settings.blur_voxels is not None:
        transforms.append(GaussianBlurTransform(settings.blur_voxels))
    return [RandomTransform(transform, settings.probability) for transform in transforms]


@contextmanager
def seeded(seed: int, drawn: int) -> Iterator[None]:
    """Seeds torch's and numpy's global generators, which the library uses, and restores them afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    words = np.random.SeedSequence((seed, drawn)).generate_state(2).tolist()
    try:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds every GPU as well.
            torch.default_generator.manual_seed(words[0])
            np.random.seed(words[1])  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
