"""Models on disk: bit-exact when whole, refused when not, and never able to run code."""

import errno
import io
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from eyebright.batches import HALF, Normalization
from eyebright.checkpoint import CARD, FORMAT, WEIGHTS, ModelCard, load_card, load_model, save_model
from eyebright.errors import ModelError, StorageError
from eyebright.models import MODELS, create_model
from tampering import Canary, change_card

NORMALIZATION = Normalization((0.1 + 0.2, 1 / 3, 0.5), (0.25, 2 / 7, 0.1))


def card(architecture: str = "lesson", classes: tuple[str, ...] = ("a", "b")) -> ModelCard:
    return ModelCard(architecture, classes, 16, NORMALIZATION, recipe="tutorial", epoch=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with both files of a small model."""
    torch.manual_seed(0)
    save_model(tmp_path, create_model("lesson", 2, 16).state_dict(), card())
    load_model(tmp_path)
    return tmp_path


def sign_weights(folder: Path) -> None:
    change_card(folder, weights_sha256=sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    change(weights)
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    sign_weights(folder)


def refusal(folder: Path) -> str:
    """What is said when the model is loaded, which must fail in one line."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = create_model(name, 3, 16).to(memory_format=torch.channels_last)
    net(torch.randn(4, 3, 16, 16))  # running statistics of its own
    written = card(name, ("Katze", "猫", "🐈‍⬛"))
    save_model(tmp_path, net.state_dict(), written)
    loaded, read = load_model(tmp_path)
    assert replace(read, weights_sha256="") == written
    assert not loaded.training
    wanted, found = net.state_dict(), loaded.state_dict()
    assert wanted.keys() == found.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, WEIGHTS]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    weights = create_model("white16", 2, 16).state_dict()
    contents = []
    for _ in range(2):
        save_model(tmp_path, weights, card("white16"))
        contents.append([(tmp_path / name).read_bytes() for name in (WEIGHTS, CARD)])
    assert contents[0] == contents[1]


def test_plain_pytorch_reads_the_weights(model: Path) -> None:
    net = create_model("lesson", 2, 16)
    net.load_state_dict(safetensors.torch.load_file(model / WEIGHTS))
    loaded, _ = load_model(model)
    pictures = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(pictures), loaded(pictures))


