"""A search over settings: who sees which pictures, what is lost by nobody, and what is claimed."""

import contextlib
import csv
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyebright import finals, hunt, space, study, tune
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.database import database_in, without_warnings
from eyebright.errors import NumbersError, StorageError, UsageError, install_command
from eyebright.evaluation import Evaluation
from eyebright.holdout import hold_out
from eyebright.launch import train
from eyebright.paired import mean_difference
from eyebright.report.words import CHINESE
from eyebright.run import Run
from eyebright.search import Search
from eyebright.space import SPACE, Around, own_settings, space_of
from eyebright.study import Study
from eyebright.training import EpochResult
from eyebright.verdict import HELPED, NO_GAIN, WORSE, judge, paired_over_seeds

optuna = pytest.importorskip("optuna")

TINY: dict[str, Any] = {
    "recipe": "fast", "model": "white16", "epochs": 2, "batch_size": 30, "val": 0.25,
    "device": "cpu", "precision": "fp32", "threads": 1, "quiet": True,
}  # fmt: skip


def shades(n: int = 180, noise: float = 130, seed: int = 0) -> Dataset:
    """Three shades of grey that noise hides; each picture's first pixel names it."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    middle = 128 + 30 * (labels - 1)[:, None, None, None]
    pixels = (middle + generator.normal(0, noise, (n, 8, 8, 3))).clip(0, 255).astype(np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Dataset(pixels, labels, ["dark", "grey", "light"], name="shades")


def search(folder: Path, trials: int = 3, **settings: Any) -> Search:
    return tune.tune(settings.pop("data", None) or shades(), trials, **{
        "runs": folder, "seeds": 0, **TINY, **settings,
    })  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search with two fresh seeds, whose default is a bad one."""
    return search(tmp_path_factory.mktemp("searched"), 9, seeds=2, data=shades(240, 100))


def test_the_first_trial_has_the_recipes_own_settings(searched: Search) -> None:
    first = searched.trials[0]
    assert first.is_default
    assert first.number == 0
    own = searched.settings
    assert set(first.settings) == set(searched.searched)
    assert first.settings == {name: own[name] for name in searched.searched}
    assert [trial.is_default for trial in searched.trials[1:]] == [False] * 8
    assert [trial.number for trial in searched.trials] == list(range(9))
    # What the user chose is not searched, and every trial has it.
    assert "batch_size" not in searched.searched
    assert (own["batch_size"], own["epochs"]) == (30, 2)
    others = {json.dumps(trial.settings, sort_keys=True) for trial in searched.trials}
    assert len(others) == 9


def test_the_first_trial_does_what_train_does_on_the_same_pictures(searched: Search) -> None:
    data = shades(240, 100)
    left, _ = hold_out(data, TrainConfig(val=0.25))
    settings = finals.settings_for(TrainConfig().replace(**searched.settings), {}) | {
        "device": "cpu",
        "precision": "fp32",
    }
    run = train(left.subset(range(len(left))), recipe="fast", quiet=True, **settings)
    best = max(float(row["val_accuracy"]) for row in run.log())
    assert best == pytest.approx(searched.trials[0].score, abs=1e-6)


def test_the_verdict_is_on_pictures_and_seeds_that_the_search_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, seeds = set[str](), set[int]()
    real = hunt.best_epoch

    def watched(config: TrainConfig, parts: hunt.Parts, tell: Any) -> float:
        for part in (parts.searched, parts.train_set, parts.val_set):
            seen.update(map(str, part.ids))
        assert not set(parts.train_set.ids) & set(parts.val_set.ids)
        seeds.add(config.seed)
        return real(config, parts, tell)

    monkeypatch.setattr(hunt, "best_epoch", watched)
    found = search(tmp_path, 4, seeds=1, data=shades(240, 100))
    assert found.verdict is not None
    assert len(seen) == found.pictures["trained on"] + found.pictures["looked at"] == 180
    for key in ("default", "winner"):
        [path] = found.runs[key]
        held_out = {str(name) for name in Run(Path(path)).data_record["splits"]["val"]}
        assert len(held_out) == found.pictures["kept"] == 60
        assert not held_out & seen
        assert Run(Path(path)).config.seed not in seeds


