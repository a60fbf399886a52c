"""Candidate libraries for the deformation between two scans, with a common interface.

A candidate is given the baseline scan and the follow-up's intensities resampled by the rigid motion, and returns the
displacement (x, y, z, mm) at the baseline's voxels, or None where it fails. All get the same voxels, intensities and
two threads. Their settings are the best of a few, which comments list, among those that take at most about 20 seconds
for half a metre of a patient, if any does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float32

from benchmarks.runs import peak_bytes
from longilesion.registration.deformable import find_deformation
from longilesion.registration.frames import to_itk
from longilesion.registration.reduction import ReducedScan

THREADS = 2

Field: TypeAlias = Float32[np.ndarray, "z y x 3"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """The starting point of the deformable step for a pair.

    `shown` is the body in the field of view of both scans, `inner` the same without the follow-up scan's ends.
    """

    fixed: ReducedScan
    moved_intensities: Float32[np.ndarray, "z y x"]
    shown: Bool[np.ndarray, "z y x"]
    inner: Bool[np.ndarray, "z y x"]

    @property
    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """The intensities of both scans."""
        return to_itk(self.fixed.intensities, self.fixed), to_itk(self.moved_intensities, self.fixed)

    @property
    def mask(self) -> sitk.Image:
        """The body in both fields of view, with a voxel of air around it in each slice, for its outline."""
        return sitk.BinaryDilate(to_itk(self.shown.astype(np.uint8), self.fixed), (1, 1, 0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """A candidate's answer to each pair, None where it failed, the seconds it took, and its process's peak memory."""

    fields: tuple[Field | None, ...]
    seconds: tuple[float, ...]
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A method for the deformation, and its package."""

    package: str
    find: Callable[[Start], Field | None]


def _greedy(start: Start) -> Field | None:
    return find_deformation(start.fixed, start.moved_intensities, start.inner)


# The optimiser with bounds (LBFGSB) cannot refine the control points. Correlation instead of mutual information has
# larger errors. Fewer samples and shorter line searches do not make it fast enough.
def _sitk_b_spline(start: Start) -> Field:
    fixed, moving = start.images
    coarse_mm = 60.0
    mesh = [max(1, round(count * start.fixed.spacing_mm / coarse_mm)) for count in fixed.GetSize()]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetMetricFixedMask(start.mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=8)
    method.SetShrinkFactorsPerLevel((2, 1))
    method.SetSmoothingSigmasPerLevel((1.0, 0.0))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    spline = sitk.BSplineTransformInitializer(fixed, mesh)
    method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=(1, 2))
    found = method.Execute(fixed, moving)
    field = sitk.TransformToDisplacementField(
        found, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    return sitk.GetArrayFromImage(field)


# Deviations of 1 and 2 voxels, with up to twice the iterations, give about the same.
def _sitk_demons(start: Start) -> Field:
    images = start.images
    halves = [
        sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, start.fixed.spacing_mm), (2, 2, 2)) for image in images
    ]
    method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    method.SetSmoothDisplacementField(True)
    method.SetStandardDeviations(1.5)
    method.SetNumberOfIterations(40)
    coarse = sitk.Resample(method.Execute(*halves), images[0], sitk.Transform(), sitk.sitkLinear)
    method.SetNumberOfIterations(20)
    return sitk.GetArrayFromImage(method.Execute(*images, coarse)).astype(np.float32)


# Without the mask the largest errors are twice as large; normalised correlation diverges in some pairs.
def _elastix(start: Start) -> Field:
    import itk

    fixed, moving, mask = (_to_full_itk(itk, image) for image in (*start.images, start.mask))
    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap("bspline", 3, 24.0)
    settings["Registration"] = ["MultiResolutionRegistration"]
    settings["Metric"] = ["AdvancedMattesMutualInformation"]
    settings["MaximumNumberOfIterations"] = ["150"]
    settings["NumberOfSpatialSamples"] = ["3000"]
    settings["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(settings)
    method = itk.ElastixRegistrationMethod.New(fixed, moving)
    method.SetParameterObject(parameters)
    method.SetFixedMask(mask)
    method.SetNumberOfThreads(THREADS)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    warp = itk.TransformixFilter.New(moving)
    warp.SetTransformParameterObject(method.GetTransformParameterObject())
    warp.SetComputeDeformationField(True)
    warp.UpdateLargestPossibleRegion()
    return np.asarray(itk.array_from_image(warp.GetOutputDeformationField()), np.float32)


def _to_full_itk(itk: ModuleType, image: sitk.Image) -> object:
    other = itk.image_from_array(sitk.GetArrayFromImage(image))
    other.SetSpacing(image.GetSpacing())
    return other


# A search one step wider with 60 iterations, or 30 iterations, gives about the same.
def _convex_adam(start: Start) -> Field:
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(THREADS)
    voxels_zyx = convex_adam_pt(
        torch.from_numpy(start.fixed.intensities),
        torch.from_numpy(start.moved_intensities),
        grid_sp=4,
        disp_hw=4,
        selected_niter=40,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return np.ascontiguousarray(voxels_zyx[..., ::-1] * start.fixed.spacing_mm, np.float32)


# 20 iterations at full resolution take a minute; correlation as its metric, at half resolution, has larger errors.
def _ants_syn(start: Start) -> Field:
    import ants

    fixed, moving, mask = (
        ants.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32).T.copy(), spacing=image.GetSpacing())
        for image in (*start.images, start.mask)
    )
    found = ants.registration(
        fixed,
        moving,
        type_of_transform="SyNOnly",
        initial_transform="Identity",
        mask=mask,
        syn_metric="mattes",
        reg_iterations=(40, 5),
    )
    paths = {Path(path) for path in (*found["fwdtransforms"], *found["invtransforms"])}
    field = sitk.ReadImage(next(path for path in found["fwdtransforms"] if path.endswith("Warp.nii.gz")))
    for path in paths:
        path.unlink(missing_ok=True)
    return sitk.GetArrayFromImage(field).squeeze().astype(np.float32)


CANDIDATES: Mapping[str, Candidate] = {
    "Greedy": Candidate(package="picsl_greedy", find=_greedy),
    "elastix B-spline": Candidate(package="itk-elastix", find=_elastix),
    "SimpleITK B-spline": Candidate(package="SimpleITK", find=_sitk_b_spline),
    "SimpleITK demons": Candidate(package="SimpleITK", find=_sitk_demons),
    "ANTsPy SyN": Candidate(package="antspyx", find=_ants_syn),
    "convexAdam": Candidate(package="convexAdam", find=_convex_adam),
}


def run_candidate(name: str, starts: str, answers: str) -> None:
    """Runs a candidate on pickled starts and writes its answers; meant for a separate process."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    # elastix writes files to the current folder.
    os.chdir(Path(answers).parent)
    find = CANDIDATES[name].find
    pairs: list[Start] = pickle.loads(Path(starts).read_bytes())
    fields = []
    seconds = []
    for number, start in enumerate(pairs):
        begun = time.perf_counter()
        try:
            with contextlib.redirect_stdout(None):
                field = find(start)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            print(f"{name}, pair {number + 1}: {reason[-200:]}", file=sys.stderr)
            field = None
        seconds.append(time.perf_counter() - begun)
        fields.append(field if field is not None and np.isfinite(field).all() else None)
    found = Answers(fields=tuple(fields), seconds=tuple(seconds), peak_bytes=peak_bytes())
    Path(answers).write_bytes(pickle.dumps(found))
