"""Changed pictures, and what a classifier makes of them."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import eyebright
from eyebright.data.look import cut_grid
from eyebright.report import write_report
from eyebright.robustness import SHIFTS, THIRDS, measure_robustness, thirds


def noisy_pictures(n: int = 6, side: int = 32) -> torch.Tensor:
    """Smooth pictures with an edge, uint8 (n, 3, side, side)."""
    rows = torch.linspace(40, 200, side)[:, None] + torch.linspace(0, 30, side)[None]
    rows[side // 2 :, side // 3 :] = 20
    return rows.round().to(torch.uint8).expand(n, 3, side, side).contiguous()


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("side", [8, 32, 65])
def test_each_strength_changes_more_than_the_one_before(name: str, side: int) -> None:
    change, strengths, _ = SHIFTS[name]
    pictures = noisy_pictures(side=side)
    kept = pictures.clone()
    distances = []
    for strength in strengths:
        changed = change(pictures, strength)
        assert changed.shape == pictures.shape
        assert changed.dtype == torch.uint8
        distances.append((changed.float() - pictures.float()).abs().mean().item())
    assert distances == sorted(distances)
    assert distances[-1] > max(1.0, distances[0])
    assert torch.equal(pictures, kept)
    assert len(strengths) == 5


def test_directions_take_turns() -> None:
    pictures = noisy_pictures(2)
    bright, dark = SHIFTS["brightness"][0](pictures, 0.3).float().mean((1, 2, 3))
    assert bright > pictures.float().mean() > dark
    right, left = SHIFTS["shift"][0](pictures, 0.1)
    assert torch.equal(right[..., 3:], pictures[0, ..., :-3])
    assert torch.equal(left[..., :-3], pictures[1, ..., 3:])


def test_thirds_hold_all_pictures_in_order() -> None:
    values, right = np.array([5, 1, 9, 3, 7, 2]), np.array([1, 0, 1, 0, 1, 1], bool)
    low, middle, high = thirds(values, right)
    assert (low.value, middle.value, high.value) == (0.5, 0.5, 1.0)
    assert low.n + middle.n + high.n == 6


def test_no_third_is_cut_between_like_values() -> None:
    # Sorted by class, with sizes almost all alike: a cut between them would compare classes.
    sizes = np.full(99, 256)
    sizes[[0, -1]] = 255, 300
    assert thirds(sizes, np.arange(99) < 33) == ()
    sizes[:40], sizes[80:] = 200, 300
    low, middle, high = thirds(sizes, np.ones(99, bool))
    assert (low.n, middle.n, high.n) == (40, 40, 19)


def test_a_classifier_of_brightness_suffers_from_brightness_most() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    pixels = 50 + 60 * labels[:, None, None, None] + generator.integers(0, 20, (150, 16, 16, 3))
    data = eyebright.Dataset(pixels.astype(np.uint8), labels, ["dark", "grey", "light"], name="s")
    run = eyebright.train(data, epochs=6, batch_size=16, model="white16", device="cpu", quiet=True)
    other = eyebright.Dataset((pixels + 3).astype(np.uint8), labels, data.classes, name="t")
    evaluation = run.test(other, shift=True)
    found = evaluation.robustness
    assert found is not None
    assert found.clean.value == evaluation.accuracy.value
    assert (found.shifted["brightness"][-1].value or 0) < (found.shifted["shift"][0].value or 0)
    assert "size" not in found.slices  # all alike
    assert [f.n for f in found.slices["brightness"]] == [50, 50, 50]
    record = json.loads((run.path / "shift.json").read_text())
    assert set(record["shifted"]) == set(SHIFTS)
    assert record["shifted"]["jpeg"]["strengths"][0]["strength"] == 80
    assert set(record["slices"]["brightness"]) == set(THIRDS)
    for kind, seen in found.examples.items():
        assert seen.shape == (6, 16, 16, 3)
        assert (seen[0] != seen[5]).any(), kind
    with Image.open(run.path / "shift.png") as picture:
        assert picture.width * 7 > picture.height * 5  # seven rows of six, with captions
    page = write_report(run, evaluation=evaluation).read_text(encoding="utf-8")
    assert page.count("data:image/png") + page.count("data:image/jpeg") >= 7 * 6
    assert "brightness: lowest third" in page
    for seen, cut in zip(
        np.concatenate(list(found.examples.values())),
        cut_grid(Image.open(run.path / "shift.png"), 6),
        strict=True,
    ):
        assert np.array_equal(np.asarray(cut.resize((16, 16), Image.Resampling.NEAREST)), seen)
    console = Console(width=80, file=io.StringIO())
    console.print(found.table())
    assert all(name in console.file.getvalue() for name in SHIFTS)
    assert measure_robustness(run.classifier(), other) == found
    exact = measure_robustness(run.classifier(), other, interval="exact")
    for kind in ("brightness", "shift"):
        assert exact.shifted[kind][-1].low != found.shifted[kind][-1].low
    assert exact.clean.low != found.clean.low
    assert exact.slices["brightness"][0].low != found.slices["brightness"][0].low
