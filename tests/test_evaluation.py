"""Evaluations: what training writes of them, what is promised by them, and what they warn of."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import eyebright
from eyebright import Dataset, Run, several
from eyebright.calibration import fit_temperature, softmax
from eyebright.checkpoint import load_card
from eyebright.cli.judging import show_evaluation
from eyebright.errors import ModelError, UsageError
from eyebright.evaluation import Evaluation
from eyebright.records import read_evaluation
from eyebright.report import write_report
from eyebright.wording import (
    OTHER_SHARES,
    class_table,
    figures_table,
    notes,
    promise_lines,
    warnings,
)
from tampering import change_card

QUICK = {"batch_size": 16, "model": "white16", "device": "cpu", "quiet": True}


def shades(n: int = 400, seed: int = 0, counts: tuple[int, ...] | None = None) -> Dataset:
    """Three brightnesses that overlap: a net is right often, but not always."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(range(3), counts) if counts else np.arange(n) % 3
    middle = (
        60 + 30 * labels[:, None, None, None] + 12 * generator.normal(size=(len(labels), 1, 1, 1))
    )
    pixels = np.clip(middle + generator.normal(0, 10, (len(labels), 8, 8, 3)), 0, 255)
    return Dataset(pixels.astype(np.uint8), labels, ["dark", "grey", "light"], name="shades")


