"""A training run that takes a moment: a tiny network, and the same four synthetic pairs over and over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

import training.dataset
import training.run_folder
import training.run_log
import training.train
import training.training_data
import training.validation
from test.unit.synthetic import block, pair
from training.learner import LesionLearner, Progress
from training.train import Arguments

MODEL = """
[model.voi]
shape_zyx = [8, 16, 16]
spacing_zyx_mm = [6.0, 3.0, 3.0]
growth_limit = 0

[model.alignment]
template_radius_mm = 10.0
search_radius_mm = 5.0

[model.encoding]

[model.network]
kind = "dual_encoder"
presence_features = 4

[model.network.unet]
features_per_stage = [4, 8]
kernel_sizes = [[3, 3, 3], [3, 3, 3]]
strides = [[1, 1, 1], [2, 2, 2]]
blocks_per_stage = [1, 1]
decoder_convolutions = [1]
"""

RECIPE = """
name = "tiny"
steps = 8
batch_size = 2
average_decay = 0.5
precision = "32-true"

[data]
reuse = 1
drawn_together = 4

[validation]
every = 4
cases = 2

[optimizer]
kind = "{optimizer}"
learning_rate = 1e-3

[augmentation.joint]
probability = 0.5
rotation_deg = 10.0
mirror_axes = ["x"]

"""


def write_recipe(path: Path, *, optimizer: str = "sgd") -> Path:
    path.write_text(RECIPE.format(optimizer=optimizer) + MODEL)
    return path


def arguments(recipe: Path, output: Path, **changes: Any) -> Arguments:
    """A run without worker processes that logs every step."""
    return Arguments(**{"recipe": recipe, "output": output, "workers": 0, "log_every": 1, **changes})


def few_pairs(patch: object) -> None:
    """Replaces what takes time: phantoms and synthesis. `patch` has pytest's `setattr`."""

    def drawn(source: object, generator: np.random.Generator, **_: object) -> object:
        return pair(int(generator.integers(4)))

    patch.setattr(training.dataset, "synthetic_pair", drawn)
    patch.setattr(training.validation, "synthetic_pair", drawn)
    patch.setattr(training.training_data, "phantom_sources", lambda seeds: (block(),))


class Patch:
    """Sets attributes for good, in a process of its own."""

    def setattr(self, owner: object, name: str, value: object) -> None:
        setattr(owner, name, value)


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying_step(learner: LesionLearner, batch: object, done: Progress, *, rate: float) -> None:
    if done.step == 5:
        _dies()
    _STEP(learner, batch, done, rate=rate)


def _dying_save(state: dict, path: Path) -> None:
    if state["progress"]["step"] == 6:
        Path(path).write_bytes(b"half a checkpoint")
        _dies()
    _SAVE(state, path)


def _dying_curve(folder: object) -> None:
    rows = folder.validation.read_text()
    if rows.count("\n") > 2:
        # The last row, of step 8, is torn.
        folder.validation.write_text(rows[:-9])
        _dies()
    _CURVE(folder)


_STEP, _SAVE, _CURVE = LesionLearner.step, training.run_folder.torch.save, training.run_log.draw_curve

DEATHS = {
    "in a step": lambda: setattr(LesionLearner, "step", _dying_step),
    "while it writes a checkpoint": lambda: setattr(training.run_folder.torch, "save", _dying_save),
    "while it writes the log": lambda: setattr(training.run_log, "draw_curve", _dying_curve),
}


def _killed(recipe: Path, output: Path, death: str) -> int | None:
    """The exit code of a run that is killed in a process of its own."""

    def run() -> None:
        few_pairs(Patch())
        DEATHS[death]()
        training.train.train(arguments(recipe, output, checkpoint_every=2))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode


if __name__ == "__main__":
    # Runs that are killed, one by each death in a folder of its name: recipe, folder.
    print(json.dumps({death: _killed(Path(sys.argv[1]), Path(sys.argv[2]) / death, death) for death in DEATHS}))
