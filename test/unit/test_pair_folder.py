"""Reading of a real pair with landmarks."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.pair_folder import read_pair
from longilesion.errors import InputError


def pair_folder(folder: Path, landmarks: object) -> Path:
    """Two blocks of tissue in air, 20 voxels of 2 mm wide."""
    hu = np.full((20, 20, 20), -1000, np.int16)
    hu[5:15, 5:15, 5:15] = 40
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((2.0, 2.0, 2.0))
    for name in ("baseline", "followup"):
        sitk.WriteImage(image, folder / f"{name}.nii.gz")
    (folder / "landmarks.json").write_text(json.dumps(landmarks))
    return folder


def test_pair_has_its_landmarks_in_order(tmp_path: Path) -> None:
    points = {"baseline_lps_mm": [[10, 12, 14], [20, 8, 9]], "followup_lps_mm": [[11, 12, 13], [1, 2, 3]]}
    pair = read_pair(pair_folder(tmp_path, points))
    np.testing.assert_array_equal(pair.baseline_xyz_mm, points["baseline_lps_mm"])
    np.testing.assert_array_equal(pair.followup_xyz_mm, points["followup_lps_mm"])


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        ({"baseline_lps_mm": [[1, 2, 3]], "followup_lps_mm": []}, "1 points in the baseline, 0 in the follow-up"),
        ({"baseline_lps_mm": [], "followup_lps_mm": []}, "0 points"),
        ({"baseline_lps_mm": [[1, 2]], "followup_lps_mm": [[1, 2, 3]]}, "baseline_lps_mm.0"),
        ({"baseline": []}, "baseline_lps_mm"),
        ({"baseline_lps_mm": [[1, 2, 3]], "followup_lps_mm": [[1, 2, -99]]}, r"followup_lps_mm\[0\].*outside"),
    ],
)
def test_landmarks_that_are_no_pairs_within_the_scans_are_refused(
    tmp_path: Path, landmarks: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_pair(pair_folder(tmp_path, landmarks))


def test_missing_scan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"baseline\.nii\.gz: no such file"):
        read_pair(tmp_path)
