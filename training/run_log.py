"""Logs of a run: CSV, TensorBoard, and a plot of the curve."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isnan, nan
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from longilesion.errors import InputError
from longilesion.files import check_picture, check_text, written_together
from training.run_folder import RunFolder

# Of all kinds of runs; a run has some of them.
_LOSSES = ("loss", "outline", "presence", "reconstruction", "mask", "classification", "contrastive", "semantic")
_SCORES = (
    *("dice", "lesion_dice", "present_kept", "gone_recognised"),
    *("mean_average_precision", "exam_auc", "sensitivity_0.2", "sensitivity_0.5"),
    *("auc_8", "auc_2", "precision", "sensitivity", "accuracy"),
)


class RunLog:
    """The logs of a run, in the one process that writes them."""

    def __init__(self, folder: RunFolder, *, step: int) -> None:
        """Continues from a step: later rows, of a run killed after its last checkpoint, are removed.

        This and all methods raise InputError where a log cannot be written.
        """
        self._folder = folder
        with _writing(folder):
            folder.path.mkdir(parents=True, exist_ok=True)
            for path in (folder.metrics, folder.validation):
                _drop_later(path, step)
            self._board = SummaryWriter(str(folder.path), purge_step=step + 1 if step else None)

    def training(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes the means since the last call."""
        with _writing(self._folder):
            self._append(self._folder.metrics, "training", step, figures)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes a validation, and redraws the curve."""
        with _writing(self._folder):
            self._append(self._folder.validation, "validation", step, figures)
            draw_curve(self._folder)

    def close(self) -> None:
        """Writes buffered entries and closes the log."""
        with _writing(self._folder):
            self._board.close()

    def _append(self, path: Path, group: str, step: int, figures: Mapping[str, float]) -> None:
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", *figures])
            writer.writerow([step, *(f"{value:.6g}" for value in figures.values())])
        for name, value in figures.items():
            self._board.add_scalar(f"{group}/{name}", value, step)


@contextmanager
def _writing(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{error.filename or folder.path}: {reason}; expected a log that can be written to") from error


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, none where there is no log yet; raises InputError where the file is no log."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; expected rows of numbers") from error


def draw_curve(folder: RunFolder) -> None:
    """Draws the losses and the validation against the step."""
    # matplotlib takes long to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    training, validation = read_log(folder.metrics), read_log(folder.validation)
    for axes, rows, names, line in ((left, training, _LOSSES, "-"), (right, validation, _SCORES, ".-")):
        shown = [name for name in names if rows and not all(isnan(row.get(name, nan)) for row in rows)]
        for name in shown:
            label = name.replace("_", " ")
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], line, label=label, linewidth=1)
        axes.grid(alpha=0.3)
        if shown:
            axes.legend(fontsize=8)
    left.set(title="training", xlabel="step", ylabel="loss")
    right.set(title="validation on whole scans", xlabel="step", ylim=(0, 1.02))
    with written_together({folder.curve: check_picture}) as (temporary,):
        figure.savefig(temporary, dpi=110, format="png")


def _drop_later(path: Path, step: int) -> None:
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        # The last line of a killed process may be incomplete.
        kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= step]
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected the log of a run") from error
    if not kept:
        path.unlink()
        return
    with (
        written_together({path: check_text}) as (temporary,),
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([rows[0], *kept])