def test_the_interval_is_that_of_the_runs_it_names(searched: Search) -> None:
    assert searched.verdict is not None
    right, scores = {}, {}
    for key in ("default", "winner"):
        runs = [Run(Path(path)) for path in searched.runs[key]]
        assert [run.config.seed for run in runs] == [1, 2]
        found = [run.held_out() for run in runs]
        right[key] = np.stack([one.right for one in found])
        scores[key] = right[key].mean(1)
        assert tuple(scores[key]) == pytest.approx(getattr(searched.verdict, key))
    expected = mean_difference(right["winner"], right["default"])
    assert searched.verdict.difference == expected
    differences = scores["winner"] - scores["default"]
    half = 12.706204736 * abs(differences[0] - differences[1]) / 2  # t of one degree of freedom
    over_seeds = searched.verdict.over_seeds
    assert over_seeds is not None
    assert over_seeds.value == pytest.approx(differences.mean())
    assert over_seeds.high == pytest.approx(differences.mean() + half)
    assert over_seeds.low == pytest.approx(differences.mean() - half)
    winner, default = searched.winner, searched.default
    assert winner is not None
    assert default is not None
    assert winner.score == max(trial.score or 0 for trial in searched.trials)
    assert searched.verdict.promised == pytest.approx((winner.score or 0) - (default.score or 0))
    # The winner's runs have the winner's settings, and are like the default's otherwise.
    configs = [Run(Path(searched.runs[key][0])).config for key in ("default", "winner")]
    assert configs[0].replace(**winner.settings) == configs[1]


def evaluation(right: np.ndarray) -> Evaluation:
    """Two classes, of which these pictures are told right."""
    labels = np.arange(len(right)) % 2
    said = np.where(right, labels, 1 - labels)
    probabilities = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
    return Evaluation("val", ("a", "b"), list(range(len(right))), labels, probabilities, "")


@pytest.mark.parametrize(
    ("default", "winner", "says"),
    [(0.6, 0.9, HELPED), (0.9, 0.6, WORSE), (0.75, 0.755, NO_GAIN)],
)
@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
def test_the_words_follow_from_the_interval(
    default: float, winner: float, says: str, metric: str
) -> None:
    generator = np.random.default_rng(0)
    groups = [
        [evaluation(generator.random(600) < share) for _ in range(5)] for share in (default, winner)
    ]
    verdict = judge(groups[0], groups[1], metric, 0.01)
    assert verdict.says == says
    assert verdict.lines[0].startswith(says)
    assert verdict.counts == ("seeds and pictures" if metric == "accuracy" else "seeds")
    assert math.isclose(verdict.difference.value or 0, winner - default, abs_tol=0.03)


def test_a_single_seed_gives_no_interval_over_seeds() -> None:
    assert paired_over_seeds(np.array([0.1])) is None
    one = [evaluation(np.arange(50) < 40)], [evaluation(np.arange(50) < 45)]
    assert judge(*one, "accuracy", 0).counts == "pictures"
    [line, *_] = judge(*one, "balanced-accuracy", 0).lines
    assert "no interval, so no verdict" in line


def test_no_search_is_done_where_the_recipe_was_best(tmp_path: Path) -> None:
    found = search(tmp_path, 1, seeds=2)
    assert found.verdict is None
    assert not found.runs
    assert "keep them" in " ".join(found.lines)
    assert [path.name for path in tmp_path.iterdir()] == ["shades-fast-tune"]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    first = search(tmp_path, 2)
    more = search(tmp_path, 4)
    assert more.trials[:2] == first.trials
    assert [trial.number for trial in more.trials] == [0, 1, 2, 3]
    assert search(tmp_path, 4).trials == more.trials
    # and is the same search as one in a single go
    assert [t.settings for t in search(tmp_path / "b", 4).trials] == [
        t.settings for t in more.trials
    ]


