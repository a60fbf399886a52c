import gzip
import json
import logging
import math
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import process
from longilesion.bundle import read_manifest, save_bundle
from longilesion.config import Axis, InferenceSettings, ModelSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.methods import ModelMethod
from longilesion.evaluation.run import EvaluationReport, evaluate_methods
from longilesion.evaluation.tables import figure
from longilesion.networks import build_network
from test.unit.builders import dual_encoder, model_settings
from test.unit.case_folders import files_under, write_case
from test.unit.prepared_data import RECIPE, write_prepared
from training.export import Arguments, export, main
from training.recipe import read_recipe
from training.run_folder import RunFolder, RunRecord
from training.synthesis.shape_library import LICENCE_NOT_STATED

EXPORT_SCRIPT = Path(__file__).parents[2] / "export.sh"
SETTINGS = model_settings(inference=InferenceSettings(threshold=0.001, presence_threshold=0.2))
OTHER_VIEWS = SETTINGS.with_views(("y",))


def write_bundle(
    folder: Path, settings: ModelSettings = SETTINGS, *, seed: int = 0, networks: int = 1, **said: str
) -> Path:
    torch.manual_seed(seed)
    provenance = {
        "recipe": "tiny",
        "data": f"blocks without {folder.name}",
        "steps": "2 of 2",
        "licence": "none",
    } | said
    save_bundle(folder, settings, [build_network(settings) for _ in range(networks)], provenance=provenance)
    return folder


def with_threshold(presence_threshold: float) -> ModelSettings:
    inference = SETTINGS.inference.model_copy(update={"presence_threshold": presence_threshold})
    return SETTINGS.model_copy(update={"inference": inference})


def write_run(folder: Path, *, fold: int, seed: int = 0) -> Path:
    """A run's folder as training leaves it."""
    recipe_file = folder.with_suffix(".toml")
    folder.mkdir(parents=True)
    recipe_file.write_text(RECIPE)
    record = RunRecord(
        recipe=read_recipe(recipe_file),
        data="blocks",
        fold=fold,
        seed=3,
        steps=2,
        weights=None,
        processes=1,
        workers=0,
        versions={"torch": "9.9"},
    )
    RunFolder(folder).record.write_text(record.model_dump_json())
    for name in ("best", "last"):
        write_bundle(folder / name, seed=seed + (name == "best"))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """An evaluation of two cases, with intervals."""
    folder = tmp_path_factory.mktemp("evaluation")
    data = write_prepared(folder / "data")
    exams = [find_exams(case.folder)[0] for case in data.cases[:2]]
    method = ModelMethod(
        name="out of fold", ensemble=load_ensemble(bundle, device="cpu"), has_followup_clicks=True, warnings=[]
    )
    run = evaluate_methods(exams, [method], ScoringSettings(), draws=10)
    path = folder / "evaluation.json"
    path.write_text(run.report.model_dump_json())
    return path


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


# ------------------------------------------------------------------------------------------------------- the ensemble


def test_networks_of_all_bundles_become_one_ensemble_in_their_order(tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path / "one", seed=1), write_bundle(tmp_path / "two", seed=2, networks=2)]
    export(Arguments(bundles=tuple(bundles), output=tmp_path / "model"))
    networks = load_ensemble(tmp_path / "model", device="cpu", precision="float32").networks
    given = [network for bundle in bundles for network in load_ensemble(bundle, device="cpu").networks]
    assert len(networks) == 3
    assert all(same_weights(*pair) for pair in zip(networks, given, strict=True))
    assert read_manifest(tmp_path / "model").provenance["data"] == "blocks without one; blocks without two"
    assert files_under(tmp_path / "model") == [
        "MODEL_CARD.md",
        *(f"fold_{number}.safetensors" for number in range(3)),
        "settings.json",
    ]


