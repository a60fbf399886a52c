"""Training by two processes is training by one with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longilesion.ensemble import load_ensemble
from test.unit.prepared_data import RECIPE, write_prepared
from test.unit.serving import free_port
from training.run_log import read_log
from training.train import Arguments, train

STEPS = 6
# Sums in another order, in float32; the differences grow from step to step.
TOLERANCE = 1e-4


@pytest.fixture(
    scope="module", params=[0.0, pytest.param(0.05, marks=pytest.mark.slow)], ids=["plain", "sharpness-aware"]
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one process, and one of two."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_prepared(folder / "data").folder
    recipe = folder / "tiny.toml"
    text = RECIPE.replace("batch_size = 2", "batch_size = 4").replace("steps = 2", f"steps = {STEPS}")
    recipe.write_text(f"{text}\n[optimizer]\nsharpness = {request.param}\n")
    train(Arguments(recipe=recipe, output=folder / "one", data=data, workers=0, log_every=1, device="cpu"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    options = ["--output", folder / "two", "--data", data, "--workers=0", "--log-every=1", "--device=cpu"]
    subprocess.run(
        [*command, "-m", "training.train", str(recipe), *map(str, options)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        timeout=120,
    )
    return folder / "one", folder / "two"


def test_two_processes_have_the_losses_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (read_log(run / "metrics.csv") for run in runs)
    assert len(one) == len(two) == STEPS
    for alone, together in zip(one, two, strict=True):
        for part in ("loss", "outline", "presence", "reconstruction", "gradient_norm"):
            assert together[part] == pytest.approx(alone[part], rel=TOLERANCE, nan_ok=True)


def test_two_processes_end_with_the_weights_and_the_validation_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (load_ensemble(run / "last", device="cpu", precision="float32").networks[0] for run in runs)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=2e-3, atol=2e-3)
    first, second = (read_log(run / "validation.csv") for run in runs)
    assert len(first) == 1
    for name, value in first[0].items():
        assert second[0][name] == pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True)


def test_batch_that_cannot_be_shared_among_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longilesion.errors import InputError
    from training.learner import launched
    from training.recipe import read_recipe

    (tmp_path / "tiny.toml").write_text(RECIPE)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match="3 processes for batches of 2; expected a divisor of that"):
        launched(read_recipe(tmp_path / "tiny.toml"), "cpu")
