"""Settings: they survive the way through JSON, and what cannot be is refused by its flag."""

import dataclasses
import json
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyebright.config import BATCH_PIXELS, TrainConfig, fit_to_data, flag, parse_time
from eyebright.errors import UsageError
from eyebright.models import check_name
from eyebright.recipes import RECIPES, recipe_config

BY_KIND: dict[Any, st.SearchStrategy[Any]] = {
    str | None: st.none() | st.text(max_size=5),
    int: st.integers(4, 1024),
    float: st.floats(1e-6, 0.9),
    str: st.text(),
    bool: st.booleans(),
    int | None: st.none() | st.integers(4, 4096),
    float | None: st.none() | st.floats(1e-6, 0.9),
}


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(kind)) if get_origin(kind) is Literal else BY_KIND[kind]


CONFIGS = st.builds(
    TrainConfig, **{name: strategy(kind) for name, kind in get_type_hints(TrainConfig).items()}
)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    config = recipe_config(name)
    assert config.recipe == name
    assert TrainConfig.from_json(config.to_json()) == config


@settings(deadline=None, max_examples=50, derandomize=True)
@given(CONFIGS)
def test_any_configuration_survives_json(config: TrainConfig) -> None:
    text = config.to_json()
    assert TrainConfig.from_json(text) == config
    assert text.isascii()
    assert list(json.loads(text)) == [field.name for field in dataclasses.fields(TrainConfig)]


def test_the_tutorial_is_the_lesson_to_the_letter() -> None:
    assert recipe_config("tutorial").replace() == TrainConfig(
        recipe="tutorial",
        model="lesson",
        epochs=5,
        min_steps=0,
        batch_size=4,
        drop_last=False,
        optimizer="sgd",
        lr=0.001,
        momentum=0.9,
        schedule="constant",
        label_smoothing=0.0,
        balance="none",
        augment="none",
        normalization="half",
        imgsz=32,
        val=0.0,
        log_every=2000,
        precision="fp32",
    )


def test_the_lesson_is_not_bent_to_the_data() -> None:
    tutorial = recipe_config("tutorial")
    assert fit_to_data(tutorial, n=50_000, imgsz=32) == tutorial


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_an_unknown_recipe_names_the_choices() -> None:
    with pytest.raises(UsageError, match=r"'slow'.*tutorial.*quick.*fast.*best") as caught:
        recipe_config("slow")
    assert caught.value.exit_code == 2


def test_replace_changes_what_is_named_and_leaves_none_alone() -> None:
    config = TrainConfig(epochs=3, imgsz=16)
    changed = config.replace(lr=0.5, imgsz=None, epochs=None)
    assert (changed.lr, changed.imgsz, changed.epochs) == (0.5, 16, 3)
    assert changed == dataclasses.replace(config, lr=0.5)
    assert config == TrainConfig(epochs=3, imgsz=16)


def test_replace_names_every_unknown_setting() -> None:
    with pytest.raises(UsageError, match="batchsize, learning_rate"):
        TrainConfig().replace(learning_rate=0.1, epochs=2, batchsize=3)