def test_bundles_may_differ_in_the_presence_threshold_alone(tmp_path: Path) -> None:
    bundles = tuple(write_bundle(tmp_path / str(share), with_threshold(share)) for share in (0.2, 0.3, 0.7))
    export(Arguments(bundles=bundles, output=tmp_path / "model"))
    assert read_manifest(tmp_path / "model").members[0].settings == with_threshold(0.4)
    export(Arguments(bundles=bundles, output=tmp_path / "model", presence_threshold=0.25))
    assert read_manifest(tmp_path / "model").members[0].settings == with_threshold(0.25)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            model_settings(inference=InferenceSettings(threshold=0.5, presence_threshold=0.2)),
            "inference.threshold = 0.5, but 0.001",
        ),
        (
            model_settings(network=dual_encoder(presence_features=8), inference=SETTINGS.inference),
            "network.presence_features = 8, but 4",
        ),
        (
            model_settings(inference=SETTINGS.inference, shape_zyx=(8, 8, 16)),
            r"voi.shape_zyx = \[8, 8, 16\], but \[8, 8, 8\]",
        ),
    ],
)
def test_bundles_with_other_settings_are_refused_and_leave_nothing(
    tmp_path: Path, other: ModelSettings, message: str
) -> None:
    bundles = write_bundle(tmp_path / "one"), write_bundle(tmp_path / "two", other)
    with pytest.raises(
        InputError, match=rf"two: {message} in .*one; expected the same settings, or --members before the folders$"
    ):
        export(Arguments(bundles=bundles, output=tmp_path / "model"))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


OTHER = model_settings(
    shape_zyx=(8, 8, 16),
    network=dual_encoder(presence_features=8),
    inference=InferenceSettings(threshold=0.501, presence_threshold=0.6),
)


def test_members_of_different_settings_are_weighted_and_equal_ones_are_folds(tmp_path: Path) -> None:
    one, two, third = (
        write_bundle(tmp_path / "one", seed=1),
        write_bundle(tmp_path / "two", OTHER, seed=2, networks=2, **{"data licence": "CC BY 4.0, all"}),
        write_bundle(tmp_path / "three", seed=3),
    )
    export(Arguments(bundles=(), members=(str(one), f"{two}:4", str(third)), output=tmp_path / "model"))
    ensemble = load_ensemble(tmp_path / "model", device="cpu", precision="float32")
    assert [(member.settings, len(member.networks), member.weight) for member in ensemble.members] == [
        (SETTINGS, 2, 1.0),
        (OTHER, 2, 4.0),
    ]
    assert (ensemble.thresholds.threshold, ensemble.thresholds.presence_threshold) == (0.401, 0.52)
    given = [network for bundle in (one, third, two) for network in load_ensemble(bundle, device="cpu").networks]
    assert all(same_weights(*pair) for pair in zip(ensemble.networks, given, strict=True))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    for line in (
        "### Member 1 of 2, 20% of the mean",
        "### Member 2 of 2, 80% of the mean",
        "| lattice (z, y, x) | 8 x 8 x 8 voxels of 2 x 1 x 1 mm |",
        "| lattice (z, y, x) | 8 x 8 x 16 voxels of 2 x 1 x 1 mm |",
        "| outline from probability | 0.401 |",
        "| gone below presence | 0.52 |",
        "blocks without one; blocks without three.",
        "blocks without two.",
        "Licence and attribution of the data: CC BY 4.0, all.",
        "python -m training.export --members OUTPUT_1/model:1 OUTPUT_2/model:4 --output MODEL",
    ):
        assert f"{line}\n" in card

    # A mixed model is a member, or several, of the next one.
    export(
        Arguments(
            bundles=(),
            members=(f"{tmp_path / 'model'}:10", f"{write_bundle(tmp_path / 'four', with_voxels(24))}:5"),
            output=tmp_path / "next",
            presence_threshold=0.3,
        )
    )
    manifest = read_manifest(tmp_path / "next")
    assert [member.weight for member in manifest.members] == [2.0, 8.0, 5.0]
    assert manifest.thresholds.presence_threshold == 0.3
    with pytest.raises(InputError, match=r"model: voi\.shape_zyx = .*; expected the same settings, or --members"):
        export(Arguments(bundles=(tmp_path / "model",), output=tmp_path / "again"))