class Own(nn.Module):
    """A user's own net, with one matrix in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight


def test_an_own_net_with_shared_weights_can_be_saved(tmp_path: Path) -> None:
    save_model(tmp_path, Own().state_dict(), card("Own"))
    net, _ = load_model(tmp_path, Own())
    assert net.second.weight is net.first.weight


def test_an_own_net_must_be_brought_along(model: Path) -> None:
    change_card(model, architecture="MyNet")
    message = refusal(model)
    assert "'MyNet'" in message
    assert "Classifier.load(run, model=...)" in message
    net, read = load_model(model, create_model("lesson", 2, 16))
    assert read.architecture == "MyNet"
    assert not net.training


def test_another_net_than_the_saved_one_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="not the weights of this net"):
        load_model(model, nn.Linear(2, 2))


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    message = refusal(model)
    assert name in message
    assert str(model) in message


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_folder_in_place_of_a_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).mkdir()
    assert name in refusal(model)


@pytest.mark.parametrize("folder", ["nothing", f"{CARD}", "no\x00where"])
def test_what_is_no_model_folder_is_refused(model: Path, folder: str) -> None:
    refusal(model / folder)


def test_weights_cut_short_anywhere_are_refused(model: Path) -> None:
    content = (model / WEIGHTS).read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    ends = {*range(0, head + 8, 7), 7, 8, 9, head - 1, head, head + 1, len(content) - 1}
    ends |= set(range(head, len(content), len(content) // 50))
    for end in sorted(ends):
        (model / WEIGHTS).write_bytes(content[:end])
        message = refusal(model)
        assert str(model / WEIGHTS) in message, end


def test_a_card_cut_short_anywhere_is_refused(model: Path) -> None:
    content = (model / CARD).read_bytes().rstrip()
    for end in range(len(content)):
        (model / CARD).write_bytes(content[:end])
        assert str(model / CARD) in refusal(model), end


def test_a_damaged_head_of_the_weights_is_refused_or_harmless(model: Path) -> None:
    content = (model / WEIGHTS).read_bytes()
    before = load_model(model)[0].state_dict()
    head = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for position in range(0, head, 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 7
        (model / WEIGHTS).write_bytes(damaged)
        sign_weights(model)
        try:
            after = load_model(model)[0].state_dict()
        except ModelError:
            refused += 1
        else:
            assert after.keys() == before.keys()
    assert refused > head / 3 * 0.8


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"lesson"',
        b"{}",
        b"\xff\xfe",
        b"\x80\x04\x95",
        b"{" * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda text: repr(text[:9]),
)
def test_a_card_that_is_no_card_is_refused(model: Path, text: bytes) -> None:
    (model / CARD).write_bytes(text)
    assert str(model / CARD) in refusal(model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, KeyError)
            for key in "format architecture classes imgsz normalization recipe epoch policy".split()
        ),
        ("format", FORMAT + 1),
        ("format", None),
        ("format", str(FORMAT)),
        ("classes", []),
        ("classes", "ab"),
        ("classes", [1, 2]),
        ("classes", ["a", "a"]),
        ("classes", {"a": 0, "b": 1}),
        ("classes", None),
        ("classes", ["a", "b", "c"]),
        ("classes", ["a"]),
        ("imgsz", "large"),
        ("imgsz", None),
        ("imgsz", []),
        ("imgsz", float("nan")),
        ("imgsz", float("inf")),
        ("imgsz", 0),
        ("imgsz", -16),
        ("imgsz", 10**9),
        ("imgsz", 10**30),
        ("imgsz", 4097),
        ("imgsz", 32),
        ("imgsz", 8),
        ("epoch", "last"),
        ("policy", "squashed"),
        ("architecture", None),
        ("architecture", ["lesson"]),
        ("architecture", "white16"),
        ("normalization", None),
        ("normalization", [0.5, 0.5]),
        ("normalization", {"mean": [0, 0, 0]}),
        ("normalization", {"mean": [0, 0], "std": [1, 1]}),
        ("normalization", {"mean": [0, 0, 0], "std": [1, 1, 0]}),
        ("normalization", {"mean": [0, 0, 0], "std": [1, 1, -1]}),
        ("normalization", {"mean": [0, 0, "x"], "std": [1, 1, 1]}),
        ("normalization", {"mean": [0, 0, float("nan")], "std": [1, 1, 1]}),
        ("normalization", {"mean": [0, 0, 0], "std": [float("nan"), 1, 1]}),
        ("normalization", {"mean": [0, 0, 0], "std": [1, float("nan"), 1]}),
        ("normalization", {"mean": [0, 0, 0], "std": [1, 1, float("inf")]}),
        ("normalization", {"mean": [0, 0, 10**400], "std": [1, 1, 1]}),
    ],
    ids=lambda value: "missing" if value is KeyError else repr(value)[:40],
)
def test_a_card_with_an_impossible_entry_is_refused(model: Path, key: str, value: object) -> None:
    change_card(model, **{key: value})
    assert str(model) in refusal(model)


def test_a_later_format_says_which_one_is_read(model: Path) -> None:
    change_card(model, format=99)
    message = refusal(model)
    assert "format 99" in message
    assert f"reads {FORMAT}" in message


def test_huge_pictures_are_refused_before_a_net_is_made(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_card(model, imgsz=5000)
    monkeypatch.setitem(MODELS, "lesson", lambda **_: pytest.fail("a net was made"))
    assert "5000 px" in refusal(model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_battery_23_weights_that_are_not_finite_are_refused_by_name(
    model: Path, bad: float
) -> None:
    change_weights(model, lambda w: w["fc2.bias"].__setitem__(7, bad))
    assert "fc2.bias" in refusal(model)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda w: w.pop("fc3.bias"), "fc3.bias"),
        (lambda w: w.update(extra=torch.zeros(3)), "extra"),
        (lambda w: w.update({"conv1.weight": torch.zeros(6, 3, 3, 3)}), "conv1.weight"),
        (lambda w: w.update({"fc3.weight": w["fc3.weight"].T.contiguous()}), "fc3.weight"),
        (lambda w: w.update({"fc3.bias": torch.zeros(())}), "fc3.bias"),
        (lambda w: w.clear(), "conv1.weight"),
    ],
    ids=["missing", "extra", "smaller", "transposed", "scalar", "none"],
)
def test_battery_23_weights_of_another_shape_are_refused_by_name(
    model: Path, change: Callable[[dict[str, Tensor]], object], name: str
) -> None:
    change_weights(model, change)
    message = refusal(model)
    assert name in message
    assert str(model / WEIGHTS) in message


@pytest.mark.parametrize(
    "bias",
    [
        torch.tensor([1e300, 0.0], dtype=torch.float64),  # finite, but not as a float32
        torch.tensor([1j, 0]),
        torch.tensor([2**60 + 1, 0]),
    ],
    ids=lambda bias: str(bias.dtype),
)
def test_battery_23_weights_of_another_type_never_become_other_weights(
    model: Path, bias: Tensor
) -> None:
    change_weights(model, lambda w: w.update({"fc3.bias": bias}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch only warns where it drops the imaginary part
        assert "fc3.bias" in refusal(model)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
@pytest.mark.parametrize("way", ["torch.save", "old torch.save", "pickle"])
def test_battery_21_a_pickle_under_another_name_is_refused_and_never_run(
    model: Path, name: str, way: str
) -> None:
    canary, file = model / "canary", model / name
    content = {"conv1.weight": Canary(canary)}
    if way == "pickle":
        file.write_bytes(pickle.dumps(content))
        pickle.loads(file.read_bytes())
    else:
        torch.save(content, file, _use_new_zipfile_serialization=way == "torch.save")
        torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    assert canary.exists()  # it works
    canary.unlink()
    assert str(file) in refusal(model)
    assert not canary.exists()


def test_messages_show_no_control_characters(model: Path) -> None:
    change_card(model, architecture="evil\x1b[2J\nname")
    assert "\x1b" not in refusal(model)
    change_card(model, architecture="lesson")
    change_weights(model, lambda w: w.update({"evil\x1b[2J\nname": torch.zeros(1)}))
    assert "\x1b" not in refusal(model)


def test_a_card_can_be_read_without_the_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()
    assert replace(load_card(model), weights_sha256="") == card()


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError):
        save_model(tmp_path, create_model("lesson", 2, 16).state_dict(), card())
    assert not list(tmp_path.iterdir())


def test_normalisation_survives_to_the_last_bit(tmp_path: Path) -> None:
    for normalization in (HALF, NORMALIZATION):
        written = ModelCard("lesson", ("a", "b"), 16, normalization, "fast", 1)
        save_model(tmp_path, {}, written)
        assert load_card(tmp_path).normalization == normalization


def test_weights_that_the_card_does_not_know_are_refused(model: Path) -> None:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (model / WEIGHTS).write_bytes(content)
    assert "not the weights that model.json tells of" in refusal(model)
