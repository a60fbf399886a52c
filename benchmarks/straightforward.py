"""A straightforward program for the same task: resamples both scans, then lesion by lesion and fold by fold.

It has the same networks, weights, lattice and channels as the library, and uses SimpleITK's fastest method, linear
interpolation on all threads. It does less: no alignment, zoom or views at other zooms, second VOI or components, and
where two lesions overlap the later one is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_model

from longilesion.bundle import MemberEntry, read_manifest
from longilesion.case import AIR_HU
from longilesion.config import VoiSettings
from longilesion.encoding import encode
from longilesion.ensemble import Ensemble
from longilesion.geometry import Grid
from longilesion.networks import build_network
from longilesion.shipped import SOCKETS_FILE
from longilesion.timing import Stopwatch
from longilesion.voi import Voi, VoiPair

_CPU = torch.device("cpu")


def main(arguments: argparse.Namespace) -> None:
    """Segments the primary follow-up scan of a case."""
    watch = Stopwatch("read", "resample", "crop", "load", "network", "paste", "write")
    manifest = read_manifest(arguments.model)
    voi = manifest.members[0].settings.voi
    if any(member.settings.voi != voi for member in manifest.members):
        sys.exit(f"{arguments.model}: members of different lattices; expected one lattice")
    places = {slug: arguments.input / path for slug, path in json.loads(SOCKETS_FILE.read_text())["inputs"].items()}
    with watch("read"):
        baseline, mask, followup = (
            sitk.ReadImage(str(next(places[f"primary-{name}"].iterdir())))
            for name in ("baseline-ct", "baseline-ct-tumor-lesion-seg", "followup-ct")
        )
        clicks = {name: _clicks(places[f"primary-{name}-lesion-clicks"]) for name in ("baseline", "followup")}
    with watch("resample"):
        followup_hu = _resampled(followup, voi, sitk.sitkLinear, AIR_HU)
        baseline_hu = _resampled(baseline, voi, sitk.sitkLinear, AIR_HU)
        baseline_ids = _resampled(mask, voi, sitk.sitkNearestNeighbor, 0)
    labels = np.zeros(followup.GetSize()[::-1], np.uint16)
    for lesion_id, click in clicks["followup"].items():
        with watch("crop"):
            now, start = _cropped(followup_hu, followup, click, voi, AIR_HU)
            before, _ = _cropped(baseline_hu, baseline, clicks["baseline"][lesion_id], voi, AIR_HU)
            ids, _ = _cropped(baseline_ids, baseline, clicks["baseline"][lesion_id], voi, 0)
            lesion = (ids.hu == lesion_id).astype(np.float32)
            others = ((ids.hu != 0) & (ids.hu != lesion_id)).astype(np.float32)
            pair = VoiPair(followup=now, baseline=before, baseline_mask=lesion, baseline_others=others)
        probability, presence = _predicted(pair, arguments.model, manifest.members, watch)
        if presence < manifest.thresholds.presence_threshold:
            continue
        with watch("paste"):
            whole = _pasted(probability, followup_hu, start)
            labels[_on_scan(whole, followup) >= manifest.thresholds.threshold] = lesion_id
    with watch("write"):
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(followup)
        sitk.WriteImage(image, str(arguments.output / "output.mha"), useCompression=True)
    arguments.report.write_text(json.dumps(watch.seconds))


def _clicks(path: Path) -> dict[int, list[float]]:
    return {int(entry["name"]): entry["point"] for entry in json.loads(path.read_text(encoding="utf-8"))["points"]}


def _resampled(image: sitk.Image, voi: VoiSettings, interpolator: int, fill: int) -> sitk.Image:
    """The whole image with the lattice's spacing."""
    spacing = voi.spacing_zyx_mm[::-1]
    size = [round(n * old / new) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    return sitk.Resample(
        image,
        size,
        sitk.Transform(),
        interpolator,
        image.GetOrigin(),
        spacing,
        image.GetDirection(),
        fill,
        image.GetPixelID(),
    )


def _cropped(
    resampled: sitk.Image, original: sitk.Image, click_xyz: list[float], voi: VoiSettings, fill: int
) -> tuple[Voi, np.ndarray]:
    """The lattice around a click, and its first voxel in the resampled image."""
    world = original.TransformContinuousIndexToPhysicalPoint(click_xyz)
    index = np.array(resampled.TransformPhysicalPointToContinuousIndex(world))[::-1]
    shape = np.array(voi.shape_zyx)
    start = np.round(index).astype(int) - shape // 2
    volume = sitk.GetArrayViewFromImage(resampled)
    low, high = np.clip(start, 0, volume.shape), np.clip(start + shape, 0, volume.shape)
    crop = np.full(voi.shape_zyx, fill, np.float32)
    crop[_box(low - start, high - start)] = volume[_box(low, high)]
    z, y, x = (index - start).tolist()
    return Voi(hu=crop, grid=Grid.from_spacing(voi.shape_zyx, voi.spacing_zyx_mm), click_zyx=(z, y, x)), start


def _predicted(
    pair: VoiPair, model: Path, members: Sequence[MemberEntry], watch: Stopwatch
) -> tuple[np.ndarray, float]:
    """Mean over the networks, each loaded for the lesion."""
    results, weights = [], []
    for member in members:
        with watch("crop"):
            batch = encode([pair], member.settings.encoding)
        for name in member.networks:
            with watch("load"):
                network = build_network(member.settings)
                load_model(network, str(model / name))
                fold = Ensemble.of(member.settings, [network.eval()], device=_CPU, precision=torch.float32)
            with watch("network"):
                results.append(fold.predict(batch))
            weights.append(member.weight / len(member.networks))
    probability = np.average([found.outline[0].numpy() for found in results], axis=0, weights=weights)
    return probability, float(np.average([float(found.presence) for found in results], weights=weights))


def _pasted(probability: np.ndarray, resampled: sitk.Image, start: np.ndarray) -> sitk.Image:
    """The probability in an otherwise empty volume of the resampled image's size."""
    whole = np.zeros(resampled.GetSize()[::-1], np.float32)
    low, high = np.clip(start, 0, whole.shape), np.clip(start + probability.shape, 0, whole.shape)
    whole[_box(low, high)] = probability[_box(low - start, high - start)]
    image = sitk.GetImageFromArray(whole)
    image.CopyInformation(resampled)
    return image


def _on_scan(probability: sitk.Image, scan: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.Resample(probability, scan, sitk.Transform(), sitk.sitkLinear, 0.0))


def _box(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(begin, end) for begin, end in zip(low.tolist(), high.tolist(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Segments a case the usual way.")
    for name in ("--input", "--output", "--model", "--report"):
        parser.add_argument(name, type=Path, required=True)
    main(parser.parse_args())
