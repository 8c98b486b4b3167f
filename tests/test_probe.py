"""The linear probe: features once, a penalty by cross-validation, a floor under fine-tuning."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

import eyebright
import eyebright.keeper
from eyebright import features as features_module
from eyebright import probe, regression
from eyebright.batches import HALF, predict_logits
from eyebright.choices import begin, check_tuning
from eyebright.cli import run_app
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.errors import ModelError, UsageError
from eyebright.features import cached_features, compute_features
from eyebright.keeper import Keeper
from eyebright.models import create_model, head_of
from eyebright.optim import create_optimizers
from eyebright.prepare import freeze
from eyebright.probe import fit_probe
from eyebright.recipes import recipe_config
from eyebright.training import EpochResult, set_train

TINY = "test_efficientnet"
CONFIG = TrainConfig()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "home"))


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A file of weights for a tiny backbone."""
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_file(timm.create_model(TINY, num_classes=1000).state_dict(), path)
    return str(path)


def pictures(n: int = 12, imgsz: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, imgsz, imgsz, 3), dtype=np.uint8)


def blobs(
    counts: tuple[int, ...], width: int = 6, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of classes that overlap, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(5).normal(size=(len(counts), width))
    x = centres[labels] + generator.normal(size=(len(labels), width))
    scale = np.array([1, 10, 0.1, 1, 100, 1])[:width]
    return (x * scale + 3).astype(np.float32), labels


@pytest.mark.parametrize("name", [TINY, "test_vit", "white16", "lesson"])
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    net = create_model(name, 5, 64).eval()
    features = compute_features(net, pictures(), HALF)
    head = head_of(net)
    with torch.inference_mode():
        logits = head(torch.from_numpy(features))
    assert torch.allclose(logits, predict_logits(net, pictures(), HALF), atol=1e-5)
    assert not list(head._forward_pre_hooks)


def test_mean_features_of_mirror_images_give_their_mean_logits() -> None:
    net = create_model(TINY, 5, 64).eval()
    features = compute_features(net, pictures(), HALF, "mirror")
    with torch.inference_mode():
        logits = head_of(net)(torch.from_numpy(features))
    assert torch.allclose(logits, predict_logits(net, pictures(), HALF, "mirror"), atol=1e-5)


def test_features_are_computed_once_for_the_same_pictures_and_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = [0]
    compute = features_module.compute_features

    def counting(*arguments: object) -> object:
        count[0] += 1
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(features_module, "compute_features", counting)
    net = create_model(TINY, 2, 64).eval()
    data = Dataset(pictures(), [0, 1] * 6, ["a", "b"])
    first = cached_features(net, data, HALF, "none")
    torch.nn.init.zeros_(head_of(net).weight)  # the last layer has no part in features
    assert np.array_equal(cached_features(net, data, HALF, "none"), first)
    assert count == [1]
    cached_features(net, data, HALF, "mirror")
    cached_features(net, data.subset(range(11)), HALF, "none")
    with torch.no_grad():
        net.get_parameter("conv_stem.weight").add_(0.1)
    assert not np.array_equal(cached_features(net, data, HALF, "none"), first)
    assert count == [4]
    files = sorted((tmp_path / "home" / "features").iterdir())
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])  # damaged: made anew
    cached_features(net, data, HALF, "none")
    assert count == [5]


def test_no_room_for_the_cache_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "file"))
    net, data = create_model(TINY, 2, 64).eval(), Dataset(pictures(2), [0, 1], ["a", "b"])
    assert cached_features(net, data, HALF, "none").shape == (2, head_of(net).in_features)


@pytest.mark.parametrize("counts", [(60, 60), (50, 50, 50)])
def test_the_probe_is_logistic_regression_on_scaled_features(counts: tuple[int, ...]) -> None:
    x, labels = blobs(counts)
    found = fit_probe(x, labels, len(counts), CONFIG)
    assert found.losses[found.penalty] == min(found.losses.values())
    assert min(found.losses.values()) < found.losses[regression.PENALTIES[0]] - 0.01  # it matters
    tried = list(found.losses)  # from heavy to light, until two were in vain
    assert tried == list(regression.PENALTIES[: len(tried)])
    assert len(tried) - 1 - tried.index(found.penalty) == regression.PATIENCE
    scaled = (x - x.mean(0)) / x.std(0)
    reference = LogisticRegression(C=1 / found.penalty, max_iter=1000).fit(scaled, labels)
    logits = found.logits(x)
    ours = torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert np.abs(ours - reference.predict_proba(scaled)).max() < 1e-3
    likelihood = np.log(reference.predict_proba(scaled)[np.arange(len(labels)), labels])
    assert found.loss == pytest.approx(-likelihood.mean(), abs=1e-3)