def test_fresh_seeds_are_not_trained_twice(tmp_path: Path, searched: Search) -> None:
    again = search(searched.folder.parent, 9, seeds=2, data=shades(240, 100))
    assert again.runs == searched.runs
    assert again.verdict == searched.verdict
    runs = [path.name for path in searched.folder.parent.glob("*-seed*")]
    assert len(runs) == 4


@pytest.mark.parametrize("seeds", [0, 2])
def test_a_verdict_is_kept_by_whoever_searches_or_stops_later(
    seeds: int, searched: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(one: Any) -> None:
        raise KeyboardInterrupt

    if seeds:
        monkeypatch.setattr(hunt.Hunt, "search", stop)
    with contextlib.suppress(KeyboardInterrupt):
        search(searched.folder.parent, 9, seeds=seeds, data=shades(240, 100))
    said = json.loads((searched.folder / "tune.json").read_text())
    assert searched.verdict is not None
    assert said["verdict"] == json.loads(json.dumps(searched.verdict.to_dict()))
    assert said["runs"] == searched.runs
    assert "Not judged" not in (searched.folder / "report.html").read_text()


def test_seeds_that_are_not_all_there_give_no_verdict(searched: Search) -> None:
    def before(seeds: int) -> Search:
        again = replace(searched, verdict=None, runs={})
        config = TrainConfig().replace(**searched.settings)
        runs = searched.folder.parent
        return finals.Finals(
            again, shades(240, 100), config, seeds, runs, False, True
        ).judged_before()

    assert before(0).verdict == before(2).verdict == searched.verdict
    assert before(3).verdict is None  # it was stopped before the third one
    run = Path(searched.runs["winner"][1])
    (run / "val.json").rename(run / "gone.json")
    try:
        left = before(0).verdict
    finally:
        (run / "gone.json").rename(run / "val.json")
    assert left is not None
    assert len(left.default) == len(left.winner) == 1


def test_ctrl_c_leaves_a_study_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = hunt.fit, 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        for result in real(*arguments):
            if calls == 1 and result.epoch == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(hunt, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path)
    [row] = csv.DictReader((tmp_path / "shades-fast-tune" / "trials.csv").read_text().splitlines())
    assert (row["state"], row["default"]) == ("stopped", "1")
    found = search(tmp_path)
    assert [trial.state for trial in found.trials] == ["stopped", "done", "done", "done"]
    assert [trial.is_default for trial in found.trials] == [True, True, False, False]
    assert found.default is found.trials[1]  # begun again


def test_a_killed_process_keeps_no_trial(tmp_path: Path) -> None:
    search(tmp_path, 2)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = Study(database_in(tmp_path / "shades-fast-tune"), "shades-fast-tune")
    left.begin_or_join({})
    with without_warnings():
        trial = left._study.ask()
    trial.set_user_attr("process", [socket.gethostname(), child.pid])
    found = search(tmp_path, 3)
    assert [trial.state for trial in found.trials] == ["done", "done", "stopped", "done"]


CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_tune import search
search(Path(sys.argv[2]), 8, storage=sys.argv[3], name="shared", epochs=1)
"""


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    folder = str(Path(__file__).parent)
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CODE, folder, str(tmp_path / who), url],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in ("a", "b")
    ]
    for one in both:
        _, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
    shared = Study(url, "shared")
    shared.begin_or_join({})
    trials = shared.trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert sum(trial.is_over for trial in trials) == 8
    assert all(trial.state != "running" for trial in trials)
    assert [trial.is_default for trial in trials].count(True) == 1
    assert trials[0].is_default
    stored = optuna.load_study(study_name="shared", storage=url).trials
    processes = {tuple(one.user_attrs["process"]) for one in stored if "process" in one.user_attrs}
    assert len(processes) == 2
    tables = [(tmp_path / who / "shared" / "trials.csv").read_text() for who in ("a", "b")]
    assert tables[0] == tables[1]


def made_up(monkeypatch: pytest.MonkeyPatch, scores: Callable[[int, int], float]) -> None:
    """Trials that train nothing: their figures are a function of trial and epoch."""
    numbers = iter(range(1000))

    def fit(*_: Any) -> Any:
        number = next(numbers)
        for epoch in range(1, 10):
            right = round(1000 * scores(number, epoch))
            counts = np.array([[right, 1000 - right, 0], [0, 0, 0], [0, 0, 0]])
            yield EpochResult(epoch, epoch, 0.1, 0.5, (), counts)

    monkeypatch.setattr(hunt, "fit", fit)


def test_what_promises_nothing_is_given_up_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, lambda number, epoch: (0.9 if number < 6 else 0.3) + 0.001 * epoch)
    found = search(tmp_path, 8, epochs=9)
    assert [trial.state for trial in found.trials] == ["done"] * 6 + ["pruned"] * 2
    # Not in the first third of the epochs, where a high rate looks worse than it is.
    assert [list(trial.scores) for trial in found.trials[6:]] == [[1, 2, 3]] * 2
    assert found.winner is found.trials[0]  # the first of those alike
    assert found.trials[0].score == pytest.approx(0.909)


def test_the_default_is_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda number, epoch: 0.9 if number else 0.1)
    monkeypatch.setattr(study, "FIRST_UNPRUNED", 0)
    found = search(tmp_path, 3, epochs=9)
    assert [trial.state for trial in found.trials] == ["done"] * 3


def test_rates_that_blow_up_do_not_end_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPACE, "fast", {"rest_lr": Around(1e38)})
    found = search(tmp_path, 6)
    states = [trial.state for trial in found.trials]
    assert len(states) == 6
    assert set(states) == {"done", "failed"}
    failed = next(trial for trial in found.trials if trial.state == "failed")
    assert "not finite" in failed.why or "loss is" in failed.why
    assert failed.score is None
    assert [t.state for t in search(tmp_path, 6).trials] == states  # they count


def test_a_default_that_blows_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NumbersError, match="trial 0, the recipe's own settings: the loss is"):
        search(tmp_path, rest="sgd", rest_lr=1e37)


def test_time_is_set_aside_for_the_fresh_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=None)
    monkeypatch.setattr(tune, "time", clock)
    monkeypatch.setattr(hunt, "time", clock)
    monkeypatch.setattr(study, "time", clock)

    def slow(config: TrainConfig, parts: hunt.Parts, tell: Any) -> float:
        if not config.max_steps:  # else it only gets warm
            now[0] += 10
        return 0.5

    monkeypatch.setattr(hunt, "best_epoch", slow)
    # Of 300 s, two seeds of both, each a third longer than a trial, and all their ends.
    left = 300 - 2 * (2 * 10 * 4 / 3 + 2 * hunt.CLOSING) - hunt.CLOSING
    found = search(tmp_path, 1000, seeds=2, time_limit=300)
    assert len(found.trials) == left // 10
    least = math.ceil(10 + 10 + 5 * (2 * 10 * 4 / 3 + 2 * hunt.CLOSING) + hunt.CLOSING)
    with pytest.raises(UsageError, match=f"60 s are too short here, {least} s the least"):
        search(tmp_path / "b", 1000, seeds=5, time_limit="1m")
    assert (tmp_path / "b" / "shades-fast-tune" / "trials.csv").exists()
    # What was searched before counts: it goes on with what there is, and ends at once.
    assert len(search(tmp_path, 1000, seeds=0, time_limit=1).trials) == left // 10


def test_a_trial_that_would_be_late_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=None)
    monkeypatch.setattr(tune, "time", clock)
    monkeypatch.setattr(hunt, "time", clock)
    monkeypatch.setattr(study, "time", clock)
    lengths = iter([0.0, 1.0, 1.0, 100.0])

    def slow(config: TrainConfig, parts: hunt.Parts, tell: Any) -> float:
        now[0] += next(lengths)
        tell(1, 0.5)
        return 0.5

    monkeypatch.setattr(hunt, "best_epoch", slow)
    found = search(tmp_path, 10, time_limit=50)
    assert [trial.state for trial in found.trials] == ["done", "done", "stopped"]
    assert found.trials[-1].why == "out of time"


def test_other_data_or_settings_are_another_study(tmp_path: Path) -> None:
    search(tmp_path, 1)
    for change, complaint in (
        ({"epochs": 3}, "--epochs was 2, now 3"),
        ({"data": shades(seed=1)}, "the pictures of shades are not those of shades"),
        ({"recipe": "best", "name": "shades-fast-tune"}, "--recipe was fast, now best"),
        ({"lr": 0.01}, "--lr was 0.12, now 0.01"),
    ):
        with pytest.raises(UsageError, match=re.escape(complaint)) as caught:
            search(tmp_path, 2, **change)
        assert "Choose another --name" in str(caught.value)
    assert len(search(tmp_path, 1).trials) == 1


def test_every_recipe_has_a_space_that_holds_its_own_settings() -> None:
    from eyebright.recipes import RECIPES

    assert set(SPACE) == set(RECIPES)
    for name, config in RECIPES.items():
        ranges = space_of(config, set())
        own = own_settings(config, ranges)
        drawn = optuna.create_study()
        drawn.enqueue_trial(own)
        # A value outside its range would be a warning, which is an error here.
        assert space.suggest(drawn.ask(), config, ranges, 10_000, True) == own, name
        digits = optuna.create_study()
        config = config.replace(augment="shift")
        for _ in range(20):
            chosen = space.suggest(digits.ask(), config, ranges, 10_000, mirrors=False)
            config.replace(**chosen)
            assert "mirror" not in chosen.get("augment", "")
    with pytest.raises(UsageError, match="nothing is left"):
        space_of(RECIPES["fast"], set(SPACE["fast"]))


def test_a_linear_probe_is_searched_with_what_could_follow_it() -> None:
    from eyebright.recipes import RECIPES

    config = RECIPES["finetune"]
    ranges = space_of(config, set())
    assert own_settings(config, ranges) == {"tune": "none"}
    assert "lr" in own_settings(config.replace(tune="all"), ranges)
    assert not {"lr", "epochs"} & finals.settings_for(config, {"tune": "none"}).keys()
    assert finals.settings_for(config, {"tune": "all", "lr": 1e-4})["lr"] == 1e-4


def test_a_damaged_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "shades-fast-tune"
    folder.mkdir()
    (folder / "study.db").write_bytes(b"no database" * 500)
    with pytest.raises(StorageError, match=r"study\.db: no database that can be used \(file is"):
        search(tmp_path)


class Addresses(HTMLParser):
    """What a page would fetch."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href", "action", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_needs_nothing_else(searched: Search, language: str) -> None:
    from eyebright.report.search import write_search

    html = write_search(searched, language).read_text(encoding="utf-8")
    page = Addresses(html)
    assert page.found == ["data:,"]
    assert not {"http", "@import", "url("} & {w for w in ("http", "@import", "url(") if w in html}
    dots = sum(trial.score is not None for trial in searched.trials)
    assert html.count("<circle") >= dots + 4
    assert ("Which setting mattered" if language == "en" else "哪个设置重要") in page.text
    if language == "zh":
        seen = set(map(str.strip, page.text))
        assert not {text for text in CHINESE if len(text) > 12} & seen
        assert not [text for text in seen if re.search(r"\d to [+-]", text)]


def test_the_page_escapes_names(tmp_path: Path) -> None:
    data = shades()
    data.name = "<script>alert(1)</script>"
    found = search(tmp_path, 1, data=data, name="plain")
    assert "<script>alert" not in (found.folder / "report.html").read_text()


def test_the_command(
    class_folders: Callable[..., Path], eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    folder = class_folders("pets", count=30, size=(8, 8))
    words = ["tune", folder, "--model", "white16", "--epochs", 1, "--device", "cpu"]
    words += ["--precision", "fp32", "--threads", 1]
    code, out, errors = eyebright_says(*words, "--trials", 3, "--seeds", 0, "--lang", "zh")
    assert (code, errors) == (0, "")
    assert out.count("trial ") >= 3
    assert "report: runs/pets-fast-tune/report.html" in out
    assert sorted(path.name for path in Path("runs/pets-fast-tune").iterdir()) == [
        "report.html", "study.db", "trials.csv", "tune.json",
    ]  # fmt: skip
    assert len(json.loads(Path("runs/pets-fast-tune/tune.json").read_text())["trials"]) == 3
    code, _, errors = eyebright_says("tune", folder, "--lang", "de", "--name", "other")
    assert (code, Path("runs/other").exists()) == (2, False)  # at once, and not after the search
    Path("runs/r").mkdir()
    Path("runs/r/config.json").write_text("{}")
    for wrong, expected, complaint in (
        (["--trials", 0], 2, "--trials must be 1 or more"),
        (["--seeds", -1], 2, "--seeds must be 0 or more"),
        (["--time", "soon"], 2, "--time cannot be 'soon'"),
        (["--storage", "nonsense"], 2, "--storage takes the URL of a database"),
        (["--storage", "oracel://u:secret@h/n"], 2, "is no URL of a database"),
        (["--storage", "sqlite:////nowhere/at/all.db"], 5, "no database that can be used"),
        (["--lang", "de"], 2, "--lang cannot be 'de'"),
        (["--name", "../x"], 2, "--name must be a plain folder name"),
        (["--name", "r"], 2, "runs/r is a run"),
        (["--recipe", "fats"], 2, "did you mean fast"),
        (["--recipe", "tutorial"], 2, "use --val 0.1"),
        (["--val", 0], 2, "use --val 0.1"),
        (["--epochs", 2], 2, "--epochs was 1, now 2"),
    ):
        code, _, errors = eyebright_says(*words, "--trials", 3, "--seeds", 0, *wrong)
        assert code == expected, (wrong, errors)
        assert complaint in errors
        assert errors.count("\n") == 1
        assert "secret" not in errors


def test_ranks_are_told_to_share_a_database(
    monkeypatch: pytest.MonkeyPatch, eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    code, _, errors = eyebright_says("tune", "digits")
    assert code == 2
    assert "not under torchrun" in errors
    assert "--storage" in errors


def test_without_optuna_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, eyebright_says: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, errors = eyebright_says("tune", "digits")
    assert code == 2
    assert install_command("tune") in errors


def test_pictures_are_not_asked_of_the_test_part(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("test", 4)):
        for label in ("a", "b"):
            (tmp_path / "d" / part / label).mkdir(parents=True)
            for i in range(count):
                generator = np.random.default_rng([i, label == "a"])
                pixels = generator.integers(0, 128 + 127 * (label == "a"), (8, 8, 3), np.uint8)
                place = tmp_path / "d" / part / label / f"{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(place)
    for place in (tmp_path / "d" / "test").rglob("*.png"):
        place.write_bytes(b"never read")
    found = tune.tune(tmp_path / "d", 2, runs=tmp_path / "runs", seeds=1, **TINY | {"epochs": 1})
    assert found.pictures["kept"] == 20
    assert not list((tmp_path / "runs").rglob("tests.jsonl"))
