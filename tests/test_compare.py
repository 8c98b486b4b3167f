"""Tests and intervals for two classifiers on the same pictures: levels and coverage, enumerated."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from scipy import stats

import eyebright
from eyebright import metrics
from eyebright.compare import compare
from eyebright.errors import DataError, UsageError
from eyebright.paired import mcnemar, mean_accuracy, mean_difference, paired_difference


def level(n: int, which: int) -> float:
    """Chance of p <= 0.05 where n pictures tell two equal classifiers apart."""
    return sum(
        float(stats.binom.pmf(k, n, 0.5)) for k in range(n + 1) if mcnemar(k, n - k)[which] <= 0.05
    )


def test_the_exact_test_never_passes_its_level_and_mid_p_is_near_it() -> None:
    exact = [level(n, 0) for n in range(5, 121)]
    mid = [level(n, 1) for n in range(5, 121)]
    assert max(exact) <= 0.05
    assert max(exact) > 0.03  # and is no test that never finds anything
    assert max(mid[20:]) <= 0.067  # with fewer, single counts make it up to 0.08
    assert np.mean(exact) < np.mean(mid)
    assert 0.04 < np.mean(mid[20:]) < 0.055


def test_p_values_are_those_of_the_binomial_distribution() -> None:
    for first, second in ((3, 12), (12, 3), (0, 6), (40, 61)):
        exact, mid = mcnemar(first, second)
        assert exact == pytest.approx(stats.binomtest(first, first + second).pvalue)
        assert mid == pytest.approx(exact - stats.binom.pmf(first, first + second, 0.5))
    assert mcnemar(0, 0) == (1, 1)
    assert mcnemar(5, 5)[0] == 1


@pytest.mark.parametrize("n", [30, 100])
def test_paired_intervals_cover(n: int) -> None:
    found = {(b, c): paired_difference(b, c, n) for b in range(n + 1) for c in range(n + 1 - b)}
    covered = []
    for only_first in (0.02, 0.1, 0.2, 0.35):
        for only_second in (0.02, 0.05, 0.15, 0.3):
            truth = only_first - only_second
            inside = [
                (b, c) for (b, c), f in found.items() if (f.low or 0) <= truth <= (f.high or 0)
            ]
            cells = np.array([(b, c, n - b - c) for b, c in inside])
            rest = 1 - only_first - only_second
            covered.append(stats.multinomial.pmf(cells, n, (only_first, only_second, rest)).sum())
    assert min(covered) > 0.93
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def crossed(
    generator: np.random.Generator, seeds: int, pictures: int, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of a net (seeds, pictures): some pictures are hard, some seeds are bad."""
    hard = 1.5 * generator.standard_normal(pictures)
    bad = 0.25 * generator.standard_normal((seeds, 1))
    chance = 1 / (1 + np.exp(-(1.5 + shift + hard + bad)))
    return generator.random((seeds, pictures)) < chance, hard


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("pictures", [300, 3000])
def test_intervals_over_seeds_and_pictures_cover(seeds: int, pictures: int) -> None:
    generator = np.random.default_rng(0)
    wide = np.random.default_rng(1).standard_normal((400_000, 2)) @ np.diag([1.5, 0.25])
    truth = float((1 / (1 + np.exp(-(1.5 + wide.sum(1))))).mean())
    covered, width = 0, 0.0
    for _ in range(300):
        right, _ = crossed(generator, seeds, pictures)
        figure = mean_accuracy(right)
        covered += (figure.low or 0) <= truth <= (figure.high or 0)
        width += ((figure.high or 0) - (figure.low or 0)) / 300
        alone = metrics.proportion(round((figure.value or 0) * pictures), pictures)
        assert (figure.low or 0) <= (alone.low or 0) < (alone.high or 0) <= (figure.high or 0)
    assert covered / 300 > (0.85 if seeds == 2 else 0.9)
    assert width < (0.5 if seeds == 2 else 0.2)


@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 1), (1, 5), (3, 1)])
@pytest.mark.parametrize("pictures", [300, 3000])
def test_differences_over_seeds_and_pictures_cover(first: int, second: int, pictures: int) -> None:
    generator = np.random.default_rng(0)
    covered, width = 0, 0.0
    for _ in range(300):
        right, hard = crossed(generator, first, pictures)
        bad = 0.25 * generator.standard_normal((second, 1))
        chance = 1 / (1 + np.exp(-(1.5 + hard + bad)))
        other = generator.random((second, pictures)) < chance
        figure = mean_difference(right, other)  # two groups of the same net: no difference
        covered += (figure.low or 0) <= 0 <= (figure.high or 0)
        width += ((figure.high or 0) - (figure.low or 0)) / 300
    assert covered / 300 > 0.9
    assert width < 0.5


def test_no_mistakes_and_few_pictures_are_no_certainty() -> None:
    right = np.ones((3, 360), bool)
    assert mean_accuracy(right).low == metrics.wilson(360, 360)[0]
    for other in (right, right[:1]):
        figure = mean_difference(right, other)
        assert figure.value == 0
        assert -0.02 < (figure.low or 0) < 0 < (figure.high or 0) < 0.02
    assert mean_accuracy(right[:, :1]).value == 1
    assert mean_difference(right[:, :1], right[:, :1]).high == 1


def shades(seed: int = 0) -> eyebright.Dataset:
    generator = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    pixels = 30 + 40 * labels[:, None, None, None] + generator.integers(0, 90, (90, 12, 12, 3))
    return eyebright.Dataset(pixels.astype(np.uint8), labels, ["dark", "grey", "light"], name="s")


