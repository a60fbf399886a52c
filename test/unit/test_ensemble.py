import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import longilesion.ensemble
import longilesion.weight_file
from longilesion.bundle import Member, is_bundle, read_manifest, save_bundle, save_members
from longilesion.config import InferenceSettings, ModelSettings, Thresholds
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import BundleError
from longilesion.geometry import Grid
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput
from longilesion.pipeline import segment_case
from test.unit.builders import (
    NetworkWithoutWeights,
    case_of,
    click,
    dual_encoder,
    model_settings,
    random_input,
    scan_with,
)

SETTINGS = model_settings()


def networks(count: int, settings: ModelSettings = SETTINGS) -> list[LesionNetwork]:
    torch.manual_seed(0)
    return [build_network(settings) for _ in range(count)]


def bundle_of(folder: Path, count: int = 1, settings: ModelSettings = SETTINGS) -> Path:
    save_bundle(folder, settings, networks(count, settings), provenance={"licence": "research use only"})
    return folder


def ensemble_of(*members: LesionNetwork, settings: ModelSettings = SETTINGS) -> Ensemble:
    return Ensemble.of(settings, members, device=torch.device("cpu"), precision=torch.float32)


class Echo(NetworkWithoutWeights):
    """A network whose logit is the follow-up's first channel plus a slope along z; presence is the channel's top."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        logits = batch.followup[:, :1]
        ramp = torch.arange(logits.shape[2], dtype=torch.float32)[:, None, None]
        return NetworkOutput(
            lesion_logits=(logits + self.slope * ramp,),
            presence_logit=logits.flatten(1).amax(1),
        )


# ---------------------------------------------------------------------------------------------------------- bundles


@pytest.mark.parametrize(
    "network",
    [dual_encoder(), dual_encoder(encoder="residual", stem_zyx=(1, 2, 2)), dual_encoder(baseline_reconstruction=False)],
    ids=["plain", "residual with a stem", "without reconstruction"],
)
def test_saved_bundle_predicts_what_its_network_does(tmp_path: Path, network: object) -> None:
    settings = model_settings(shape_zyx=(8, 16, 16), network=network, inference=InferenceSettings(threshold=0.4))
    (original,) = networks(1, settings)
    save_bundle(tmp_path, settings, [original], provenance={"recipe": "test"})
    assert is_bundle(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold_0.safetensors", "settings.json"]
    assert {tensor.dtype for tensor in load_file(tmp_path / "fold_0.safetensors").values()} == {torch.float16}
    assert read_manifest(tmp_path).provenance == {"recipe": "test"}
    loaded = load_ensemble(tmp_path, device="cpu", precision="float32")
    assert loaded.settings == settings
    batch = random_input(settings)
    expected, presence, _ = ensemble_of(original.eval(), settings=settings).predict(batch)
    outline, there, _ = loaded.predict(batch)
    torch.testing.assert_close(outline, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(there, presence, atol=5e-3, rtol=0)


def test_saving_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    (network,) = networks(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_bundle(tmp_path, SETTINGS, [network], provenance={})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_bundle_of_fewer_folds_replaces_one_of_more(tmp_path: Path) -> None:
    bundle_of(tmp_path, 3)
    bundle_of(tmp_path, 1)
    assert len(load_ensemble(tmp_path, device="cpu").networks) == 1


def break_nothing_but(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def with_settings(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "settings.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def with_member(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (member,) = json.loads((folder / "settings.json").read_text())["members"]
        with_settings(members=[member | changes])(folder)

    return damage


def with_tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "fold_0.safetensors"
        save_file(change(load_file(path)), path)

    return damage


def pickled(folder: Path) -> None:
    (folder / "fold_0.safetensors").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))


HEAD = "presence.layers.0.weight"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no settings": (lambda folder: (folder / "settings.json").unlink(), "settings.json: No such file"),
    "invalid JSON": (
        break_nothing_but("settings.json", lambda text: text[:40]),
        "settings.json: the file: Invalid JSON",
    ),
    "no text": (break_nothing_but("settings.json", lambda text: b"\xff\xfe" + text), "settings.json: "),
    "a list": (break_nothing_but("settings.json", lambda text: b"[1, 2]"), "settings.json: "),
    "another version": (with_settings(schema_version=4), "schema version 4; expected 1 to 3"),
    "another version with other keys": (
        with_settings(schema_version=4, settings={"scans": 3}, authors=["A"]),
        "schema version 4; expected 1 to 3",
    ),
    "no version": (with_settings(schema_version=None), "settings.json: schema_version: "),
    "unknown keys": (with_settings(colour="blue"), "settings.json: colour: Extra inputs"),
    "impossible settings": (with_member(settings={"voi": 3}), "settings.json: members.0.settings.voi: "),
    "no members": (with_settings(members=[]), "settings.json: members: "),
    "no weight": (with_member(weight=0.0), "settings.json: members.0.weight: "),
    "a weight without end": (with_member(weight=float("inf")), "settings.json: members.0.weight: "),
    "a member without networks": (with_member(networks=[]), "settings.json: members.0.networks: "),
    "a file elsewhere": (with_member(networks=["../fold_0.safetensors"]), "settings.json: members.0.networks.0: "),
    "a file listed twice": (with_member(networks=["fold_0.safetensors"] * 2), "fold_0.safetensors is listed twice"),
    "a file that is missing": (
        lambda folder: (folder / "fold_0.safetensors").unlink(),
        "fold_0.safetensors: is missing, but listed in settings.json",
    ),
    "a file that is not listed": (
        lambda folder: shutil.copy(folder / "fold_0.safetensors", folder / "fold_1.safetensors"),
        "fold_1.safetensors: is not listed in settings.json",
    ),
    "truncated weights": (
        break_nothing_but("fold_0.safetensors", lambda raw: raw[:-100]),
        "fold_0.safetensors: damaged",
    ),
    "empty weights": (break_nothing_but("fold_0.safetensors", lambda raw: b""), "fold_0.safetensors: damaged"),
    "a pickle": (pickled, "fold_0.safetensors: damaged or not a safetensors file"),
    "a missing tensor": (
        with_tensors(lambda tensors: {name: tensors[name] for name in tensors if name != HEAD}),
        f"tensor {HEAD} is missing",
    ),
    "an unknown tensor": (with_tensors(lambda tensors: tensors | {"zoo": torch.zeros(2)}), "tensor zoo is unknown"),
    "a tensor with NaN": (
        with_tensors(lambda tensors: tensors | {HEAD: torch.full_like(tensors[HEAD], float("nan"))}),
        f"tensor {HEAD} has NaN or infinity",
    ),
    "a tensor of another shape": (with_tensors(lambda tensors: tensors | {HEAD: torch.zeros(2, 2)}), HEAD),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_bundle_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle_of(tmp_path))
    with pytest.raises(BundleError) as caught:
        load_ensemble(tmp_path, device="cpu")
    assert message in str(caught.value)
    assert "; expected " in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"^\S+/nowhere/settings.json: No such file or directory"):
        load_ensemble(tmp_path / "nowhere")


def test_no_cuda_means_the_cpu_and_refuses_only_who_insists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bundle_of(tmp_path)
    ensemble = load_ensemble(tmp_path)
    assert ensemble.device.type == "cpu"
    outline, presence, _ = ensemble.predict(random_input(SETTINGS))
    assert (outline.shape, presence.shape) == ((2, 8, 8, 8), (2,))
    with pytest.raises(BundleError, match="no CUDA device is available; expected one, or --device cpu"):
        load_ensemble(tmp_path, device="cuda")


@pytest.mark.parametrize("supported", [True, False])
def test_automatic_precision_is_bfloat16_only_where_the_cpu_multiplies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    monkeypatch.setattr(longilesion.ensemble, "_has_cpu_bfloat16", lambda: supported)
    precision = load_ensemble(bundle_of(tmp_path), device="cpu").precision
    assert precision == (torch.bfloat16 if supported else torch.float32)


def as_of_schema(version: int, folder: Path) -> dict[str, Any]:
    """Turns a bundle of one member into one of an earlier schema, and returns its manifest."""
    path = folder / "settings.json"
    content = json.loads(path.read_text())
    assert content["schema_version"] == 3
    settings = content["members"][0]["settings"]
    if version == 1:
        network = settings["network"]
        settings["network"] = {**{k: v for k, v in network.items() if k != "unet"}, **network["unet"]}
    earlier = {"schema_version": version, "settings": settings, "provenance": content["provenance"]}
    path.write_text(json.dumps(earlier))
    return earlier


@pytest.mark.parametrize("version", [1, 2])
def test_bundle_of_an_earlier_schema_is_read_as_one_of_one_member(tmp_path: Path, version: int) -> None:
    now = read_manifest(bundle_of(tmp_path, 2))
    expected = load_ensemble(tmp_path, device="cpu", precision="float32").predict(random_input(SETTINGS))
    content = as_of_schema(version, tmp_path)
    assert read_manifest(tmp_path) == now
    ensemble = load_ensemble(tmp_path, device="cpu", precision="float32")
    assert ensemble.settings == SETTINGS
    for found, known in zip(ensemble.predict(random_input(SETTINGS)), expected, strict=True):
        assert torch.equal(found, known)
    content["settings"]["network"]["depth"] = 3
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"settings\.json: settings\.network\S*\.depth: Extra inputs"):
        read_manifest(tmp_path)
    for fold in tmp_path.glob("fold_*"):
        fold.unlink()
    del content["settings"]["network"]["depth"]
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"no fold_\*\.safetensors beside settings\.json; expected one file per"):
        load_ensemble(tmp_path, device="cpu")


def test_members_are_saved_and_loaded_in_their_order_with_settings_and_weights(tmp_path: Path) -> None:
    wide = model_settings(shape_zyx=(8, 16, 8), network=dual_encoder(presence_features=8))
    members = [
        Member(settings=settings, networks=tuple(networks(count, settings)), weight=weight)
        for settings, count, weight in ((SETTINGS, 2, 0.5), (wide, 1, 3.0), (SETTINGS, 1, 1.0))
    ]
    thresholds = Thresholds(threshold=0.3, presence_threshold=0.1)
    save_members(tmp_path, members, thresholds, provenance={"recipe": "test"})
    manifest = json.loads((tmp_path / "settings.json").read_text())
    assert [member["networks"] for member in manifest["members"]] == [
        ["fold_0.safetensors", "fold_1.safetensors"],
        ["fold_2.safetensors"],
        ["fold_3.safetensors"],
    ]
    loaded = load_ensemble(tmp_path, device="cpu", precision="float32")
    assert loaded.thresholds == thresholds
    assert [member.weight for member in loaded.members] == [0.5, 3.0, 1.0]
    assert [member.settings for member in loaded.members] == [SETTINGS, wide, SETTINGS]
    for network, given in zip(loaded.networks, (each for member in members for each in member.networks), strict=True):
        for name, tensor in given.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor.half().float())
    for ask in (lambda: loaded.settings, lambda: loaded.predict(random_input(SETTINGS))):
        with pytest.raises(BundleError, match=r": 3 members of different settings; expected one$"):
            ask()
    assert loaded.main_settings == wide
    mirrored = loaded.with_settings(lambda settings: settings.with_views(("z", "x")))
    assert [member.settings.inference.mirror_axes for member in mirrored.members] == [("z", "x")] * 3
    assert mirrored.with_settings(lambda settings: settings.with_views(())).members[1].settings == wide
    assert (mirrored.networks, mirrored.thresholds) == (loaded.networks, thresholds)


def test_same_weights_give_the_same_file_each_time_whatever_their_layout(tmp_path: Path) -> None:
    (network,) = networks(1)
    save_bundle(tmp_path / "one", SETTINGS, [network], provenance={})
    network.to(memory_format=torch.channels_last_3d)
    save_bundle(tmp_path / "two", SETTINGS, [network], provenance={})
    one, two = ((tmp_path / name / "fold_0.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    # Layers that bear two names are stored once.
    assert load_file(tmp_path / "one" / "fold_0.safetensors").keys() == dict(network.named_parameters()).keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_no_finite_float16_numbers_are_not_saved(tmp_path: Path, value: float) -> None:
    (network,) = networks(1)
    next(network.encoder.parameters()).data.view(-1)[3] = value
    with pytest.raises(BundleError, match=r"fold_0\.safetensors: tensor encoder\S+ has NaN or infinity"):
        save_bundle(tmp_path / "model", SETTINGS, [network], provenance={})
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize(
    ("device", "shape_zyx", "expected"),
    [("cpu", (40, 80, 80), 2), ("cpu", (64, 128, 128), 1), ("cuda", (64, 128, 128), 8)],
)
def test_large_lattices_go_one_at_a_time_on_a_cpu(device: str, shape_zyx: tuple[int, int, int], expected: int) -> None:
    ensemble = ensemble_of(settings=model_settings(shape_zyx=shape_zyx))
    assert replace(ensemble, device=torch.device(device)).batch_size(ensemble.settings) == expected


def test_ensemble_is_the_mean_of_its_folds(tmp_path: Path) -> None:
    bundle_of(tmp_path, 3)
    ensemble = load_ensemble(tmp_path, device="cpu", precision="float32")
    batch = random_input(SETTINGS)
    single = [ensemble.predict(batch, replace(ensemble.only_member, networks=(fold,))) for fold in ensemble.networks]
    assert not torch.allclose(single[0][0], single[1][0])
    outline, presence, _ = ensemble.predict(batch)
    torch.testing.assert_close(outline, torch.stack([fold[0] for fold in single]).mean(0))
    torch.testing.assert_close(presence, torch.stack([fold[1] for fold in single]).mean(0))


def test_deviation_is_that_among_all_folds_and_views(tmp_path: Path) -> None:
    settings = model_settings(inference=InferenceSettings(mirror_axes=("z", "x")))
    save_bundle(tmp_path, settings, networks(2), provenance={})
    ensemble = load_ensemble(tmp_path, device="cpu", precision="float32")
    batch = random_input(SETTINGS)
    seen = []
    for axes in ([], [2], [4], [2, 4]):
        for fold in ensemble.networks:
            with torch.inference_mode():
                seen.append(fold(batch.mirrored(axes)).lesion_logits[0].sigmoid().flip(axes)[:, 0])
    outline, _, deviation = ensemble.predict(batch)
    torch.testing.assert_close(outline, torch.stack(seen).mean(0))
    torch.testing.assert_close(deviation, torch.stack(seen).std(0, unbiased=False), atol=2e-4, rtol=1e-3)
    assert float(deviation.max()) > 1e-3


def test_mirrored_views_are_turned_back() -> None:
    settings = model_settings(inference=InferenceSettings(mirror_axes=("z", "y", "x")))
    batch = random_input(settings)
    outline, presence, _ = ensemble_of(Echo(), settings=settings).predict(batch)
    torch.testing.assert_close(outline, batch.followup[:, 0].sigmoid())
    torch.testing.assert_close(presence, batch.followup[:, 0].flatten(1).amax(1).sigmoid())


def test_mirroring_averages_what_a_network_says_of_either_side() -> None:
    settings = model_settings(inference=InferenceSettings(mirror_axes=("z",)))
    batch = random_input(settings)
    outline, _, _ = ensemble_of(Echo(slope=0.3), settings=settings).predict(batch)
    ramp = 0.3 * torch.arange(8.0)[:, None, None]
    logits = batch.followup[:, 0]
    torch.testing.assert_close(outline, ((logits + ramp).sigmoid() + (logits + ramp.flip(0)).sigmoid()) / 2)


def test_prediction_of_a_mirrored_lesion_is_the_mirrored_prediction() -> None:
    settings = model_settings(inference=InferenceSettings(mirror_axes=("y", "x")))
    ensemble = ensemble_of(*(network.eval() for network in networks(1, settings)), settings=settings)
    batch = random_input(settings)
    turned = batch.mirrored([4])
    outline, presence, _ = ensemble.predict(batch)
    outline_turned, presence_turned, _ = ensemble.predict(turned)
    torch.testing.assert_close(outline_turned, outline.flip(3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(presence_turned, presence, atol=1e-5, rtol=1e-4)


def test_batch_predicts_what_its_lesions_do_one_by_one() -> None:
    ensemble = ensemble_of(*(network.eval() for network in networks(1)))
    batch = random_input(SETTINGS, 3)
    batch.has_baseline[1] = False
    for maps in (batch.baseline, batch.prior_mask):
        maps[1] = 0
    outline, presence, _ = ensemble.predict(batch)
    for index in range(3):
        part = slice(index, index + 1)
        alone = ensemble.predict(batch[part])
        torch.testing.assert_close(alone[0], outline[part], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone[1], presence[part], atol=1e-5, rtol=1e-4)


def test_bfloat16_predicts_about_what_float32_does(tmp_path: Path) -> None:
    bundle_of(tmp_path)
    batch = random_input(SETTINGS)
    exact = load_ensemble(tmp_path, device="cpu", precision="float32").predict(batch)
    rounded = load_ensemble(tmp_path, device="cpu", precision="bfloat16").predict(batch)
    for precise, coarse in zip(exact, rounded, strict=True):
        assert coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, precise, atol=0.03, rtol=0)


def limit_memory(monkeypatch: pytest.MonkeyPatch, lesions: int) -> list[int]:
    """Lets predictions of more than that many lesions run out of memory; returns the sizes that were tried."""
    tried: list[int] = []
    predict = Ensemble._predict

    def limited(self: Ensemble, batch: NetworkInput, member: Member) -> tuple[Tensor, Tensor]:
        tried.append(len(batch.followup))
        if len(batch.followup) > lesions:
            raise torch.OutOfMemoryError
        return predict(self, batch, member)

    monkeypatch.setattr(Ensemble, "_predict", limited)
    return tried


def test_gpu_out_of_memory_halves_the_batch_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ensemble, batch = ensemble_of(Echo()), random_input(SETTINGS, 5)
    expected = ensemble.predict(batch)
    tried = limit_memory(monkeypatch, 2)
    outline, presence, _ = ensemble.predict(batch)
    assert tried == [5, 3, 2, 1, 2]
    assert torch.equal(outline, expected[0])
    assert torch.equal(presence, expected[1])
    assert "ran out of memory with a batch of 5 lesions" in caplog.text


def test_gpu_too_small_for_one_lesion_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = limit_memory(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        ensemble_of(Echo()).predict(random_input(SETTINGS, 4))
    assert tried == [4, 2, 1]


def test_no_random_numbers_are_drawn_for_weights_that_are_read(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    before = torch.get_rng_state()
    load_ensemble(bundle, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_read_once_for_all_lesions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = longilesion.weight_file.load_model

    def counted(network: nn.Module, path: str, strict: bool) -> object:
        read.append(Path(path).name)
        return load(network, path, strict=strict)

    monkeypatch.setattr(longilesion.weight_file, "load_model", counted)
    ensemble = load_ensemble(bundle_of(tmp_path, 2), device="cpu")
    grid = Grid.from_spacing((16, 24, 24), (2.0, 1.0, 1.0))
    points = [(4.0 + 3 * number, 12.0, 16.0) for number in range(5)]
    scan, lesions = scan_with({number: (point, 1.5) for number, point in enumerate(points, start=1)}, grid)
    clicks = [(number, click(point), click(point)) for number, point in enumerate(points, start=1)]
    result = segment_case(
        case_of(clicks, followups={"primary": scan}, baselines={"primary": (scan, lesions)}), ensemble
    )
    assert len(result.lesions) == 5
    assert read == ["fold_0.safetensors", "fold_1.safetensors"]


class Overflowing(NetworkWithoutWeights):
    """A network whose logits are infinite in all but float32, or NaN of lesions without a baseline if `broken`."""

    def __init__(self, *, broken: bool = False, presence: bool = True) -> None:
        super().__init__()
        self.broken, self.judges_presence = broken, presence
        self.precisions: list[torch.dtype] = []

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        maps = batch.followup[:, :1]
        # A matrix product, which autocast casts.
        said = maps @ torch.eye(maps.shape[-1])
        self.precisions.append(said.dtype)
        logits = said + float("inf") if said.dtype != torch.float32 else said
        if self.broken:
            logits = torch.where(batch.has_baseline[:, None, None, None, None], logits, float("nan"))
        presence = logits.flatten(1).amax(1) if self.judges_presence else None
        return NetworkOutput(lesion_logits=(logits,), presence_logit=presence)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_outputs_that_overflow_are_taken_again_in_float32_and_said_once(
    caplog: pytest.LogCaptureFixture, precision: torch.dtype
) -> None:
    network = Overflowing()
    name = f"model of {precision}"
    ensemble = replace(ensemble_of(network), precision=precision, name=name)
    batch = random_input(SETTINGS)
    for _ in range(2):
        outline, presence, _ = ensemble.predict(batch)
        torch.testing.assert_close(outline, batch.followup[:, 0].sigmoid())
        torch.testing.assert_close(presence, batch.followup[:, 0].flatten(1).amax(1).sigmoid())
    assert network.precisions == [precision, torch.float32] * 2
    assert caplog.text.count(f"{name}: gives NaN or infinity in {str(precision)[6:]}") == 1


def test_outputs_that_are_no_numbers_in_float32_either_are_an_error() -> None:
    batch = random_input(SETTINGS, 3)
    batch.has_baseline[1] = False
    for precision in (torch.float32, torch.bfloat16):
        ensemble = replace(ensemble_of(Overflowing(broken=True)), precision=precision, name="model")
        with pytest.raises(BundleError, match=r"^model: NaN or infinity for 1 of 3 lesions, also in float32; expected"):
            ensemble.predict(batch)


def test_network_that_does_not_judge_presence_says_none_also_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, batch = ensemble_of(Overflowing(presence=False)), random_input(SETTINGS, 3)
    outline, presence, _ = ensemble.predict(batch)
    assert presence is None
    limit_memory(monkeypatch, 1)
    parts = ensemble.predict(batch)
    assert torch.equal(parts[0], outline)
    assert parts[1] is None
