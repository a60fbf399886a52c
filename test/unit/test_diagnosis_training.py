"""Training of models of lesion types: exams in the cache, windows, whole runs, and their scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longilesion.diagnosis.bundle import load_diagnosis_bundle
from longilesion.diagnosis.exam_folder import EXAMS_FILE
from longilesion.diagnosis_settings import PHASES, STATEMENT
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.networks.lesion_queries import LesionQueries
from test.unit.diagnosis_builders import diagnosis_settings, in_place
from test.unit.liver_hosts import small_host
from training.diagnosis import evaluate, exams, train
from training.diagnosis.exams import TypedExam, load_exams, split_hosts
from training.diagnosis.learner import DiagnosisLearner
from training.diagnosis.recipe import DiagnosisRecipe, ExamAugmentation, WindowSettings, read_diagnosis_recipe
from training.diagnosis.windows import ExamWindows
from training.learner import Progress, launched_for
from training.loading import Share
from training.preparation.phases import ExamEntry, ExamsFile, write_exam
from training.preparation.prepared import write_json
from training.recipe import IntensityAugmentation, OptimizerSettings, SpatialAugmentation
from training.run_folder import RunFolder, read_summary
from training.synthesis.exam_settings import ExamSettings
from training.synthesis.phases import synthetic_exam

RECIPES = Path(train.__file__).parents[1] / "recipes" / "diagnosis"
GRID = Grid.from_spacing((8, 16, 16), (2.0, 2.0, 2.0))
AUGMENTATION = ExamAugmentation(
    spatial=SpatialAugmentation(probability=1.0, rotation_deg=20.0, mirror_axes=("z", "x")),
    intensity=IntensityAugmentation(probability=1.0, noise=0.1, shift=0.1),
)
RECIPE = """
name = "tiny"
steps = 4
batch_size = 2
[validation]
every = 4
[optimizer]
kind = "adamw"
learning_rate = 1e-3
sharpness = 0.05
[loss]
points = 16
memory_bank = 8
[model]
shape_zyx = [8, 16, 16]
spacing_zyx_mm = [8.0, 8.0, 8.0]
least_score = 0.0
least_diameter_mm = 0.0
[model.network]
phase_features = 4
pyramid_features = 8
queries = 3
decoder_layers = 1
attention_heads = 2
feedforward_features = 8
embedding_features = 4
[model.network.encoder]
features_per_stage = [4, 8]
kernel_sizes = [[3, 3, 3], [3, 3, 3]]
strides = [[1, 1, 1], [2, 2, 2]]
blocks_per_stage = [1, 1]
"""


def recipe_of(**changes: object) -> DiagnosisRecipe:
    return DiagnosisRecipe(**{"name": "tiny", "steps": 4, "batch_size": 2, "model": diagnosis_settings(), **changes})


def typed_exam(*, delayed: bool = True, lesions: bool = True, seed: int = 0) -> TypedExam:
    """Noise with two lesions, an HCC of 64 voxels and a cyst of 27."""
    generator = np.random.default_rng(seed)
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    if lesions:
        ids[1:5, 2:6, 2:6] = 3
        ids[4:7, 10:13, 10:13] = 7
    is_there = np.array([True, True, True, delayed])
    hu = generator.integers(0, 100, (4, *GRID.shape_zyx)).astype(np.int16)
    hu[~is_there] = 0
    return TypedExam(
        name=f"exam_{seed}",
        hu=hu,
        is_there=is_there,
        liver=np.ones(GRID.shape_zyx, np.bool_),
        ids=ids,
        types={3: "hcc", 7: "cyst"} if lesions else {},
        grid=GRID,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three exams of two livers."""
    root = tmp_path_factory.mktemp("exams")
    entries = []
    for number, host in enumerate(("a", "a", "b")):
        exam = synthetic_exam(small_host(), np.random.default_rng(number), ExamSettings(healthy_share=0.0))
        entry = ExamEntry(
            name=f"exam_{number}",
            patient=f"exam_{number}",
            host=host,
            phases=tuple(exam.phases),
            lesions=len(exam.lesions),
            seed=0,
            number=number,
        )
        write_exam(exam, entry, root / entry.name)
        entries.append(entry)
    write_json(root / EXAMS_FILE, ExamsFile(seed=0, data=None, shapes=None, settings=ExamSettings(), exams=entries))
    return root


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases lie where they should, and need no registration."""
    monkeypatch.setattr("longilesion.diagnosis.registration.register_scans", in_place)
    monkeypatch.setattr("longilesion.diagnosis.registration.trust_in", lambda *_: 1.0)
    monkeypatch.setattr("training.diagnosis.exams.in_parallel", lambda job, items, **_: map(job, items))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path / "tiny.toml"


def arguments(recipe: Path, data: Path, output: Path, **changes: object) -> train.Arguments:
    return train.Arguments(**{"recipe": recipe, "data": data, "output": output, "device": "cpu", **changes})


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_can_be_read_and_are_named_after_their_files(path: Path) -> None:
    assert read_diagnosis_recipe(path).name == path.stem


def test_published_recipe_is_that_of_the_paper() -> None:
    recipe = read_diagnosis_recipe(RECIPES / "lidia.toml")
    loss, network = recipe.loss, recipe.model.network
    assert (recipe.batch_size, recipe.optimizer.learning_rate, network.queries) == (2, 1e-5, 50)
    assert (loss.mask, loss.classification, loss.contrastive) == (5.0, 5.0, 0.01)
    assert (loss.temperature, loss.memory_bank, loss.classification_loss) == (0.1, 1024, "focal")
    assert recipe.optimizer.sharpness > 0
    assert recipe.model.phases == PHASES


def test_rows_of_the_tables_differ_from_the_whole_in_what_they_say_alone() -> None:
    whole = read_diagnosis_recipe(RECIPES / "compact.toml")
    for path in RECIPES.glob("compact_*.toml"):
        row = read_diagnosis_recipe(path)
        same = {
            "name": whole.name,
            "optimizer": row.optimizer.model_copy(update={"sharpness": whole.optimizer.sharpness}),
            "loss": row.loss.model_copy(update={"contrastive": 0.01, "classification_loss": "focal"}),
            "model": row.model.model_copy(
                update={
                    "phases": PHASES,
                    "network": row.model.network.model_copy(
                        update={"fusion": "iterative", "queries": whole.model.network.queries}
                    ),
                }
            ),
        }
        assert row.model_copy(update=same) == whole
        assert row != whole


# -------------------------------------------------------------------------------------------------------------- exams


@pytest.mark.usefixtures("_registered")
def test_exams_are_registered_once_and_again_where_they_have_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make: Callable[..., None] = exams._make

    def counted(job: tuple[Path, Path, str], **rest: object) -> None:
        made.append(job[0].name)
        make(job, **rest)

    monkeypatch.setattr(exams, "_make", counted)
    settings = diagnosis_settings(spacing_zyx_mm=(7.0, 7.0, 7.0))
    first = load_exams(folder, settings, workers=1)
    assert made == ["exam_0", "exam_1", "exam_2"]
    load_exams(folder, settings.model_copy(update={"phases": ("arterial", "venous")}), workers=1)
    assert len(made) == 3
    (folder / "exam_1" / "note.txt").write_text("another content")
    again = load_exams(folder, settings, hosts=["a"], workers=1)
    assert made[3:] == ["exam_1"]
    np.testing.assert_array_equal(again[1].hu, first[1].hu)


@pytest.mark.usefixtures("_registered")
def test_lesions_of_an_exam_keep_their_place_and_type_on_the_lattice(folder: Path) -> None:
    for exam in load_exams(folder, diagnosis_settings(spacing_zyx_mm=(5.0, 4.0, 4.0)), workers=1):
        shown, types = exam.truth
        assert set(types) == set(np.unique(shown.ids)) - {0}
        assert set(types) <= set(exam.types)
        inside = exam.liver[exam.ids > 0]
        assert inside.mean() > 0.95


@pytest.mark.usefixtures("_registered")
def test_phases_of_a_model_are_those_of_the_exam_in_its_order(folder: Path) -> None:
    settings = diagnosis_settings(spacing_zyx_mm=(7.0, 7.0, 7.0))
    (whole,) = load_exams(folder, settings, hosts=["b"], workers=1)
    (part,) = load_exams(
        folder, settings.model_copy(update={"phases": ("arterial", "delayed")}), hosts=["b"], workers=1
    )
    np.testing.assert_array_equal(part.hu, whole.hu[[1, 3]])
    np.testing.assert_array_equal(part.is_there, whole.is_there[[1, 3]])


def test_livers_are_split_by_name(folder: Path) -> None:
    assert split_hosts(folder, ["b"]) == (("a",), ("b",))
    assert split_hosts(folder, []) == (("a", "b"), ())
    with pytest.raises(InputError, match=r"--held-out c: .* has exams of a, b; expected one of these"):
        split_hosts(folder, ["c"])
    with pytest.raises(InputError, match=r"no liver of .* is left to train on"):
        split_hosts(folder, ["a", "b"])


def test_folder_without_exams_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exams\.json"):
        split_hosts(tmp_path, [])


# ------------------------------------------------------------------------------------------------------------ windows


@given(st.integers(0, 50), st.integers(1, 3))
def test_resumed_run_sees_the_windows_that_it_would_have_seen(seed: int, first: int) -> None:
    windows = ExamWindows([typed_exam(), typed_exam(seed=1)], recipe_of(augmentation=AUGMENTATION), seed=seed)
    whole = list(windows.batches(range(4), Share()))
    later = list(windows.batches(range(first, 4), Share()))
    for one, other in zip(whole[first:], later, strict=True):
        torch.testing.assert_close(one.input.phases, other.input.phases, rtol=0, atol=0)
        torch.testing.assert_close(one.targets.semantic, other.targets.semantic, rtol=0, atol=0)
        assert one.seed == other.seed


@given(st.integers(0, 1000), st.booleans())
def test_targets_of_a_window_agree_with_each_other(seed: int, is_augmented: bool) -> None:
    recipe = recipe_of(augmentation=AUGMENTATION if is_augmented else ExamAugmentation())
    windows = ExamWindows([typed_exam(), typed_exam(lesions=False, seed=1)], recipe, seed=seed)
    (batch,) = windows.batches(range(1), Share())
    targets = batch.targets
    for semantic, masks, classes in zip(targets.semantic, targets.masks, targets.classes, strict=True):
        assert len(masks) == len(classes)
        assert set(classes.tolist()) <= {1, 7}
        assert bool(masks.flatten(1).any(1).all())
        assert bool((semantic > 0).equal(masks.any(0)))
        for mask, label in zip(masks, classes, strict=True):
            assert bool((semantic[mask] > 0).all())
            assert int(label) in semantic[mask].tolist()


@given(st.integers(0, 1000))
def test_absent_and_hidden_phases_are_zero_and_the_venous_one_is_never_hidden(seed: int) -> None:
    recipe = recipe_of(augmentation=AUGMENTATION, windows=WindowSettings(hidden_share=0.6))
    windows = ExamWindows([typed_exam(delayed=False)], recipe, seed=seed)
    (batch,) = windows.batches(range(1), Share())
    assert not batch.input.is_there[:, 3].any()
    assert batch.input.is_there[:, 2].all()
    assert not batch.input.phases[~batch.input.is_there].any()
    assert batch.input.phases[batch.input.is_there].flatten(1).any(1).all()


def test_share_of_windows_shows_a_lesion() -> None:
    recipe = recipe_of(batch_size=1, windows=WindowSettings(lesion_share=1.0))
    windows = ExamWindows([typed_exam()], recipe, seed=0)
    assert all(len(batch.targets.classes[0]) for batch in windows.batches(range(20), Share()))


def test_processes_share_a_batch() -> None:
    windows = ExamWindows([typed_exam(), typed_exam(seed=1)], recipe_of(), seed=0)
    (whole,) = windows.batches(range(1), Share())
    parts = [next(windows.batches(range(1), Share(rank=rank, processes=2))) for rank in range(2)]
    torch.testing.assert_close(torch.cat([part.input.phases for part in parts]), whole.input.phases)
    assert parts[0].seed != parts[1].seed


# --------------------------------------------------------------------------------------------------------------- runs


def test_memory_bank_gets_the_lesions_of_a_step_once_whether_it_has_one_pass_or_two() -> None:
    windows = ExamWindows([typed_exam()], recipe_of(windows=WindowSettings(lesion_share=1.0)), seed=0)
    (batch,) = windows.batches(range(1), Share())
    matched = sum(map(len, batch.targets.classes))
    assert matched
    for rho in (0.0, 0.05):
        recipe = recipe_of(precision="32-true", optimizer=OptimizerSettings(kind="adamw", sharpness=rho))
        fabric = launched_for("cpu", batch_size=2, precision=recipe.precision, uses_all=False)
        learner = DiagnosisLearner.of(LesionQueries(recipe.model), recipe, fabric)
        learner.step(batch, Progress(), rate=1e-3)
        assert learner.bank is not None
        assert int(learner.bank.added) == matched


@pytest.mark.usefixtures("_registered")
def test_interrupted_run_ends_as_one_that_was_not_and_its_bundle_says_what_it_is(
    folder: Path, recipe: Path, tmp_path: Path
) -> None:
    train.train(arguments(recipe, folder, tmp_path / "whole", held_out=("b",)))
    train.train(arguments(recipe, folder, tmp_path / "parts", held_out=("b",), minutes=0.0))
    train.train(arguments(recipe, folder, tmp_path / "parts", held_out=("b",)))
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["progress"]["step"] == 4
    for part in ("network", "average", "bank"):
        for name, tensor in whole[part].items():
            torch.testing.assert_close(parts[part][name], tensor, rtol=0, atol=0)
    assert int(whole["bank"]["added"]) > 0
    model = load_diagnosis_bundle(tmp_path / "whole" / "last", device="cpu")
    assert model.provenance["licence"] == STATEMENT
    assert model.provenance["data"].endswith("2 synthetic exams over a")
    assert read_summary(RunFolder(tmp_path / "whole")).steps == 4


@pytest.mark.usefixtures("_registered")
def test_runs_are_scored_on_the_livers_that_they_have_not_seen(
    folder: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(arguments(recipe, folder, tmp_path / "run", held_out=("b",), steps=1))
    scored = evaluate.evaluate_runs(
        evaluate.Arguments(runs=(tmp_path / "run",), data=folder, output=tmp_path / "report", device="cpu", draws=20)
    )
    assert [exam.name for exam in scored[0].exams] == ["exam_2"]
    text = (tmp_path / "report" / "diagnosis.md").read_text()
    assert STATEMENT in text
    assert "tiny, LiverMax" in text
    assert "tiny, counted voxels" in text
    assert "sensitivity" in capsys.readouterr().out


@pytest.mark.usefixtures("_registered")
def test_run_without_held_out_livers_is_trained_on_all_and_cannot_be_scored(
    folder: Path, recipe: Path, tmp_path: Path
) -> None:
    train.train(arguments(recipe, folder, tmp_path / "run", steps=1))
    model = load_diagnosis_bundle(tmp_path / "run" / "last", device="cpu")
    assert model.provenance["data"].endswith("3 synthetic exams over a, b")
    assert model.provenance["validation"] == "none"
    with pytest.raises(InputError, match="trained on all livers; expected a run with --held-out"):
        evaluate.evaluate_runs(evaluate.Arguments(runs=(tmp_path / "run",), data=folder, device="cpu"))


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("log_every", 0), ("seed", -1), ("workers", 0)])
def test_numbers_that_make_no_sense_are_refused(
    folder: Path, recipe: Path, tmp_path: Path, name: str, value: int
) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: expected at least"):
        train.train(arguments(recipe, folder, tmp_path / "run", **{name: value}))
    assert not (tmp_path / "run").exists()
