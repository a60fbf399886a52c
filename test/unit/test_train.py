import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longilesion.bundle import read_manifest
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from test.unit.builders import random_input
from test.unit.training_runs import DEATHS, arguments, few_pairs, write_recipe
from training.batch import Batch
from training.learner import LesionLearner, Pass, Progress, TrainingError
from training.recipe import read_recipe
from training.run_folder import RunFolder, is_finished, read_summary
from training.run_log import read_log
from training.synthesis.shape_library import LibraryShape, write_shape_library
from training.train import main, train

# What a log holds of the machine and not of the run.
CLOCKS = ("seconds", "waiting")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.toml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a break."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        few_pairs(patch)
        train(arguments(write_recipe(folder / "tiny.toml"), folder / "run"))
    return folder / "run"


@pytest.fixture
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    few_pairs(monkeypatch)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["network"]


def curve(run: Path) -> list[dict[str, float]]:
    rows = read_log(run / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def assert_same_run(one: Path, two: Path) -> None:
    for first, second in zip(curve(one), curve(two), strict=True):
        assert first == pytest.approx(second, rel=1e-5, nan_ok=True)
    for first, second in zip(read_log(one / "validation.csv"), read_log(two / "validation.csv"), strict=True):
        assert first == pytest.approx(second, rel=1e-5, nan_ok=True)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(two)[name], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ the whole run


@pytest.mark.usefixtures("_few_pairs")
def test_run_in_bfloat16_has_the_losses_of_one_in_float32(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.learner.find_precision", lambda *_: torch.bfloat16)
    half = tmp_path / "half.toml"
    half.write_text(recipe.read_text().replace("32-true", "bf16-mixed"))
    curves = []
    for each in (recipe, half):
        train(arguments(each, tmp_path / each.stem, steps=4))
        curves.append([row["loss"] for row in curve(tmp_path / each.stem)])
    assert curves[0] != curves[1]
    assert curves[0] == pytest.approx(curves[1], rel=0.03)


@pytest.mark.usefixtures("_few_pairs")
def test_run_leaves_logs_a_curve_a_summary_and_two_bundles(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    train(arguments(recipe, run))
    assert [row["step"] for row in curve(run)] == list(range(1, 9))
    assert all(np.isfinite(row["loss"]) for row in curve(run))
    assert [row["step"] for row in read_log(run / "validation.csv")] == [4, 8]
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.glob("events.out.tfevents.*"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == summary["planned_steps"] == 8
    assert summary["best_step"] in (4, 8)
    assert "best challenge dice" in capsys.readouterr().out
    assert "validation at step 8: dice" in caplog.text
    for name in ("best", "last"):
        ensemble = load_ensemble(run / name, device="cpu", precision="float32")
        assert ensemble.settings == read_recipe(recipe).model
        outline, presence, _ = ensemble.predict(random_input(ensemble.settings))
        assert bool(outline.isfinite().all())
        assert bool(presence.isfinite().all())
    provenance = read_manifest(run / "last").provenance
    assert provenance["recipe"] == "tiny"
    assert provenance["data"] == "phantoms"
    assert provenance["steps"] == "8 of 8"
    assert provenance["licence"] == "research use only"
    assert "data licence" not in provenance

    # A finished run stays as it is.
    finished = weights(run)
    train(arguments(recipe, run))
    assert all(torch.equal(tensor, finished[name]) for name, tensor in weights(run).items())
    assert len(curve(run)) == 8


@pytest.mark.usefixtures("_few_pairs")
def test_run_with_lesion_shapes_says_so_and_does_not_resume_with_others(recipe: Path, tmp_path: Path) -> None:
    run, shapes = tmp_path / "run", tmp_path / "shapes.npz"
    write_shape_library(shapes, [library_shape(3)], licence="CC BY-NC-SA 4.0")
    train(arguments(recipe, run, steps=2, shapes=shapes))
    provenance = read_manifest(run / "last").provenance
    assert provenance["data"].startswith("phantoms, 1 shapes of shapes.npz ")
    assert provenance["data licence"] == "lesion shapes of shapes.npz: CC BY-NC-SA 4.0"
    write_shape_library(shapes, [library_shape(4)])
    with pytest.raises(InputError, match=r"begun with data = phantoms, 1 shapes of shapes\.npz"):
        train(arguments(recipe, run, steps=2, shapes=shapes))


def library_shape(side: int) -> LibraryShape:
    return LibraryShape.of(np.ones((side, side, side), bool), np.ones(3, np.float32), "mixed")


@pytest.mark.usefixtures("_few_pairs")
def test_run_stopped_after_its_minutes_resumes_to_the_same_end(
    recipe: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    parts = tmp_path / "parts"
    train(arguments(recipe, parts, minutes=0.0))
    assert "stopped at step 1" in caplog.text
    stopped = read_manifest(parts / "last").provenance
    assert (stopped["steps"], stopped["validation"]) == ("1 of 8", "none")
    assert load_ensemble(parts / "last", device="cpu").settings.network == read_recipe(recipe).model.network
    train(arguments(recipe, parts))
    assert "resumed from step 1" in caplog.text
    assert_same_run(whole, parts)


@pytest.mark.usefixtures("_few_pairs")
def test_rate_falls_with_time_where_the_run_has_a_time(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(1000))
    # Every look at the clock takes a second: three of them in every step.
    monkeypatch.setattr("training.loop.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    rates: list[float] = []
    step = LesionLearner.step

    def noted(learner: LesionLearner, batch: Batch, done: Progress, *, rate: float) -> None:
        rates.append(rate)
        step(learner, batch, done, rate=rate)

    monkeypatch.setattr(LesionLearner, "step", noted)
    run = tmp_path / "run"
    done = train(arguments(recipe, run, steps=1000, over_minutes=0.5))
    assert done.seconds >= 30
    assert 3 < done.step < 30
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    assert rates[len(rates) // 2] == pytest.approx(0.5**0.9 * 1e-3, rel=0.35)
    assert rates[-1] < 0.3e-3
    assert read_manifest(run / "last").provenance["steps"] == f"{done.step} in 0.5 minutes"
    assert read_summary(RunFolder(run)).planned_steps == done.step
    assert is_finished(RunFolder(run))
    with pytest.raises(InputError, match=r"begun with over_minutes = 0\.5, now None"):
        train(arguments(recipe, run, steps=1000))
    # Stopped before its time is over, it is not finished.
    train(arguments(recipe, tmp_path / "stopped", steps=1000, over_minutes=0.5, minutes=0.0))
    assert not is_finished(RunFolder(tmp_path / "stopped"))
    with pytest.raises(InputError, match=r"--over-minutes 0: expected more than 0"):
        train(arguments(recipe, tmp_path / "none", over_minutes=0.0))


@pytest.mark.usefixtures("_few_pairs")
def test_run_with_a_pool_learns_from_it(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = recipe.read_text().replace("batch_size = 2", "batch_size = 4").replace("reuse = 1", "reuse = 4\npool = 8")
    recipe.write_text(text)
    sizes: list[int] = []
    step = LesionLearner.step

    def noted(learner: LesionLearner, batch: Batch, done: Progress, *, rate: float) -> None:
        sizes.append(len(batch.input))
        step(learner, batch, done, rate=rate)

    monkeypatch.setattr(LesionLearner, "step", noted)
    train(arguments(recipe, tmp_path / "run"))
    assert sizes == [1, 2, 3, 4, 4, 4, 4, 4]


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """A run that ended by each death, and its exit code; one process imports everything for all of them."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder / "tiny.toml")
    command = [sys.executable, "-m", "test.unit.training_runs", str(recipe), str(folder)]
    ended = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    codes = json.loads(ended.stdout.splitlines()[-1])
    return {death: (folder / death, codes[death]) for death in DEATHS}


@pytest.mark.usefixtures("_few_pairs")
@pytest.mark.parametrize("death", DEATHS)
def test_killed_run_resumes_with_the_same_data_and_the_same_curve(
    recipe: Path, whole: Path, killed_runs: dict[str, tuple[Path, int]], death: str
) -> None:
    killed, code = killed_runs[death]
    assert code == -signal.SIGKILL
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["progress"]["step"] in (4, 6)
    train(arguments(recipe, killed, checkpoint_every=2))
    assert_same_run(whole, killed)
    for name in ("best", "last"):
        assert sorted(path.name for path in (killed / name).iterdir()) == ["fold_0.safetensors", "settings.json"]
    assert not list(killed.glob(".partial-*"))


@pytest.mark.usefixtures("_few_pairs")
def test_run_that_is_asked_to_stop_writes_a_checkpoint_first(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LesionLearner.step

    def interrupted(learner: LesionLearner, batch: object, done: object, *, rate: float) -> None:
        step(learner, batch, done, rate=rate)
        if done.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(LesionLearner, "step", interrupted)
    train(arguments(recipe, tmp_path / "run"))
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["progress"]["step"] == 3
    monkeypatch.setattr(LesionLearner, "step", step)
    train(arguments(recipe, tmp_path / "run"))
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.gpu
@pytest.mark.usefixtures("_few_pairs")
def test_training_begun_on_the_cpu_goes_on_on_a_gpu(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(arguments(recipe, run, minutes=0.0, device="cpu"))
    begun = weights(run)
    train(arguments(recipe, run, device="cuda"))
    assert any(not torch.equal(tensor.cpu(), begun[name]) for name, tensor in weights(run).items())
    load_ensemble(run / "best", device="cpu")


@pytest.mark.usefixtures("_few_pairs")
def test_bundles_hold_the_averaged_weights(recipe: Path, tmp_path: Path) -> None:
    # Steps so long that the averages cannot be mistaken for the last weights.
    write_recipe(recipe, optimizer="adamw")
    recipe.write_text(recipe.read_text().replace("learning_rate = 1e-3", "learning_rate = 0.2"))
    train(arguments(recipe, tmp_path / "run", steps=3))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    (network,) = load_ensemble(tmp_path / "run" / "last", device="cpu", precision="float32").networks
    name = "fusion.followup.0.weight"
    bundled, averaged = network.state_dict()[name], state["average"][f"module.{name}"]
    torch.testing.assert_close(bundled, averaged, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(averaged, state["network"][name], atol=1e-2)


@pytest.mark.usefixtures("_few_pairs")
def test_run_can_begin_with_another_runs_weights(recipe: Path, tmp_path: Path) -> None:
    train(arguments(recipe, tmp_path / "first", steps=2))
    recipe.write_text(recipe.read_text().replace("learning_rate = 1e-3", "learning_rate = 1e-9"))
    last = tmp_path / "first" / "last"
    train(arguments(recipe, tmp_path / "second", steps=1, weights=last))
    (given,) = load_ensemble(last, device="cpu", precision="float32").networks
    for name, tensor in given.state_dict().items():
        torch.testing.assert_close(weights(tmp_path / "second")[name], tensor, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- errors


def times(found: Pass, factor: float) -> Pass:
    return Pass(parts={name: part * factor for name, part in found.parts.items()})


@pytest.mark.usefixtures("_few_pairs")
def test_step_without_numbers_is_skipped_and_counted(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = LesionLearner._losses

    def spoilt(learner: LesionLearner, batch: object) -> Pass:
        found = losses(learner, batch)
        calls.append(1)
        return times(found, float("nan")) if len(calls) == 3 else found

    calls: list[int] = []
    monkeypatch.setattr(LesionLearner, "_losses", spoilt)
    done = train(arguments(recipe, tmp_path / "run"))
    assert done.bad_steps == 1
    assert "step 3: loss nan, its gradients are no numbers; skipped" in caplog.text
    assert [np.isnan(row["loss"]) for row in curve(tmp_path / "run")] == [False, False, True] + [False] * 5
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())


@pytest.mark.usefixtures("_few_pairs")
def test_run_whose_steps_are_all_without_numbers_ends_with_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = LesionLearner._losses
    monkeypatch.setattr("training.learner._BAD_IN_A_ROW", 4)
    monkeypatch.setattr(LesionLearner, "_losses", lambda learner, batch: times(losses(learner, batch), float("inf")))
    with pytest.raises(TrainingError, match="step 4: gradients that are no numbers in 4 steps in a row") as caught:
        train(arguments(recipe, tmp_path / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_few_pairs")
def test_run_of_another_recipe_seed_or_length_is_not_resumed(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(arguments(recipe, run, minutes=0.0))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"begun with seed = 0, now 1; expected the same run, or another --output"):
        train(arguments(recipe, run, seed=1))
    with pytest.raises(InputError, match=r"begun with steps = 8, now 5"):
        train(arguments(recipe, run, steps=5))
    with pytest.raises(InputError, match=r"begun with workers = 0, now 2"):
        train(arguments(recipe, run, workers=2))
    recipe.write_text(recipe.read_text().replace("learning_rate = 1e-3", "learning_rate = 1e-2"))
    with pytest.raises(InputError, match=r"begun with recipe.optimizer.learning_rate = 0.001, now 0.01"):
        train(arguments(recipe, run))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "{tmp}"], "no <volume>/ct.nii.gz; expected a folder with one subfolder per CT volume"),
        (["--data", "{tmp}/none"], "no such folder; expected one with a subfolder per CT volume"),
        (["--fold", "1"], "--fold 1: phantoms have no folds"),
        (["--weights", "{tmp}"], "expected"),
    ],
)
def test_data_or_weights_that_cannot_be_used_are_refused_in_one_line(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    few_pairs(monkeypatch)
    given = [option.format(tmp=tmp_path) for option in options]
    monkeypatch.setattr("sys.argv", ["train", str(recipe), *given, "--output", str(tmp_path / "run")])
    assert main() == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert said.startswith("error: ")
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_checkpoint_of_version_0_2_keeps_its_best_dice() -> None:
    done = Progress.restored({"step": 5, "best_dice": 0.4, "best_step": 4})
    assert (done.step, done.best_score, done.best_step) == (5, 0.4, 4)
