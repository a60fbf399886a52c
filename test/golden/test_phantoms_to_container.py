"""From phantoms to what the container runs: prepared, trained, exported, unpacked, judged on others than it learnt."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import process
from longilesion.bundle import save_bundle
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.methods import FilesMethod
from longilesion.evaluation.reading import read_exam
from longilesion.evaluation.scoring import score_exam
from longilesion.networks import build_network
from training.optimisation import initialised
from training.preparation.prepared import PreparedCase, read_prepared
from training.recipe import read_recipe

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "training" / "recipes" / "tiny.toml"
UNTRAINED_DICE, TRAINED_DICE = 0.1, 0.6


def run(module: str, *arguments: object) -> None:
    """Runs a command as a person would."""
    command = [sys.executable, "-m", f"training.{module}", *map(str, arguments)]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def mean_dice(model: Path, cases: tuple[PreparedCase, ...], output: Path) -> float:
    """Dice of the lesions that are there, each as process.py outlines it."""
    for case in cases:
        own = output / case.case_id
        given = {"--input": case.folder / "input", "--output": own / "output", "--report": own / "report.json"}
        assert process.main([str(word) for pair in (given | {"--model": model}).items() for word in pair]) == 0
    found = [find_exams(case.folder)[0] for case in cases]
    method = FilesMethod.of(output, found, name=model.name)
    dice = []
    for files in found:
        exam, _ = read_exam(files)
        dice += [lesion.dice for lesion in score_exam(exam, method.predict(files, exam), ScoringSettings()).lesions]
    return float(np.mean([each for each in dice if each is not None]))


@pytest.mark.slow
def test_network_trained_on_phantoms_outlines_the_lesions_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)
    data, trained = tmp_path / "data", tmp_path / "model"
    pairs = ("--cases", 10, "--phantoms", 5, "--no-whole", "--recipe", RECIPE)
    run("prepare", "synthetic", *pairs, "--workers", 2, "--output", data)
    # A quarter of the recipe's steps are enough for this.
    run("train", RECIPE, "--data", data, "--output", tmp_path / "run", "--device", "cpu", "--steps", 100)
    run("export", tmp_path / "run", "--output", trained)
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")

    prepared = read_prepared(data)
    learnt_from, held_out = prepared.split(None)
    assert not {case.patient for case in held_out} & {case.patient for case in learnt_from}
    settings = read_recipe(RECIPE).model
    torch.manual_seed(0)
    save_bundle(tmp_path / "untrained", settings, [initialised(build_network(settings))], provenance={})
    assert mean_dice(tmp_path / "untrained", held_out, tmp_path / "before") < UNTRAINED_DICE
    assert mean_dice(tmp_path / "unpacked", held_out, tmp_path / "after") > TRAINED_DICE
