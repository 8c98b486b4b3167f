"""`Look`: the lesson's grid and labels, and the table of counts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eyebright.data import Dataset
from eyebright.data.look import Look, draw_grid, lesson_labels, terminal_grid

CLASSES = ["frog", "truck", "deer", "horse"]
COUNTS = [12, 6, 3, 3]


@pytest.fixture
def data() -> Dataset:
    labels = np.repeat(np.arange(4), COUNTS)
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    return Dataset(images, labels, CLASSES, name="animals", modes=["L", *["RGB"] * 23])


def test_labels_stand_in_the_lessons_form() -> None:
    assert lesson_labels(["frog", "truck", "truck", "deer"]) == "frog  truck truck deer"
    lesson = " ".join(f"{name:5s}" for name in ["cat", "ship", "ship", "plane"])
    assert lesson_labels(["cat", "ship", "ship", "plane"]) == lesson
    assert lesson_labels(["two\nlines"]) == "two\\nlines"


def test_label_lines_are_the_rows_of_the_grid(data: Dataset) -> None:
    look = data.look(count=11, seed=3)
    lines = look.label_lines()
    assert [len(line.split()) for line in lines] == [8, 3]
    assert " ".join(lines).split() == look.labels
    assert all(line == lesson_labels(line.split()) for line in lines)


def test_labels_belong_to_their_pictures(data: Dataset) -> None:
    look = data.look(count=24)
    assert sorted(look.labels) == sorted(data.classes[label] for label in data.labels)
    for pixels, name in zip(look.images, look.labels, strict=True):
        (position,) = np.flatnonzero((data.images == pixels).all(axis=(1, 2, 3)))
        assert data.classes[data.labels[position]] == name


def test_the_choice_is_random_and_the_seeds(data: Dataset) -> None:
    assert np.array_equal(data.look(seed=1).images, data.look(seed=1).images)
    assert not np.array_equal(data.look(seed=1).images, data.look(seed=2).images)
    assert len(data.look(count=1000).labels) == 24, "not more than there are"


def test_the_png_shows_the_pictures(data: Dataset, tmp_path: Path) -> None:
    look = data.look(count=16)
    look.save(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.format == "PNG"
        grid = np.asarray(image.convert("RGB"))
    assert grid.shape[1] > grid.shape[0] > 100
    # Each picture, enlarged without smoothing, is found where the first picture's pixels begin.
    first = np.repeat(np.repeat(look.images[0], 12, axis=0), 12, axis=1)
    assert np.array_equal(grid[8 : 8 + 96, 8 : 8 + 96], first)
    captions = grid[8 + 96 : 8 + 96 + 18]
    assert (captions < 100).any(), "the labels are written below"


@pytest.mark.parametrize("size", [(1, 1), (200, 150)])
def test_grids_of_any_size_and_name(size: tuple[int, int]) -> None:
    images = np.zeros((3, *size, 3), np.uint8) + np.uint8([200, 40, 10])
    grid = np.asarray(draw_grid(images, ["a very long name of a class indeed", "\x1b[31m", "猫"]))
    assert (grid == [200, 40, 10]).all(axis=2).sum() == 3 * 96 * 96


def test_a_notebook_shows_the_same_grid(data: Dataset) -> None:
    look = data.look()
    image = Image.open(io.BytesIO(look._repr_png_()))
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), np.asarray(look.image()))


def printed(thing: object, **options: object) -> str:
    console = Console(file=io.StringIO(), **options)
    console.print(thing)
    return console.file.getvalue()


def test_the_table_has_counts_and_shares(data: Dataset) -> None:
    text = printed(data.look().table(), width=80)
    assert "animals: 24 training pictures" in " ".join(text.split())
    rows = [line.strip("│ ").split("│") for line in text.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        ["frog", "12", "50.0%"],
        ["truck", "6", "25.0%"],
        ["deer", "3", "12.5%"],
        ["horse", "3", "12.5%"],
    ]


def test_sizes_modes_and_imbalance(data: Dataset) -> None:
    sizes, modes, imbalance = data.look().summary()
    assert "8×8 px; the net sees 8×8 px" in sizes
    assert modes == "modes: RGB 23, L 1"
    assert "imbalance ratio: 4.0" in imbalance


def test_sizes_that_differ_are_given_as_ranges(data: Dataset) -> None:
    data.sizes = np.array([(100 + i, 300 - i) for i in range(24)])
    sizes = Look(data).summary()[0]
    assert "100 to 123 px wide, 277 to 300 px high" in sizes
    assert "the net sees 8×8 px" in sizes


def test_a_class_without_pictures_makes_the_ratio_infinite(data: Dataset) -> None:
    data.classes = (*data.classes, "unicorn")
    look = data.look()
    assert "imbalance ratio: infinite" in look.summary()[2]
    assert "unicorn" in printed(look.table(), width=80)


def test_a_validation_part_of_its_own_is_mentioned(data: Dataset) -> None:
    data.val = data.subset([0, 1])
    assert any("validation part" in line and "2 pictures" in line for line in data.look().summary())


def test_printed_it_says_it_all(data: Dataset) -> None:
    look = data.look()
    text = str(look)
    assert text.startswith(look.label_lines()[0])
    for line in look.summary():
        assert line in text
    assert "50.0%" in text


@pytest.mark.parametrize("width", [40, 80, 120, 200, 300])
def test_the_terminal_shows_half_blocks_within_its_width(data: Dataset, width: int) -> None:
    look = data.look(count=10)
    text = terminal_grid(look.images, look.labels, width)
    lines = text.plain.rstrip("\n").split("\n")
    assert max(map(len, lines)) <= width
    blocks = [line for line in lines if "▀" in line]
    labels = [line for line in lines if "▀" not in line]
    assert " ".join(labels).split() == look.labels
    side = blocks[0].index(" ")
    assert len(blocks) * 2 == side * len(labels), "two rows of pixels a line"
    assert max(map(len, lines)) > width / 3, "the width is made use of"


def test_the_half_blocks_have_the_pictures_colours() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = (255, 0, 0), (0, 0, 255)
    text = terminal_grid(pixels, ["flag"], 80)
    drawn = printed(text, width=80, force_terminal=True, color_system="truecolor")
    top, bottom = drawn.splitlines()[0], drawn.splitlines()[-3]
    assert "38;2;255;0;0;48;2;255;0;0" in top
    assert "38;2;0;0;255;48;2;0;0;255" in bottom