@pytest.mark.parametrize("axes", [(), ("x",), ("z", "x")])
def test_mirrored_views_are_those_that_are_asked_for(tmp_path: Path, axes: tuple[Axis, ...]) -> None:
    one, two = write_bundle(tmp_path / "one", OTHER_VIEWS, seed=1), write_bundle(tmp_path / "two", seed=2)
    export(Arguments(bundles=(), members=(str(one), str(two)), output=tmp_path / "model", mirror_axes=axes))
    (member,) = load_ensemble(tmp_path / "model", device="cpu", precision="float32").members
    assert member.settings.inference.mirror_axes == axes
    assert len(member.networks) == 2
    assert " ".join(("--output MODEL", "--mirror-axes", *axes)) in (tmp_path / "model" / "MODEL_CARD.md").read_text()

    export(Arguments(bundles=(one,), output=tmp_path / "alone"))
    assert load_ensemble(tmp_path / "alone", device="cpu").members[0].settings == OTHER_VIEWS
    assert "--mirror-axes" not in (tmp_path / "alone" / "MODEL_CARD.md").read_text()


def test_mirrored_axis_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    one = write_bundle(tmp_path / "one")
    with pytest.raises(InputError, match="--mirror-axes x x: an axis twice; expected each once"):
        export(Arguments(bundles=(one,), output=tmp_path / "model", mirror_axes=("x", "x")))
    assert not (tmp_path / "model").exists()


def test_zooms_are_those_that_are_asked_for_and_mirrored_views_stay(tmp_path: Path) -> None:
    one, two = write_bundle(tmp_path / "one", OTHER_VIEWS, seed=1), write_bundle(tmp_path / "two", OTHER_VIEWS, seed=2)
    export(Arguments(bundles=(one, two), output=tmp_path / "model", zoom_factors=(1.0, 0.65)))
    (member,) = load_ensemble(tmp_path / "model", device="cpu", precision="float32").members
    assert member.settings == SETTINGS.with_views(("y",), (1.0, 0.65))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "--output MODEL --zoom-factors 1 0.65\n" in card
    assert "| seen at the zoom times | 1, 0.65 |\n" in card

    export(Arguments(bundles=(tmp_path / "model",), output=tmp_path / "next", mirror_axes=()))
    assert load_ensemble(tmp_path / "next", device="cpu").members[0].settings == SETTINGS.with_views((), (1.0, 0.65))


@pytest.mark.parametrize(
    ("factors", "said"),
    [((), "none"), ((1.0, 1.0), "1 1"), ((1.0, -0.5), "1 -0.5"), ((math.nan,), "nan"), ((math.inf,), "inf")],
)
def test_zooms_that_are_none_are_refused(tmp_path: Path, factors: tuple[float, ...], said: str) -> None:
    one = write_bundle(tmp_path / "one")
    with pytest.raises(InputError, match=rf"--zoom-factors: {said}; expected numbers over 0, each once$"):
        export(Arguments(bundles=(one,), output=tmp_path / "model", zoom_factors=factors))
    assert not (tmp_path / "model").exists()


def with_voxels(along_x: int) -> ModelSettings:
    return model_settings(inference=SETTINGS.inference, shape_zyx=(8, 8, along_x))


@pytest.mark.parametrize(
    ("bundles", "members", "message"),
    [
        (("one",), ("two",), "both bundles and --members given; expected the folders of runs or bundles, or --members"),
        ((), (), "no bundle given; expected"),
        ((), ("one:0",), r"--members one:0: weight 0; expected FOLDER, or FOLDER:WEIGHT with a number over 0"),
        ((), ("one:-2",), "weight -2; expected"),
        ((), ("one:nan",), "weight nan; expected"),
        ((), ("one:heavy",), "weight heavy; expected"),
        ((), ("one:2", "same:3"), r"same: weight 3, but 2 of one, which has the same settings; expected one weight"),
        ((), ("one:2", "nowhere"), r"nowhere: neither settings\.json nor"),
    ],
)
def test_members_that_cannot_be_combined_are_refused_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: tuple[str, ...],
    members: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "same"):
        write_bundle(Path(name))
    with pytest.raises(InputError, match=message):
        export(Arguments(bundles=tuple(map(Path, bundles)), members=members, output=Path("model")))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "same"}