def test_a_whole_number_will_do_for_a_real_one() -> None:
    config = TrainConfig(lr=1, momentum=0)
    assert type(config.lr) is float
    assert config.lr == 1.0
    assert config.to_json() == TrainConfig(lr=1.0, momentum=0.0).to_json()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", "3"),
        ("epochs", 3.0),
        ("epochs", True),
        ("epochs", None),
        ("batch_size", 2.5),
        ("batch_size", [4]),
        ("imgsz", "32"),
        ("imgsz", False),
        ("lr", "fast"),
        ("lr", None),
        ("lr", True),
        ("lr", 1j),
        ("drop_last", 1),
        ("drop_last", "yes"),
        ("model", 5),
        ("augment", None),
        ("seed", 1.0),
    ],
)
def test_a_wrong_type_is_refused_by_its_flag(setting: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{setting: value})
    message = str(caught.value)
    assert message.startswith(flag(setting) + " ")
    assert repr(value) in message
    assert "<class" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("setting", "value", "choices"),
    [
        ("optimizer", "adam", "sgd, muon"),
        ("schedule", "cosine", "constant, linear"),
        ("normalization", "imagenet", "data, half"),
        ("metric", "f1", "accuracy, balanced-accuracy"),
        ("precision", "fp16", "auto, fp32, bf16"),
        ("precision", None, "auto, fp32, bf16"),
        ("metric", ["accuracy"], "accuracy, balanced-accuracy"),
    ],
)
def test_a_word_that_is_no_choice_is_refused(setting: str, value: object, choices: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{setting: value})
    message = str(caught.value)
    assert message.startswith(flag(setting) + " ")
    assert choices in message


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("imgsz", 3),
        ("imgsz", 4097),  # no model card says more
        ("seed", -1),
        ("seed", 2**32),  # the most that NumPy's generator takes
        ("threads", -1),
        ("log_every", -1),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        pytest.param("lr", 10**400, id="lr-huge"),
        ("rest_lr", 0),
        ("val", 1.0),
        ("val", -0.1),
        ("val", math.nan),
        ("momentum", 1),
        ("momentum", -0.5),
        ("label_smoothing", 1.0),
        ("label_smoothing", math.nan),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(setting: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{setting: value})
    assert str(caught.value).startswith(flag(setting) + " ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 1),
        ("batch_size", 1),
        ("imgsz", 4),
        ("imgsz", 4096),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("val", 0.0),
        ("momentum", 0.0),
        ("label_smoothing", 0.0),
        ("log_every", 0),
        ("threads", 0),
    ],
)
def test_the_ends_of_a_range_belong_to_it(setting: str, value: float) -> None:
    assert getattr(TrainConfig(**{setting: value}), setting) == value


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"fast"', "null", "NaN", '{"epochs": 3,}', "\x00", "[" * 100_000],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_no_json_object_is_no_configuration(text: str) -> None:
    with pytest.raises(UsageError, match="not a configuration"):
        TrainConfig.from_json(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"epoch": 3}', "epoch"),
        ('{"epochs": "3"}', "--epochs"),
        ('{"lr": NaN}', "--lr"),
        ('{"lr": -Infinity}', "--lr"),
        ('{"optimizer": {}}', "--optimizer"),
    ],
)
def test_a_damaged_configuration_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig.from_json(text)


FAST = TrainConfig(batch_size=500, epochs=6, min_steps=300)


@pytest.mark.parametrize(
    ("n", "imgsz", "batch_size", "epochs"),
    [
        (45_000, 32, 500, 6),  # many small pictures: as it stands
        (10_000, 32, 500, 15),  # exactly a twentieth; 20 steps an epoch
        (9_999, 32, 499, 15),
        (1_600, 8, 80, 15),
        (200, 32, 16, 25),  # never under 16 for few pictures ...
        (10, 32, 10, 300),  # ... unless there are no more
        (1, 32, 1, 300),
        (45_000, 224, 79, 6),  # large pictures: BATCH_PIXELS
        (45_000, 1024, 16, 6),
    ],
)
def test_batches_and_epochs_fit_the_data(n: int, imgsz: int, batch_size: int, epochs: int) -> None:
    assert fit_to_data(FAST, n, imgsz) == FAST.replace(batch_size=batch_size, epochs=epochs)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(CONFIGS, st.integers(1, 100_000), st.integers(4, 1024))
def test_whatever_the_data_there_is_a_step_to_take(config: TrainConfig, n: int, imgsz: int) -> None:
    fitted = fit_to_data(config, n, imgsz)
    assert 1 <= fitted.batch_size <= min(n, config.batch_size)
    assert fitted.batch_size <= max(16, n // 20)
    assert fitted.batch_size <= 16 or fitted.batch_size * imgsz**2 <= BATCH_PIXELS
    assert fitted.epochs >= config.epochs
    assert fitted.epochs * (n // fitted.batch_size) >= config.min_steps
    same = {"batch_size": config.batch_size, "epochs": config.epochs}
    assert fitted.replace(**same) == config


@pytest.mark.parametrize(
    ("setting", "said"), [("batch_size", "--batch-size"), ("lr", "--lr"), ("imgsz", "--imgsz")]
)
def test_flags_are_spelt_as_on_the_command_line(setting: str, said: str) -> None:
    assert flag(setting) == said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3m", 180),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1m30s", 90),
        ("2.5s", 2.5),
        (" 5M ", 300),
    ],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "3", "m", "0s", "-3m", "3 minutes", "1m1h", "nan", "1e3s"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time cannot be") as caught:
        parse_time(text)
    assert caught.value.exit_code == 2


def test_a_misspelt_name_gets_a_guess() -> None:
    with pytest.raises(UsageError, match=r"'fats' \(did you mean fast\?\); choose one of"):
        recipe_config("fats")
    with pytest.raises(UsageError, match=r"'whit16' \(did you mean white16\?\); choose one of"):
        check_name("whit16")
    with pytest.raises(UsageError, match="'zzz'; choose one of"):
        check_name("zzz")