def trained(name: str, **settings: object) -> eyebright.Run:
    settings = {"epochs": 1, "batch_size": 16, "model": "white16", "device": "cpu"} | settings
    return eyebright.train(shades(), quiet=True, name=name, **settings)


def test_two_runs_on_the_same_pictures() -> None:
    one, other = trained("one"), trained("other", model="lesson", imgsz=16)
    for run in (one, other):
        run.test(shades(seed=9))
    found = compare([one.path, other.path])
    assert found.split == "test"
    assert [group.name for group in found.groups] == ["one", "other"]
    rights = [run_right(run.path) for run in (one, other)]
    only_other = [i for i in range(90) if rights[1][i] and not rights[0][i]]
    only_one = [i for i in range(90) if rights[0][i] and not rights[1][i]]
    assert found.discordant(found.groups[1]) == (only_other, only_one)
    figure = found.difference(found.groups[1])
    assert figure == paired_difference(len(only_other), len(only_one), 90)
    assert found.tests(found.groups[1]) == mcnemar(len(only_other), len(only_one))
    record = found.to_dict()
    assert record["groups"][1]["right_alone"] == [str(i) for i in only_other]
    assert f"right by other alone: {len(only_other)} pictures" in "\n".join(found.lines(2))
    assert columns_of(found.table()) == ["run", "accuracy", "difference, points", "p", "mid-p"]


def columns_of(table: Table) -> list[str]:
    """The titles, of a table that 80 columns are enough for."""
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    return [str(column.header) for column in table.columns]


def run_right(path: Path) -> list[bool]:
    rows = (path / "predictions-test.csv").read_text().splitlines()[1:]
    return [row.split(",")[1] == row.split(",")[2] for row in rows]


def test_seeds_are_put_together_and_validated_on_the_same_pictures() -> None:
    runs = [trained(f"s-seed{seed}", seed=seed) for seed in range(3)]
    other = trained("other", epochs=2)
    found = compare([run.path for run in (*runs, other)])
    assert found.split == "val"
    record = found.to_dict()["groups"]
    assert [group["interval_counts"] for group in record] == ["seeds and pictures", "pictures"]
    assert record[1]["difference_interval_counts"] == "seeds and pictures"
    assert [(g.name, len(g.right)) for g in found.groups] == [("s (3 seeds)", 3), ("other", 1)]
    assert "95 % intervals that count seeds and pictures" in str(found.table().caption)
    assert "87 of 100" not in str(found.table().caption)
    two = compare([run.path for run in runs[:2]])
    assert "with two seeds they hold the truth in about 87 of 100" in str(two.table().caption)
    group = found.groups[0]
    assert group.spread is not None
    assert group.accuracy.value == pytest.approx(group.right.mean())
    assert (group.accuracy.low or 0) <= group.right.mean() <= (group.accuracy.high or 0)
    assert found.tests(found.groups[1]) is None
    assert not math.isnan(found.difference(found.groups[1]).low or 0)
    titles = columns_of(found.table())
    assert titles == ["run", "accuracy", "± between seeds", "difference, points"]
    alone = compare([run.path for run in runs])
    assert columns_of(alone.table()) == ["run", "accuracy", "± between seeds"]


def test_a_run_that_averages_is_marked() -> None:
    runs = [trained("plain"), trained("averaged", tta="mirror")]
    found = compare([run.path for run in runs])
    assert [group["tta"] for group in found.to_dict()["groups"]] == ["none", "mirror"]
    assert [g.title for g in found.groups] == ["plain", "averaged, with mirror images"]
    columns_of(found.table())


def test_the_same_seed_again_is_no_further_seed() -> None:
    runs = [trained(f"r{i}", seed=seed) for i, seed in enumerate((0, 1, 0))]
    found = compare([run.path for run in runs])
    assert [group.runs for group in found.groups] == [
        (str(runs[0].path), str(runs[1].path)),
        (str(runs[2].path),),
    ]
    same = compare([runs[0].path, runs[2].path])
    assert [len(group.right) for group in same.groups] == [1, 1]
    assert same.difference(same.groups[1]).value == 0
    with pytest.raises(UsageError, match="r0 is named twice"):
        compare([runs[0].path, runs[1].path, runs[0].path / "." / ""])


def test_other_pictures_and_labels_are_refused() -> None:
    one, other = trained("one"), trained("other")
    one.test(shades(seed=9))
    with pytest.raises(DataError, match="not evaluated on test"):
        compare([one.path, other.path], "test")
    other.test(shades(seed=9).subset(range(60)))
    with pytest.raises(DataError, match="other pictures"):
        compare([one.path, other.path])
    changed = shades(seed=9)
    changed.labels[0] = 2
    other.test(changed)
    with pytest.raises(DataError, match="other labels"):
        compare([one.path, other.path])
    with pytest.raises(UsageError, match="two runs"):
        compare([one.path])
    with pytest.raises(UsageError, match="--split"):
        compare([one.path, other.path], "train")


def test_the_order_of_pictures_does_not_matter() -> None:
    one, other = trained("one"), trained("other")
    one.test(shades(seed=9))
    other.test(shades(seed=9))
    path = other.path / "predictions-test.csv"
    head, *rows = path.read_text().splitlines()
    before = compare([one.path, other.path]).to_dict()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    assert json.dumps(compare([one.path, other.path]).to_dict()) == json.dumps(before)