def test_the_penalty_is_found_without_the_pictures_it_is_judged_by() -> None:
    # Of noise, nothing can be learned: the heaviest penalty is the best, whatever fits best.
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 200)).astype(np.float32)
    found = fit_probe(x, np.arange(80) % 2, 2, CONFIG)
    assert found.penalty >= 1000


def test_groups_are_left_out_together() -> None:
    # Each group is its own cluster, its label by chance: only groups torn apart look learnable.
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(20, 30)) * 3
    labels = np.repeat(np.arange(20) % 2, 6)
    x = (np.repeat(centres, 6, 0) + generator.normal(size=(120, 30)) * 0.1).astype(np.float32)
    groups = [str(i) for i in np.repeat(np.arange(20), 6)]
    apart = fit_probe(x, labels, 2, CONFIG)
    together = fit_probe(x, labels, 2, CONFIG, groups)
    assert min(apart.losses.values()) < 0.1
    assert min(together.losses.values()) > 0.5


def test_logit_adjustment_takes_the_shares_off_the_biases() -> None:
    x, labels = blobs((300, 30))
    plain = fit_probe(x, labels, 2, CONFIG.replace(balance="none"))
    adjusted = fit_probe(x, labels, 2, CONFIG.replace(balance="logit-adjust"))
    difference = adjusted.bias - plain.bias
    assert difference[1] - difference[0] == pytest.approx(np.log(10))
    weighted = fit_probe(x, labels, 2, CONFIG.replace(balance="weights"))

    def recall(found: probe.Probe) -> float:
        return float((found.logits(x).argmax(1)[labels == 1] == 1).mean())

    assert recall(adjusted) > recall(plain)
    assert recall(weighted) > recall(plain)


def test_a_class_of_one_picture_leaves_nothing_to_compare() -> None:
    x, labels = blobs((9, 1))
    found = fit_probe(x, labels, 2, CONFIG)
    assert found.losses == {}
    assert "too few" in found.line(10)


def test_a_layer_without_bias_gets_none() -> None:
    x, labels = blobs((50, 50))
    found = fit_probe(x, labels, 2, CONFIG, with_bias=False)
    assert np.allclose(found.bias, 0)
    assert (found.logits(x).argmax(1) == labels).mean() > 0.7


def test_many_pictures_are_compared_by_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "MOST_COMPARED", 100)
    x, labels = blobs((300, 300))
    found = fit_probe(x, labels, 2, CONFIG)
    assert found.losses
    assert (found.logits(x).argmax(1) == labels).mean() > 0.8


def train_tiny(folder: Path, tiny: str, **settings: object) -> eyebright.Run:
    return eyebright.train(
        folder, recipe="finetune", model=TINY, weights=tiny, imgsz=64, quiet=True, **settings
    )


def test_a_probe_is_a_run_like_any_other(class_folders: Callable[..., Path], tiny: str) -> None:
    folder = class_folders("photos/train", count=20, size=(90, 70))
    class_folders("photos/test", count=5, size=(70, 90))
    run = train_tiny(folder.parent, tiny)
    [row] = run.log()
    assert row["epoch"] == row["step"] == "0"
    assert float(row["val_accuracy"]) == 1.0  # bright or dark
    assert run.classifier().card.epoch == 0
    assert run.classifier().card.temperature is not None
    assert json.loads((run.path / "env.json").read_text())["first_weights"] == tiny
    assert run.test().figures["accuracy"].value == 1.0
    given = load_file(tiny)
    for name, tensor in load_file(run.path / "model.safetensors").items():
        if not name.startswith("classifier"):
            assert torch.equal(tensor, given[name])