def test_run_gives_its_last_weights_and_not_those_chosen_on_its_own_validation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fold=2)
    export(Arguments(bundles=(run,), output=tmp_path / "model"))
    (network,), (last,) = (load_ensemble(tmp_path / name, device="cpu").networks for name in ("model", "run/last"))
    assert same_weights(network, last)
    write_bundle(run / "presence", seed=9)
    export(Arguments(bundles=(run,), output=tmp_path / "model"))
    (network,), (fitted,) = (
        load_ensemble(tmp_path / name, device="cpu").networks for name in ("model", "run/presence")
    )
    assert same_weights(network, fitted)


def test_folder_without_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: neither settings\.json nor last/settings\.json; expected a bundle"):
        export(Arguments(bundles=(tmp_path / "nothing",), output=tmp_path / "model"))


@pytest.mark.parametrize("content", [None, "{}"])
def test_evaluation_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_text(content)
    bundle = write_bundle(tmp_path / "one")
    with pytest.raises(InputError, match=r"evaluation\.json: .*; expected .*evaluation\.json"):
        export(Arguments(bundles=(bundle,), output=tmp_path / "model", evaluation=path))


# --------------------------------------------------------------------------------------------------- all or nothing


def test_smaller_ensemble_replaces_a_larger_one_and_leaves_no_network_behind(tmp_path: Path) -> None:
    bundles = tuple(write_bundle(tmp_path / name) for name in ("one", "two"))
    export(Arguments(bundles=bundles, output=tmp_path / "model"))
    export(Arguments(bundles=bundles[:1], output=tmp_path / "model"))
    assert files_under(tmp_path / "model") == ["MODEL_CARD.md", "fold_0.safetensors", "settings.json"]


def test_failure_at_the_last_file_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write_bundle(tmp_path / "one", seed=1), write_bundle(tmp_path / "two", seed=2)
    export(Arguments(bundles=(one,), output=tmp_path / "model"))
    paths = [*(tmp_path / "model").iterdir(), tmp_path / "model.tar.gz"]
    before = {path: path.read_bytes() for path in paths}

    def fail(files: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("training.export.pack", fail)
    with pytest.raises(InputError, match="No space left on device"):
        export(Arguments(bundles=(two,), output=tmp_path / "model"))
    assert {path: path.read_bytes() for path in paths} == before
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "model", "model.tar.gz"}


