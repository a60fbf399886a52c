"""Writes a model of lesion types of random weights, and a liver as large as a case's follow-up scan.

`python -m test.container.types_bundle FOLDER CASE_INPUT ORGANS`
"""

import sys
from pathlib import Path

import numpy as np
import torch

from longilesion.case import LesionMap
from longilesion.diagnosis.bundle import save_diagnosis_bundle
from longilesion.grand_challenge import read_case
from longilesion.images import write_lesion_map
from longilesion.networks.lesion_queries import LesionQueries
from test.unit.diagnosis_builders import diagnosis_settings, query_settings


def write_types_bundle(folder: Path) -> None:
    """Writes the bundle, whose windows are large, so that few cover a scan."""
    torch.manual_seed(0)
    network = query_settings(queries=0)
    settings = diagnosis_settings(network=network, shape_zyx=(16, 32, 32), spacing_zyx_mm=(8.0, 8.0, 8.0))
    save_diagnosis_bundle(folder, settings, LesionQueries(settings), provenance={"data": "none"})


def write_liver(case: Path, organs: Path) -> None:
    """Writes a mask of all voxels of the primary follow-up scan."""
    scans, files = read_case(case)
    grid = scans.followups["primary"].grid
    organs.mkdir(parents=True, exist_ok=True)
    liver = LesionMap(ids=np.ones(grid.shape_zyx, np.uint16), grid=grid)
    write_lesion_map(organs / "liver.mha", liver, like=files["primary"])


if __name__ == "__main__":
    write_types_bundle(Path(sys.argv[1]))
    write_liver(Path(sys.argv[2]), Path(sys.argv[3]))