def made(n: int = 2000, seed: int = 0, **settings: Any) -> Evaluation:
    """An evaluation whose probabilities are the truth."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(3 * generator.standard_normal((n, 4)))
    labels = (generator.random((n, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 3)
    return Evaluation(
        "test", ("a", "b", "c", "d"), list(range(n)), labels, probabilities, "f", **settings
    )


def test_training_leaves_a_calibrated_model_and_what_it_said() -> None:
    run = eyebright.train(shades(), epochs=3, **QUICK)
    card = load_card(run.path)
    assert card.temperature is not None
    kept = read_evaluation(run.path, "val")
    again = run.val()
    assert kept.temperature == again.temperature == card.temperature
    assert [str(i) for i in again.ids] == kept.ids
    assert kept.probabilities == pytest.approx(again.probabilities, abs=1e-5)
    log_loss = again.figures["log loss"].value
    uncalibrated = -np.log(again.uncalibrated[np.arange(len(again.labels)), again.labels]).mean()
    assert log_loss is not None
    assert log_loss <= uncalibrated + 1e-6
    raw = replace(card, temperature=None)
    assert eyebright.Classifier(run.classifier().model, raw).predict_proba(
        shades(9).images
    ) == pytest.approx(
        softmax(np.log(run.classifier().predict_proba(shades(9).images)), 1 / card.temperature)
    )


def test_where_nothing_is_held_out_probabilities_are_uncalibrated() -> None:
    run = eyebright.train(shades(60), epochs=1, val=0.0, **QUICK)
    assert load_card(run.path).temperature is None
    assert not (run.path / "val.json").exists()
    evaluation = run.test(shades(60, seed=1))
    assert "calibration error before temperature" not in evaluation.figures
    assert "uncalibrated" in str(figures_table(evaluation).caption)
    with pytest.raises(UsageError, match=r"--val 0\.1"):
        run.promises(risk=0.1)
    with pytest.raises(UsageError, match=r"--val 0\.1"):
        run.test(shades(60, seed=1), coverage=0.9)


def test_a_damaged_temperature_is_refused() -> None:
    run = eyebright.train(shades(60), epochs=1, **QUICK)
    for damage in (0.0, -1.0, 1e9, "hot", [1]):
        change_card(run.path, temperature=damage)
        with pytest.raises(ModelError):
            load_card(run.path)


def test_every_figure_has_its_n_and_its_interval() -> None:
    evaluation = made(temperature=1.5)
    record = evaluation.to_dict()
    assert set(record["figures"]) == {
        "accuracy",
        "balanced accuracy",
        "log loss",
        "Brier score",
        "calibration error",
        "calibration error before temperature",
    }
    for name, figure in record["figures"].items():
        assert figure["n"] == 2000
        if "calibration" not in name:  # no interval of it is known to cover
            assert figure["low"] < figure["value"] < figure["high"]
    assert record["figures"]["calibration error"]["value"] < 0.03
    exact = replace(evaluation, interval="exact")
    assert exact.accuracy.high > evaluation.accuracy.high
    assert "Clopper" in exact.to_dict()["interval"]
    assert exact.figures["balanced accuracy"].low < evaluation.figures["balanced accuracy"].low
    for name, figures in exact.per_class().items():
        for kind, figure in figures.items():
            assert figure.low != evaluation.per_class()[name][kind].low
    promises = made(seed=1).promise(0.3, 0.9)
    several = [
        (*one.answered(), one.set_figures()[0])
        for one in (replace(e, promises=promises) for e in (exact, evaluation))
    ]
    for wider, narrower in zip(*several, strict=True):
        assert wider.low != narrower.low
    assert (
        "calibration error before temperature" not in replace(evaluation, temperature=1.0).figures
    )
    with pytest.raises(UsageError, match="--interval"):
        replace(evaluation, interval="normal")


def test_top_5_is_counted_where_there_are_more_classes() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(8), 50)
    names = tuple("abcdefgh")
    evaluation = Evaluation(
        "val", names, list(range(50)), probabilities.argmax(1), probabilities, "f"
    )
    assert evaluation.figures["top-5 accuracy"].value == 1
    exact = replace(evaluation, interval="exact")
    assert exact.figures["top-5 accuracy"].low != evaluation.figures["top-5 accuracy"].low


def test_names_come_back_whatever_they_hold(tmp_path: Path) -> None:
    names = ("a\rb", "c\nd", 'e,"f', "caf\udce9")
    probabilities = np.eye(4)
    evaluation = Evaluation("val", names, list(range(4)), np.arange(4), probabilities, "f")
    evaluation.write(tmp_path)
    read = read_evaluation(tmp_path, "val")
    assert read.classes == names
    assert read.labels.tolist() == [0, 1, 2, 3]


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    promises = made(seed=1).promise(0.3, 0.9)
    evaluation = made(50, temperature=0.7, data="d", interval="exact", promises=promises, leaks=3)
    evaluation.write(tmp_path)
    read = read_evaluation(tmp_path, "test")
    assert (read.temperature, read.data, read.interval, read.leaks) == (0.7, "d", "exact", 3)
    assert read.promises == promises
    assert np.array_equal(read.probabilities, evaluation.probabilities)  # thresholds rest on them
    assert np.array_equal(read.labels, evaluation.labels)
    path = tmp_path / "predictions-test.csv"
    head, first, *rest = path.read_text().splitlines()
    for damaged in (
        "",
        head,
        f"{head}\n0,z,a,1,0,0,0",
        f"{head}\n0,a,a,nan,0,0,0",
        f"{head}\n0,a,a,1",
    ):
        path.write_text(damaged)
        with pytest.raises(ModelError, match="damaged"):
            read_evaluation(tmp_path, "test")
    path.write_text("\n".join([head, first, *rest]))
    (tmp_path / "test.json").unlink()
    with pytest.raises(ModelError):
        read_evaluation(tmp_path, "test")


def test_a_promise_stands_in_words_and_is_checked_on_the_test_set() -> None:
    held_out, new = made(seed=1), made(seed=2)
    promises = held_out.promise(0.2)
    given = promises.answers
    assert given
    new = replace(new, promises=promises)
    answered, right = new.answered()
    assert answered.value == pytest.approx(given.answered, abs=0.05)
    assert (right.high or 0) > 0.8
    [promised, here] = promise_lines(new)
    assert promised.startswith(
        f"answers {100 * given.answered:.1f} % of pictures, right on at least 80 %"
    )
    assert "from 2,000 pictures held out" in promised
    assert here == (
        f"here: answers {answered.percent()} of 2,000, right on {right.percent()} of those "
        f"{right.n:,}"
    )
    # On those that gave the promise it is no check.
    val = replace(new, split="val", promises=made().promise(0.2, 0.9))
    assert not [line for line in promise_lines(val) if line.startswith("here")]
    assert "_here" not in json.dumps([val.to_dict()["promise"], val.to_dict()["sets"]])
    record = new.to_dict()["promise"]
    assert (record["risk"], record["confidence"], record["n"]) == (0.2, 0.95, 2000)


def test_what_cannot_be_promised_is_said() -> None:
    few = r"0\.01 % can be promised from 2,000 pictures held out: even if all were right"
    with pytest.raises(UsageError, match=few):
        made().promise(0.0001)
    wrong = replace(made(), labels=(made().predictions + 1) % 3)
    with pytest.raises(UsageError, match="too many of the surest answers are wrong"):
        wrong.promise(0.1)
    for wrong in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(UsageError, match="--risk"):
            made().promise(wrong)
        with pytest.raises(UsageError, match="--coverage"):
            made().promise(coverage=wrong)


def test_sets_stand_in_words() -> None:
    new = replace(made(seed=2), promises=made(seed=1).promise(coverage=0.9))
    held, empty, size = new.set_figures()
    assert held.value == pytest.approx(0.9, abs=0.02)
    assert 1 < (size.low or 0) < (size.value or 0) < (size.high or 0) < 3
    assert empty.n == size.n == 2000
    [asked, here] = promise_lines(new)
    assert asked.endswith("for 90 % coverage")
    assert here.startswith(f"here: they hold the true class of {held.percent()} of 2,000, with ")


def test_predictions_become_answers_by_what_was_promised() -> None:
    run = eyebright.train(shades(900), epochs=3, val=0.4, **QUICK)
    given = run.promises(risk=0.3, coverage=0.8)
    evaluation = run.test(shades(300, seed=5), risk=0.3, coverage=0.8)
    answers = [p.answers(given) for p in run.classifier().predict(shades(300, seed=5).images)]
    answered = [a["answer"] is not None for a in answers]
    assert evaluation.promises == given
    assert np.mean(answered) == evaluation.answered()[0].value
    held = [
        evaluation.classes[y] in a["set"] for a, y in zip(answers, evaluation.labels, strict=True)
    ]
    assert np.mean(held) == evaluation.set_figures()[0].value
    assert run.classifier().predict(shades(1).images)[0].answers(run.promises()) == {}


def test_a_class_that_the_average_hides_is_named() -> None:
    probabilities = np.tile([0.9, 0.1], (1000, 1))
    labels = np.r_[np.zeros(950, int), np.ones(50, int)]
    evaluation = Evaluation(
        "val", ("common", "rare"), list(range(1000)), labels, probabilities, "f", leaks=0
    )
    [warning] = warnings(evaluation)
    assert warning == (
        "the average hides a class: rare is found in only 0.0 % (0.0 to 7.1) of its 50 pictures"
    )
    assert warnings(made(leaks=0)) == []
    # Not half as often is not the only way to be bad.
    right = np.r_[np.ones(950), np.arange(50) < 20].astype(bool)
    sure = np.where(right[:, None] == (labels[:, None] == [0, 1]), 0.9, 0.1)
    [warning] = warnings(replace(evaluation, probabilities=sure))
    assert "rare is found in only 40.0 %" in warning


def test_what_belongs_to_every_figure_stands_below_the_tables() -> None:
    plain = made(temperature=0.9)
    assert notes(plain) == []
    assert notes(replace(plain, temperature=None)) == ["probabilities are uncalibrated"]
    assert notes(replace(plain, split="val")) == ["they also chose the epoch and the temperature"]
    averaged = replace(plain, tta="mirror")
    for table in (class_table(averaged), figures_table(averaged)):
        assert "mirror image averaged" in str(table.caption)


def test_looks_at_a_test_set_are_counted_over_runs() -> None:
    one, other = (eyebright.train(shades(60), epochs=1, name=name, **QUICK) for name in "ab")
    test_set, another = shades(60, seed=1), shades(60, seed=2)
    one.test(test_set)
    assert one.looks_at(test_set.fingerprint) == 1
    other.test(test_set)
    other.test(another)
    with (one.path / "tests.jsonl").open("a") as file:
        file.write("damaged\n[]\n")
    assert one.looks_at(test_set.fingerprint) == other.looks_at(test_set.fingerprint) == 2
    assert other.looks_at(another.fingerprint) == 1
    assert one.test_openings() == 3
    line = json.loads((other.path / "tests.jsonl").read_text().splitlines()[0])
    assert line["figures"]["accuracy"] is not None


def test_a_test_set_is_the_same_at_another_size(class_folders: Callable[..., Path]) -> None:
    data, other = class_folders(), class_folders("others", count=9)
    runs = [eyebright.train(data, epochs=1, imgsz=size, **QUICK) for size in (12, 16)]
    evaluations = [run.test(other) for run in runs]
    assert evaluations[0].fingerprint != evaluations[1].fingerprint
    assert [run.looks_at(e.fingerprint) for run, e in zip(runs, evaluations, strict=True)] == [2, 2]
    runs[0].test(class_folders("more", count=12))
    assert runs[0].looks_at(evaluations[0].fingerprint) == 2


def test_a_mistyped_interval_does_not_open_the_test_set() -> None:
    run = eyebright.train(shades(60), epochs=1, **QUICK)
    with patch.object(run, "classifier") as loaded:
        for verb in (run.test, run.val):
            with pytest.raises(UsageError, match="--interval"):
                verb(interval="nonsense")
    loaded.assert_not_called()


def test_folds_give_out_of_fold_predictions_of_every_picture() -> None:
    data = shades(90)
    runs = several.train_several(data, folds=3, epochs=1, **QUICK)
    assert [run.path.name for run in runs] == [f"shades-fast-fold{k}" for k in (1, 2, 3)]
    held_out = [run.data_record["splits"]["val"] for run in runs]
    assert sorted(name for part in held_out for name in part) == list(range(90))
    joined, folder = several.join_folds(runs)
    assert folder.name == "shades-fast-folds"
    assert sorted(joined.ids, key=int) == [str(i) for i in range(90)]
    assert joined.accuracy.n == 90
    assert read_evaluation(folder, "val").accuracy == joined.accuracy
    with pytest.raises(UsageError, match="fold"):
        eyebright.train(data, folds=3, fold=4, epochs=1, **QUICK)


def test_seeds_make_runs_that_hold_out_the_same() -> None:
    runs = several.train_several(shades(60), 2, seed=7, epochs=1, **QUICK)
    assert [run.path.name for run in runs] == ["shades-fast-seed7", "shades-fast-seed8"]
    assert [run.config.seed for run in runs] == [7, 8]
    assert runs[0].data_record["splits"] == runs[1].data_record["splits"]


@pytest.mark.parametrize(
    ("counts", "settings", "balance", "metric"),
    [
        ((40, 40, 40), {}, "none", "accuracy"),
        ((100, 40, 21), {}, "none", "accuracy"),
        ((100, 40, 20), {}, "logit-adjust", "balanced-accuracy"),
        ((100, 40, 20), {"balance": "none"}, "none", "accuracy"),
        ((100, 40, 20), {"balance": "focal", "metric": "accuracy"}, "focal", "accuracy"),
        ((40, 40, 40), {"balance": "sampler"}, "sampler", "balanced-accuracy"),
    ],
)
def test_what_is_done_about_unbalanced_classes_is_decided_beforehand(
    counts: tuple[int, ...], settings: dict[str, Any], balance: str, metric: str
) -> None:
    run: Run = eyebright.train(shades(counts=counts), epochs=1, **QUICK, **settings)
    assert (run.config.balance, run.config.metric) == (balance, metric)


def test_probabilities_of_an_evened_net_are_calibrated_for_even_classes() -> None:
    data = shades(counts=(400, 60, 40))
    run = eyebright.train(data, epochs=2, balance="weights", **QUICK)
    held_out = read_evaluation(run.path, "val")
    logits = np.log(held_out.uncalibrated)
    temperature = load_card(run.path).temperature
    assert temperature == pytest.approx(fit_temperature(logits, held_out.labels, even=True), 1e-3)
    assert temperature != pytest.approx(fit_temperature(logits, held_out.labels), 1e-2)


@pytest.mark.parametrize(
    ("counts", "other"),
    [
        ({"a": 250, "b": 250, "c": 250, "d": 250}, False),
        ({"a": 20, "b": 25, "c": 30, "d": 25}, False),  # by chance
        ({"a": 1000, "b": 100, "c": 100, "d": 100}, True),
        ({"a": 100}, True),
        ({"e": 100}, False),  # nothing to compare
        ({}, False),
    ],
)
def test_other_shares_of_classes_are_noticed(counts: dict[str, int], other: bool) -> None:
    assert made().has_other_shares(counts) == other


def test_other_shares_of_classes_are_said_where_something_is_promised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = eyebright.train(shades(counts=(500, 60, 60)), epochs=3, val=0.4, **QUICK)
    for data, said in ((shades(counts=(250, 30, 30)), False), (shades(300, seed=2), True)):
        evaluation = run.test(data, risk=0.4)
        show_evaluation(evaluation, run)
        assert (OTHER_SHARES in " ".join(capsys.readouterr().out.split())) == said
        html = write_report(run, evaluation=evaluation, data=data).read_text(encoding="utf-8")
        assert (OTHER_SHARES in html) == said


def test_each_epoch_says_the_figure_that_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    settings = QUICK | {"quiet": False}
    eyebright.train(shades(counts=(200, 20, 20)), epochs=1, **settings)
    out = capsys.readouterr().out
    assert re.search(r"epoch  1/1 .*validation accuracy [^\n]*, balanced \d+\.\d %", out)
    eyebright.train(shades(90), epochs=1, **settings)
    assert "balanced" not in capsys.readouterr().out