@pytest.mark.usefixtures("restored_logging")
def test_command_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(tmp_path / "none"), "--output", str(tmp_path / "model")])
    assert main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_large_model_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = write_bundle(tmp_path / "one")
    export(Arguments(bundles=(bundle,), output=tmp_path / "model"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    monkeypatch.setattr("training.export.LARGEST_BYTES", 1000)
    export(Arguments(bundles=(bundle,), output=tmp_path / "model"))
    assert "more than the 0 MB to keep to" in caplog.text


# --------------------------------------------------------------------------------------------------------- tarball


def test_tarball_has_the_files_at_its_top_readable_by_all_and_owned_by_nobody_in_particular(tmp_path: Path) -> None:
    tarball = export(Arguments(bundles=(write_bundle(tmp_path / "one"),), output=tmp_path / "model"))
    assert tarball == tmp_path / "model.tar.gz"
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["MODEL_CARD.md", "fold_0.safetensors", "settings.json"]
        assert {(member.uid, member.gid, member.mtime, member.mode) for member in members} == {(0, 0, 0, 0o644)}
        for member in members:
            content = archive.extractfile(member)
            assert content is not None
            assert content.read() == (tmp_path / "model" / member.name).read_bytes()


def test_same_networks_give_the_same_tarball_at_another_time_and_place(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "one")
    first = export(Arguments(bundles=(bundle,), output=tmp_path / "a" / "model")).read_bytes()
    shutil.copytree(bundle, tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        path.chmod(0o600)
        os.utime(path, (1e9, 1e9))
    assert export(Arguments(bundles=(tmp_path / "copy",), output=tmp_path / "b" / "model")).read_bytes() == first
    assert first[4:8] == bytes(4), "gzip's own time stamp"


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
def test_export_script_packs_the_same_archive(tmp_path: Path) -> None:
    """The engine is left out: only the script's tar command runs."""
    export(Arguments(bundles=(write_bundle(tmp_path / "one"),), output=tmp_path / "model"))
    text = EXPORT_SCRIPT.read_text()
    command = text[text.index("tar -C") : text.index("\nls -lh")]
    (tmp_path / "dist").mkdir()
    subprocess.run(["bash", "-euo", "pipefail", "-c", f"model=model\n{command}"], cwd=tmp_path, check=True)
    contents = (tmp_path / "dist" / "longilesion-model.tar.gz", tmp_path / "model.tar.gz")
    listings = []
    for path in contents:
        with tarfile.open(path) as archive:
            listings.append([(member.name, member.mode, member.uid, member.size, member.mtime) for member in archive])
    assert listings[0] == listings[1]
    assert gzip.decompress(contents[0].read_bytes())[:100] == gzip.decompress(contents[1].read_bytes())[:100]


def test_process_runs_with_the_model_and_with_the_unpacked_tarball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)
    settings = with_threshold(0.0)
    bundles = tuple(write_bundle(tmp_path / str(seed), settings, seed=seed) for seed in range(2))
    tarball = export(Arguments(bundles=bundles, output=tmp_path / "model"))
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    case = write_case(tmp_path / "case")
    maps = []
    for model in ("model", "unpacked"):
        given = {"--input": case, "--output": tmp_path / f"of_{model}", "--model": tmp_path / model, "--device": "cpu"}
        assert process.main([str(word) for pair in given.items() for word in pair]) == 0
        (path,) = (tmp_path / f"of_{model}").rglob("*.mha")
        maps.append(path.read_bytes())
    assert maps[0] == maps[1]


# ------------------------------------------------------------------------------------------------------------- card


def test_card_has_the_figures_of_the_evaluation_with_their_intervals(tmp_path: Path, report: Path) -> None:
    bundle = write_bundle(tmp_path / "one")
    export(Arguments(bundles=(bundle,), output=tmp_path / "model", evaluation=report))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    (found,) = EvaluationReport.model_validate_json(report.read_bytes()).evaluations
    shown = [
        ("Dice", found.challenge.dice),
        ("false positive volume (ml)", found.challenge.false_positive_ml),
        ("false negative volume (ml)", found.challenge.false_negative_ml),
        ("surface Dice", found.lesion_means["surface_dice"]),
        ("gone, recognised", found.lesion_means["gone_recognised"]),
    ]
    for name, estimate in shown:
        assert f"| {name} | {figure(estimate)} |" in card
    assert "Every case was judged out of fold" in card
    assert any("[" in figure(estimate) for _, estimate in shown)
    assert figure(found.challenge.dice) in read_manifest(tmp_path / "model").provenance["out of fold"]


def test_card_says_what_the_model_is_and_how_to_repeat_it(tmp_path: Path) -> None:
    runs = tuple(write_run(tmp_path / f"run_{fold}", fold=fold) for fold in (0, 3))
    licence = "CC BY 4.0, the patients"
    export(Arguments(bundles=runs, output=tmp_path / "model", name="blocks", data_licence=licence))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert card.startswith("# Model card: blocks\n\n**For research use only.**")
    for line in (
        "Licence and attribution of the data: CC BY 4.0, the patients.",
        "| folds | 0, 3 |",
        "| versions | torch 9.9 |",
        "| lesions a step | 2 |",
        "| gone below presence | 0.2 |",
        "python -m training.crossvalidate training/recipes/tiny.toml --data DATA --output OUTPUT --seed 3"
        " --no-presence",
    ):
        assert f"{line}\n" in card
    provenance = json.loads((tmp_path / "model" / "settings.json").read_text())["provenance"]
    assert provenance == {
        "recipe": "tiny",
        "data": "blocks without last",
        "steps": "2 of 2",
        "folds": "0, 3",
        "presence head": "as trained",
        "versions": "torch 9.9",
        "data licence": licence,
        "licence": "research use only",
    }


def test_card_of_one_network_says_how_its_presence_head_was_fitted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fold=1)
    write_bundle(run / "presence", seed=5)
    path = RunFolder(run).record
    record = RunRecord.model_validate_json(path.read_bytes())
    data = record.recipe.data.model_copy(update={"shapes": Path("own.npz")})
    changed = {"recipe": record.recipe.model_copy(update={"data": data}), "over_minutes": 8.5, "weights": "model"}
    path.write_text(record.model_copy(update=changed).model_dump_json())
    export(Arguments(bundles=(run,), output=tmp_path / "model"))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    start = "training/recipes/tiny.toml --data DATA --shapes SHAPES --fold 1"
    assert "| presence head | fitted further |\n" in card
    assert (
        f"python -m training.train {start} --output OUTPUT --over-minutes 8.5 --seed 3 --weights model\n"
        f"python -m training.presence {start} --bundle OUTPUT/last --output OUTPUT/presence\n"
        "python -m training.export OUTPUT --output MODEL\n"
    ) in card


def test_licence_of_lesion_shapes_goes_to_the_card(tmp_path: Path) -> None:
    shapes = {"data licence": "lesion shapes of shapes.npz: CC BY-NC-SA 4.0"}
    bundles = tuple(write_bundle(tmp_path / name, **shapes) for name in ("one", "two"))
    export(Arguments(bundles=bundles, output=tmp_path / "model", data_licence="CC BY 4.0"))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    line = "Licence and attribution of the data: CC BY 4.0; lesion shapes of shapes.npz: CC BY-NC-SA 4.0."
    assert f"{line}\n" in card


def test_a_given_licence_stands_for_what_a_file_of_shapes_does_not_state(tmp_path: Path) -> None:
    unstated = {"data licence": f"CC BY 3.0; lesion shapes of shapes.npz: {LICENCE_NOT_STATED}"}
    bundle = write_bundle(tmp_path / "one", **unstated)
    for given, expected in ((None, unstated["data licence"]), ("CC BY-NC-SA 4.0", "CC BY-NC-SA 4.0; CC BY 3.0")):
        export(Arguments(bundles=(bundle,), output=tmp_path / "model", data_licence=given))
        assert read_manifest(tmp_path / "model").provenance["data licence"] == expected


@pytest.mark.parametrize(
    ("recorded", "folds", "heads"),
    [
        ({}, "not recorded, 1, 3", "not recorded, fitted further, as trained"),
        (
            {"folds": "0, 2", "presence head": "as trained"},
            "0, 2, 1, 3",
            "as trained, fitted further, as trained",
        ),
    ],
)
def test_folds_and_heads_of_bundles_go_on_into_the_next_model(
    tmp_path: Path, recorded: dict[str, str], folds: str, heads: str
) -> None:
    bundle = write_bundle(tmp_path / "earlier", networks=2, **recorded)
    fitted, plain = write_run(tmp_path / "fitted", fold=1), write_run(tmp_path / "plain", fold=3)
    write_bundle(fitted / "presence", seed=5)
    export(Arguments(bundles=(bundle, fitted, plain), output=tmp_path / "model"))
    for provenance in (read_manifest(tmp_path / "model").provenance, _table(tmp_path / "model" / "MODEL_CARD.md")):
        assert (provenance["folds"], provenance["presence head"]) == (folds, heads)


def _table(card: Path) -> dict[str, str]:
    """The rows of two cells in a card's tables."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.read_text(), flags=re.MULTILINE)
    return dict(rows)


def test_parameters_in_the_card_are_those_of_one_network(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "one", networks=2)
    export(Arguments(bundles=(bundle,), output=tmp_path / "model"))
    weights = load_ensemble(bundle, device="cpu").networks[0].parameters()
    count = sum(int(np.prod(tensor.shape)) for tensor in weights)
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert f"2 networks, whose mean counts, of {count:,} parameters" in card
