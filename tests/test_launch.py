"""`train` and `Run`: the folder that is written, and what is done with it."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import eyebright
from eyebright import (
    Classifier,
    Dataset,
    Run,
    TrainConfig,
    choices,
    drive,
    jobs,
    keeper,
    launch,
    memory,
    prepare,
)
from eyebright.errors import DataError, ModelError, NumbersError, StorageError, UsageError
from eyebright.models import LessonNet
from eyebright.training import EpochResult
from eyebright.wording import class_table
from tampering import change_card

FAST = {"epochs": 2, "batch_size": 16, "model": "white16", "device": "cpu", "seed": 1}


@pytest.fixture
def brightness() -> Dataset:
    """Pictures that a net tells apart by their brightness."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    pixels = 30 + 90 * labels[:, None, None, None] + generator.integers(0, 30, (120, 16, 16, 3))
    return Dataset(pixels.astype(np.uint8), labels, ["dark", "grey", "light"], name="shades")


def test_a_run_folder_holds_all_it_takes(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "config.json",
        "env.json",
        "data.json",
        "log.csv",
        "model.safetensors",
        "model.json",
        "val.json",
        "predictions-val.csv",
        "report.html",
        "model-card.md",
        "trained-on.safetensors",
        "checkpoints",
        ".lock",
    }
    config = TrainConfig.from_json((run.path / "config.json").read_text())
    assert config == run.config
    assert (config.epochs, config.batch_size, config.seed) == (2, 16, 1)
    assert config.device == "cpu"
    assert config.precision in ("fp32", "bf16")  # decided, not "auto"
    assert config.threads >= 1
    assert config.imgsz == 16
    env = json.loads((run.path / "env.json").read_text())
    assert env["packages"]["torch"] == torch.__version__.split("+")[0]
    assert env["device"] == "cpu"
    assert isinstance(env["command"], list)
    record = json.loads((run.path / "data.json").read_text())
    assert record["fingerprint"] == brightness.fingerprint
    assert record["classes"] == ["dark", "grey", "light"]
    assert record["counts"] == {"dark": 36, "grey": 36, "light": 36}
    assert sorted(record["splits"]["train"] + record["splits"]["val"]) == list(range(120))
    log = run.log()
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert float(log[0]["seconds"]) < float(log[1]["seconds"])
    assert 0 <= float(log[1]["val_accuracy"]) <= 1
    card = json.loads((run.path / "model.json").read_text())
    assert card["format"] == 2
    assert card["architecture"] == "white16"
    assert card["imgsz"] == 16


def test_runs_are_never_overwritten(
    brightness: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "x-2", "x-3"):
        assert eyebright.train(brightness, name="x", **FAST).path.name == name
        said = capsys.readouterr().out
        told = f"runs/x is there already, so that this run is runs/{name}" in said
        assert told == (name != "x")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden"])