def test_large_pictures_are_finetuned_and_small_ones_are_not(
    class_folders: Callable[..., Path],
) -> None:
    assert begin(None, {}, 224).recipe == "finetune"
    assert begin(None, {}, 64).recipe == "fast"
    assert begin(None, {"model": "wide32"}, 224).recipe == "fast"
    assert begin(None, {"time": 60.0}, 224).recipe == "fast"  # a probe takes the time it takes
    assert begin(None, {"model": "resnet18"}, 32).recipe == "finetune"
    run = eyebright.train(class_folders(size=(80, 80)), imgsz=32, epochs=1, quiet=True)
    assert run.config.recipe == "fast"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3}, "no epochs"),
        ({"time": 60.0}, "--time is for nets"),
        ({"tune": "some"}, "--tune cannot be 'some'"),
        ({"init": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises((UsageError, ModelError), match=message):
        check_tuning(begin("finetune", settings), settings)
    with pytest.raises(UsageError, match="--tune none leaves nothing"):
        eyebright.train("digits", recipe="fast", tune="none")


def test_tuning_the_last_layers_leaves_the_first_alone(
    class_folders: Callable[..., Path], tiny: str
) -> None:
    folder = class_folders(count=20, size=(64, 64))
    given = load_file(tiny)
    for tune in ("last", "all"):
        net = create_model(TINY, 2, 64)
        freeze(net, tune)
        moving = [name for name, p in net.named_parameters() if p.requires_grad]
        assert ("conv_stem.weight" in moving) == (tune == "all")
        assert {"classifier.weight", "classifier.bias", "conv_head.weight"} <= set(moving)
        assert not any(".bn" in name or name.startswith("bn") for name in moving)
    run = train_tiny(folder, tiny, tune="last", epochs=2, metric="accuracy")
    assert [row["epoch"] for row in run.log()] == ["0", "1", "2"]
    kept = load_file(run.path / "model.safetensors")
    assert torch.equal(kept["conv_stem.weight"], given["conv_stem.weight"])
    assert torch.equal(kept["bn1.running_mean"], given["bn1.running_mean"])


def test_a_probe_that_reaches_the_target_is_enough(
    class_folders: Callable[..., Path], tiny: str
) -> None:
    folder = class_folders(count=20, size=(64, 64))
    run = train_tiny(folder, tiny, tune="all", target=0.9)
    assert [row["epoch"] for row in run.log()] == ["0"]


def test_ants_and_bees_are_told_apart(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "ants-bees.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = {path.parent for path in tmp_path.rglob("train")}
    run = eyebright.train(folder / "train", quiet=True)
    assert run.config.recipe == "finetune"
    assert "efficientnet-lite0" in json.loads((run.path / "env.json").read_text())["first_weights"]
    evaluation = run.test(folder / "val")
    assert evaluation.accuracy.n == 153
    assert (evaluation.accuracy.value or 0) > 0.93


def test_frozen_norms_keep_their_statistics_in_training() -> None:
    net = create_model(TINY, 2, 64)
    set_train(net)
    assert net.get_submodule("bn1").training
    freeze(net, "all")
    set_train(net)
    assert not net.get_submodule("bn1").training
    assert net.get_submodule("blocks.0").training
    white = create_model("white16", 2, 16)  # norms whose scale is fixed and whose bias is learned
    set_train(white)
    assert all(module.training for module in white.modules())


def test_earlier_layers_move_more_slowly() -> None:
    net = create_model(TINY, 2, 64)
    [optimizer] = create_optimizers(net, recipe_config("finetune"))
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    stem, head = (rate[id(net.get_parameter(f"{n}.weight"))] for n in ("conv_stem", "classifier"))
    assert head == recipe_config("finetune").lr
    assert 0 < stem < 0.3 * head


HELD_OUT = Dataset(np.zeros((20, 16, 16, 3), np.uint8), np.arange(20) // 10, ("a", "b"))


def keeper(folder: Path, **settings: Any) -> Keeper:
    """Of a net for two classes, with twenty pictures held out."""
    config = CONFIG.replace(imgsz=16, **settings)
    return Keeper(folder, create_model("white16", 2, 16), config, ("a", "b"), HALF, HELD_OUT)


def result(epoch: int, right: int, sure: float = 2.0) -> EpochResult:
    """An epoch that has so many of the first class right, and all of the second."""
    said = np.where(np.arange(20) < right, 0, 1)
    logits = torch.full((20, 2), -sure)
    logits[np.arange(20), said] = sure
    logits[right:10] *= 0.1 if sure > 2 else 1
    confusion = np.array([[right, 10 - right], [0, 10]])
    return EpochResult(epoch, epoch, 1.0, 0.5, (), confusion, logits)


def test_only_what_is_better_by_more_than_chance_takes_a_probes_place(tmp_path: Path) -> None:
    kept_by = keeper(tmp_path)
    for epoch, right, kept in ((0, 5, 0), (1, 4, 0), (2, 5, 0), (3, 6, 0), (4, 10, 4), (5, 9, 4)):
        kept_by.keep(result(epoch, right))
        assert kept_by.saved == kept


def test_a_lower_figure_does_not_ship_however_low_its_loss(tmp_path: Path) -> None:
    kept_by = keeper(tmp_path)
    probe, surer = result(0, 9), result(1, 8, sure=4.0)
    kept_by.keep(probe)
    kept_by.keep(surer)
    assert kept_by.losses(surer).mean() < kept_by.losses(probe).mean()
    assert kept_by.saved == 0


def test_where_classes_count_the_same_so_do_their_losses(tmp_path: Path) -> None:
    kept_by = keeper(tmp_path, balance="weights")
    kept_by.val_set = HELD_OUT.subset(np.arange(5, 20))  # five and ten
    all_right = result(1, 10)
    assert all_right.val_logits is not None
    losses = kept_by.losses(replace(all_right, val_logits=all_right.val_logits[5:]))
    assert losses[:5].sum() == pytest.approx(losses[5:].sum())
    assert losses.mean() == pytest.approx(losses[0] / 1.5)  # it is 15 / 10 of what all have


def test_a_target_is_reached_by_what_ships(tmp_path: Path) -> None:
    kept_by = keeper(tmp_path, target=0.8)
    kept_by.keep(result(0, 5))
    kept_by.keep(refused := result(1, 6))
    assert kept_by.score(refused) >= 0.8
    assert not kept_by.reaches_target(refused)
    assert "not reached: 75.0 %" in kept_by.target_line(refused, 0.8, 1.0)
    kept_by.keep(kept := result(2, 10))
    assert kept_by.reaches_target(kept)


def test_a_run_begins_where_another_ended(
    class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    two = class_folders("two", ("cat", "dog"), size=(20, 20))
    three = class_folders("three", ("cat", "dog", "eel"), size=(20, 20))
    first = eyebright.train(two, model="white16", epochs=2, quiet=True)
    code = run_app(
        ["train", str(three), "--init", str(first.path), "--epochs", "1", "--lr", "1e-9"]
    )
    assert code == 0
    assert f"white16 begins with the weights of {first.path}" in capsys.readouterr().out
    second = eyebright.Run("runs/three-fast")
    assert second.config.imgsz == first.config.imgsz
    assert second.classifier().card.normalization == first.classifier().card.normalization
    old, new = (load_file(run.path / "model.safetensors") for run in (first, second))
    name = "stages.0.conv1.weight"
    cosine = torch.cosine_similarity(old[name].flatten(), new[name].flatten(), dim=0)
    assert cosine > 0.9999  # Muon sets the norm, not the direction
    assert new["head.weight"].shape[0] == 3
    again = eyebright.train(two, init=str(first.path), recipe="finetune", quiet=True)
    assert len(again.log()) == 1  # a probe on its own features
    assert run_app(["train", str(two), "--init", str(first.path), "--model", "wide32"]) == 2
    assert "leave --model out" in capsys.readouterr().err


def test_a_backbone_from_nothing(
    class_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(size=(64, 64))
    arguments = ["train", str(folder), "--model", TINY, "--no-pretrained", "--imgsz", "32"]
    assert run_app([*arguments, "--name", "bare", "--epochs", "2"]) == 0
    assert [row["epoch"] for row in eyebright.Run("runs/bare").log()] == ["1", "2"]
    assert begin("finetune", {"weights": "none"}).min_steps == 300
    assert run_app([*arguments, "--weights", "x.pth"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_temperature_comes_from_more_than_the_few_held_out(
    class_folders: Callable[..., Path], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watch(logits: NDArray[np.float32], labels: NDArray[np.int64], even: bool) -> float:
        seen.append((logits.shape, labels.shape, even))
        return 1.5

    monkeypatch.setattr(eyebright.keeper, "fit_temperature", watch)
    run = train_tiny(class_folders(count=20, size=(64, 64)), tiny)
    assert seen == [((40, 2), (40,), False)]  # 4 held out, 36 left out in turn
    assert run.classifier().card.temperature == 1.5


def test_pictures_left_out_are_told_by_fits_that_never_saw_them() -> None:
    # Labels by chance: a fit knows those that it saw by heart, of others it knows nothing.
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 300)).astype(np.float32)
    labels = generator.integers(0, 2, 100)
    found = fit_probe(x, labels, 2, CONFIG)
    right = [logits.argmax(1) == truth for logits, truth in found.spare]
    assert sum(map(len, right)) == 100
    assert np.concatenate(right).mean() < 0.65
    assert (found.logits(x).argmax(1) == labels).mean() > 0.95