def test_a_run_is_never_written_elsewhere(brightness: Dataset, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        launch.claim_folder(Path("runs"), name)


def test_train_is_reproducible(brightness: Dataset) -> None:
    first, second = (eyebright.train(brightness, quiet=True, **FAST).path for _ in range(2))
    weights = [(path / "model.safetensors").read_bytes() for path in (first, second)]
    assert weights[0] == weights[1]


def test_the_best_epoch_is_kept(brightness: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = [0.5, 0.9, 0.7]

    def fake_fit(net: torch.nn.Module, *rest: Any) -> Any:
        for epoch, value in enumerate(accuracies, start=1):
            torch.nn.init.constant_(net.head.weight, epoch)
            right = round(value * 10)
            confusion = np.array([[right, 10 - right, 0], [0, 10, 0], [0, 0, 10]])
            yield EpochResult(epoch, epoch, float(epoch), 1.0, (), confusion)

    monkeypatch.setattr(drive, "fit", fake_fit)
    run = eyebright.train(brightness, quiet=True, **FAST)
    assert json.loads((run.path / "model.json").read_text())["epoch"] == 2
    assert (load_file(run.path / "model.safetensors")["head.weight"] == 2).all()
    assert len(run.log()) == 3


def test_balanced_accuracy_can_choose_the_best() -> None:
    many, few = np.array([[80, 10], [8, 2]]), np.array([[70, 20], [2, 8]])
    results = [EpochResult(i, i, 1.0, 1.0, (), c) for i, c in enumerate((many, few), start=1)]

    class Counting(keeper.Keeper):
        def _save(self, epoch: int) -> None:
            self.saved = epoch

    for metric, epoch in (("accuracy", 1), ("balanced-accuracy", 2)):
        config = TrainConfig(metric=metric)  # type: ignore[arg-type]
        watcher = Counting(Path(), LessonNet(2), config, ("a", "b"), eyebright.batches.HALF)
        for result in results:
            watcher.keep(result)
        assert watcher.saved == epoch


def test_val_test_and_predict_agree(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    validation = run.val()
    best = max(float(row["val_accuracy"]) for row in run.log())
    assert validation.accuracy.value == pytest.approx(best, abs=1e-6)
    other = Dataset(255 - brightness.images, 2 - brightness.labels, brightness.classes, name="t")
    evaluation = run.test(other)
    for split, n in (("val", 12), ("test", 120)):
        figures = json.loads((run.path / f"{split}.json").read_text())
        assert figures["n"] == n
        assert np.sum(figures["confusion"]["counts"]) == n
        rows = list(
            csv.DictReader((run.path / f"predictions-{split}.csv").read_text().splitlines())
        )
        assert len(rows) == n
        for row in rows:
            shares = [float(row[name]) for name in brightness.classes]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert row["prediction"] == brightness.classes[int(np.argmax(shares))]
    loaded = Classifier.load(run.path)
    predictions = loaded.predict(other.images)
    assert [p.label for p in predictions] == [brightness.classes[i] for i in evaluation.predictions]
    single = np.concatenate([loaded.predict_proba(other.images[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(single, evaluation.probabilities[:20], atol=1e-6)


def test_opening_the_test_set_is_written_down(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    other = Dataset(255 - brightness.images, brightness.labels, brightness.classes, name="t")
    assert run.test_openings() == 0
    for times in (1, 2):
        evaluation = run.test(other)
        assert run.test_openings() == times
    lines = [json.loads(line) for line in (run.path / "tests.jsonl").read_text().splitlines()]
    assert [line["opening"] for line in lines] == [1, 2]
    assert lines[1]["fingerprint"] == other.fingerprint
    assert lines[1]["figures"]["accuracy"] == evaluation.accuracy.value
    assert lines[0]["time"] <= lines[1]["time"]
    assert lines[0]["command"] == " ".join(sys.argv)


def test_a_test_on_the_training_pictures_is_refused(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    with pytest.raises(DataError, match="very pictures it was trained on"):
        run.test(brightness)
    assert run.test_openings() == 0


def test_training_never_reads_the_test_part(class_folders: Callable[..., Path]) -> None:
    root = class_folders("all/train")
    class_folders("all/test", count=4)
    (root.parent / "test" / "cat" / "0.png").write_bytes(b"no picture")
    run = eyebright.train(root.parent, quiet=True, **FAST)  # would fail if it looked
    with pytest.raises(DataError, match=r"0\.png"):
        run.test()
    assert run.test(skip_bad=True).accuracy.n == 7


def test_the_datas_own_validation_part_is_used(class_folders: Callable[..., Path]) -> None:
    root = class_folders("all/train")
    class_folders("all/valid", count=3)
    run = eyebright.train(root.parent, quiet=True, **FAST)
    assert json.loads((run.path / "data.json").read_text())["val"] == "own"
    assert Run(run.path).val().accuracy.n == 6


def test_a_fresh_process_finds_the_held_out_pictures(class_folders: Callable[..., Path]) -> None:
    run = eyebright.train(class_folders(), quiet=True, **FAST)
    remembered = run.val()
    reloaded = Run(run.path).val()
    assert reloaded.ids == remembered.ids
    assert len(reloaded.ids) == 4
    np.testing.assert_allclose(reloaded.probabilities, remembered.probabilities, atol=1e-7)


def test_changed_data_are_noticed(class_folders: Callable[..., Path], picture: Any) -> None:
    root = class_folders()
    run = eyebright.train(root, quiet=True, **FAST)
    picture(16, 16, 9).save(root / "cat" / "0.png")
    with pytest.raises(DataError, match="no longer the data of this run"):
        Run(run.path).val()


def test_nothing_held_out_is_said(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, val=0.0, **FAST)
    with pytest.raises(UsageError, match="nothing was held out"):
        run.val()


def test_an_own_net(brightness: Dataset) -> None:
    class Tiny(torch.nn.Module):
        def __init__(self, classes: int = 3) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.head = torch.nn.Linear(4, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).relu().mean((2, 3)))

    settings = {**FAST, "epochs": 12, "model": Tiny()}
    run = eyebright.train(brightness, quiet=True, **settings)
    assert (run.val().accuracy.value or 0) > 0.8
    with pytest.raises(ModelError, match="user's own"):
        Classifier.load(run.path)
    loaded = Classifier.load(run.path, model=Tiny())
    assert loaded.classes == brightness.classes
    later = Run(run.path, model=Tiny()).test(
        Dataset(255 - brightness.images, brightness.labels, brightness.classes, name="t")
    )
    assert later.accuracy.n == 120
    with pytest.raises(UsageError, match="logits of shape"):
        eyebright.train(brightness, quiet=True, **{**FAST, "model": Tiny(5)})


def test_weights_load_in_plain_torch(brightness: Dataset) -> None:
    run = eyebright.train(brightness, recipe="tutorial", quiet=True, epochs=1)
    net = LessonNet(3)
    net.load_state_dict(load_file(run.path / "model.safetensors"))
    pictures = (
        torch.from_numpy(brightness.resized(32).images).permute(0, 3, 1, 2) / 255 - 0.5
    ) / 0.5
    with torch.no_grad():
        expected = net(pictures).softmax(1)
    np.testing.assert_allclose(
        run.classifier().predict_proba(brightness.images), expected, atol=1e-5
    )


def test_digits_are_not_mirrored_but_pictures_are(brightness: Dataset) -> None:
    few = eyebright.load("digits").subset(range(60))
    settings = {**FAST, "epochs": 1}
    assert eyebright.train(few, quiet=True, **settings).config.augment == "shift"
    assert eyebright.train(few, quiet=True, augment="mirror", **settings).config.augment == "mirror"
    assert eyebright.train(brightness, quiet=True, **settings).config.augment == "mirror+shift"


@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_saves(brightness: Dataset, monkeypatch: pytest.MonkeyPatch, finished: int) -> None:
    real = drive.fit

    def interrupted(*arguments: Any) -> Any:
        results = real(*arguments)
        for _ in range(finished):
            yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(drive, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        eyebright.train(brightness, quiet=True, name="stopped", **FAST)
    assert len(Classifier.load("runs/stopped").predict(brightness.images[:2])) == 2
    assert json.loads(Path("runs/stopped/model.json").read_text())["epoch"] == finished


def test_ctrl_c_before_there_is_anything_leaves_nothing(
    brightness: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.TrainedOn, "learn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        eyebright.train(brightness, recipe="fast", model="white16", epochs=1, quiet=True)
    assert not Path("runs").exists()


def test_a_broken_model_is_not_saved_at_an_interruption(
    brightness: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(net: torch.nn.Module, *rest: Any) -> Any:
        torch.nn.init.constant_(net.head.weight, float("nan"))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(drive, "fit", breaks)
    with pytest.raises(KeyboardInterrupt):
        eyebright.train(brightness, quiet=True, **FAST)
    assert not list(Path("runs").iterdir())


def test_a_sample_cannot_open_the_test_set(class_folders: Callable[..., Path]) -> None:
    root = class_folders("all/train").parent
    class_folders("all/test", count=40)
    run = eyebright.train(root, quiet=True, **FAST)
    with pytest.raises(UsageError, match="1 to 64"):
        run.sample(65)
    few = run.sample(8)
    assert len(few) == 8
    assert len(set(few.labels)) == 2  # by chance, not the first of one class
    assert run.test_openings() == 0


def test_a_named_folder_is_not_tested_on_its_training_part(
    class_folders: Callable[..., Path],
) -> None:
    root = class_folders("all/train").parent
    class_folders("all/val", count=4)
    run = eyebright.train(root, quiet=True, **FAST)
    for data in (None, root):
        with pytest.raises(DataError, match="no test part"):
            run.test(data)


def test_the_batch_a_user_asks_for_keeps_the_number_of_steps(brightness: Dataset) -> None:
    config = TrainConfig(device="cpu")
    wide = choices.decide(config, {"batch_size": 60}, brightness, 120, torch.device("cpu"))
    assert wide.batch_size == 60
    assert wide.epochs * (120 // 60) >= config.min_steps


def test_a_validation_part_with_other_classes_is_refused(brightness: Dataset) -> None:
    other = Dataset(brightness.images, brightness.labels, ["x", "y", "z"])
    with pytest.raises(DataError, match="other classes"):
        Dataset(brightness.images, brightness.labels, brightness.classes, val=other)


def test_a_diverged_run_keeps_the_last_good_model(
    brightness: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = drive.fit

    def diverges(*arguments: Any) -> Any:
        yield next(real(*arguments))
        raise NumbersError("the loss is nan at step 9 (learning rate 1); lower --lr")

    monkeypatch.setattr(drive, "fit", diverges)
    with pytest.raises(NumbersError, match=r"step 9 .*model of epoch 1 is kept in runs/d"):
        eyebright.train(brightness, quiet=True, name="d", **FAST)
    assert Run("runs/d").classifier().predict(brightness.images[:1])


def test_a_run_that_never_had_a_model_leaves_no_folder(brightness: Dataset) -> None:
    settings = {**FAST, "model": "lesson", "imgsz": 32, "lr": 1e30}
    with pytest.raises(NumbersError, match="no epoch was finished"):
        eyebright.train(brightness, recipe="tutorial", quiet=True, **settings)
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_lower(
    brightness: Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*arguments: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(drive, "fit", full)
    with pytest.raises(
        StorageError, match=r"16 pictures of 16 px a batch .*lower --batch-size or --imgsz"
    ):
        eyebright.train(brightness, quiet=True, **FAST)
    assert not list(Path("runs").iterdir())


class Hungry(LessonNet):
    """A net on a device that has room for so many pictures at once."""

    def __init__(self, room: int):
        super().__init__(3, 16)
        self.room = room

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(pictures)


@pytest.mark.parametrize(("room", "fitting"), [(60, 48), (50, 24), (27, 24), (26, 12), (1, None)])
def test_out_of_memory_says_which_batch_would_fit(
    room: int, fitting: int | None, brightness: Dataset, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(memory, "TRIED_ON", ("cpu",))
    monkeypatch.setattr(prepare, "check_logits", lambda *_: None)
    message = r"out of memory; 96 pictures of 16 px a batch are too many: lower --batch-size or "
    with pytest.raises(StorageError, match=message) as caught:
        eyebright.train(brightness, model=Hungry(room), batch_size=96, epochs=1, device="cpu")
    assert ("(-b 48 would fit)" in str(caught.value)) == (fitting == 48)
    assert (f"(-b {fitting} would fit)" in str(caught.value)) == (fitting is not None)


def test_other_errors_are_not_dressed_up(
    brightness: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr(drive, "fit", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        eyebright.train(brightness, quiet=True, **FAST)
    assert not list(Path("runs").iterdir())


def test_a_folder_that_cannot_be_written_is_named(brightness: Dataset) -> None:
    Path("taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        eyebright.train(brightness, quiet=True, runs="taken", **FAST)


def test_damaged_records_are_named(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    (run.path / "data.json").write_text("{}")
    with pytest.raises(ModelError, match=r"data\.json"):
        run.val()
    (run.path / "config.json").write_text("[1")
    with pytest.raises(ModelError, match=r"config\.json"):
        _ = run.config


def test_averaging_belongs_to_the_model_and_figures_say_so(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, tta="mirror", **FAST)
    card = json.loads((run.path / "model.json").read_text())
    assert card["tta"] == "mirror"
    evaluation = run.val()
    assert evaluation.tta == "mirror"
    assert "mirror" in repr(evaluation)
    assert "mirror image averaged" in str(class_table(evaluation).caption)
    assert json.loads((run.path / "val.json").read_text())["tta"] == "mirror"
    classifier = Classifier.load(run.path)
    images = brightness.images[:20]
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(
        classifier.predict_proba(images), classifier.predict_proba(mirrored), atol=1e-6
    )


def test_an_unknown_way_to_average_is_refused(brightness: Dataset) -> None:
    run = eyebright.train(brightness, quiet=True, **FAST)
    change_card(run.path, tta="guess")
    with pytest.raises(ModelError, match="test-time averaging"):
        Classifier.load(run.path)


def test_what_must_not_be_mirrored_is_not_averaged_either() -> None:
    digits = eyebright.load("digits").subset(range(300))
    assert not digits.mirrors
    run = eyebright.train(digits, recipe="best", quiet=True, **FAST)
    assert run.config.tta == "none"


def test_epochs_that_are_asked_for_are_trained(brightness: Dataset) -> None:
    assert eyebright.train(brightness, recipe="quick", quiet=True, epochs=2).config.max_steps == 0
    run = eyebright.train(brightness, recipe="quick", quiet=True)
    assert run.log()[-1]["step"] == str(run.config.max_steps) == "56"
