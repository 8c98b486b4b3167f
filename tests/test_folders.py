"""Class folders: what becomes a class, what a picture, and what each mistake is answered with."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyebright.console import notices
from eyebright.data import dataset, load
from eyebright.data.sources import MissingPartError
from eyebright.errors import DataError, StorageError, UsageError

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All notices so far, as text."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "eyebright")


def save(path: Path, size: tuple[int, int] = (16, 16), seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_classes(folder: Path, *names: str, **options: object) -> Path:
    for i, name in enumerate(names):
        save(folder / name / "0.png", seed=i, **options)
    return folder


def test_classes_stand_in_natural_order(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path / "n", "10", "2", "1", "b10", "b9", "A", "c"))
    assert data.classes == ("1", "2", "10", "A", "b9", "b10", "c")
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.ids[:3] == ["1/0.png", "2/0.png", "10/0.png"]


def test_pictures_stand_in_natural_order_too(class_folders: Make) -> None:
    data = load(class_folders(count=12))
    assert data.ids[:4] == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/3.png"]
    assert data.ids[11:13] == ["cat/11.png", "dog/0.png"]
    assert data.name == "pets"
    assert data.source == str(Path("pets").resolve())


def test_battery_04_what_systems_leave_behind_is_ignored(
    class_folders: Make, said: Callable[[], str]
) -> None:
    folder = class_folders()
    clean = load(folder)
    for name in (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN"):
        save(folder / name / "x.png")
        save(folder / "cat" / name / "x.png")
    for name in (".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini", "._0.jpg", "._0.png"):
        (folder / name).write_bytes(b"\0\5\x16\7")
        (folder / "cat" / name).write_bytes(b"\0\5\x16\7")
    littered = load(folder)
    assert littered.classes == clean.classes == ("cat", "dog")
    assert littered.ids == clean.ids
    assert littered.fingerprint == clean.fingerprint
    assert said() == ""


def test_other_files_are_passed_over_with_a_notice(
    class_folders: Make, said: Callable[[], str]
) -> None:
    folder = class_folders(count=3)
    (folder / "cat" / "readme.txt").write_text("cats")
    (folder / "dog" / "labels.csv").write_text("dogs")
    (folder / "dog" / "more.CSV").write_text("dogs")
    assert len(load(folder)) == 6
    assert "passed over: 2 .csv, 1 .txt" in said()


def test_pictures_may_lie_deeper_and_have_any_ending(tmp_path: Path) -> None:
    save(tmp_path / "a" / "deep" / "er" / "0.JPG")
    save(tmp_path / "a" / "1.jpeg")
    for ending in "bmp gif webp ppm png".split():
        save(tmp_path / "b" / f"x.{ending}")
    data = load(tmp_path)
    assert data.ids[:2] == ["a/1.jpeg", "a/deep/er/0.JPG"]
    assert data.counts().tolist() == [2, 5]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid", "VAL"])
@pytest.mark.parametrize("train", ["train", "Train", "training"])
def test_parts_by_their_names(tmp_path: Path, train: str, val: str) -> None:
    for part, count in ((train, 3), (val, 2), ("Test", 1)):
        for i in range(count):
            save(tmp_path / "d" / part / "x" / f"{i}.png", seed=i)
            save(tmp_path / "d" / part / "y" / f"{i}.png", seed=9 - i)
    data = load(tmp_path / "d")
    assert data.classes == ("x", "y")
    assert data.val is not None
    assert (len(data), len(data.val)) == (6, 4)
    assert data.val.classes == data.classes
    assert (data.name, data.source) == ("d", str(tmp_path / "d"))
    assert data.ids[0] == "x/0.png"
    # The test part is opened by its name only.
    assert len(load(tmp_path / "d", "test")) == 2
    assert len(load(tmp_path / "d", "val")) == 4
    assert load(tmp_path / "d", "train").fingerprint == data.fingerprint


def test_a_missing_part_is_named(tmp_path: Path, class_folders: Make) -> None:
    save_classes(tmp_path / "d" / "train", "x", "y")
    assert load(tmp_path / "d").val is None
    for split in ("val", "test"):
        with pytest.raises(MissingPartError, match=f"no {split} part, only train"):
            load(tmp_path / "d", split)
        with pytest.raises(MissingPartError, match=f"pets: no {split} part"):
            load(class_folders(name=f"{split}/pets"), split)
    with pytest.raises(UsageError, match="'nonsense'; choose one of: train, val, test"):
        load(tmp_path / "d", "nonsense")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path / "d", "control", "test"))
    assert data.classes == ("control", "test")


def refused(path: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_battery_05_missing_path_empty_class_one_class_and_no_pictures(tmp_path: Path) -> None:
    assert "nowhere: no such file or folder" in refused("nowhere")
    assert "cifar10, digits" in refused("nowhere"), "the names that are known"
    assert "no such file or folder" in refused("x" * 5000)

    folder = save_classes(tmp_path / "d", "full", "other")
    (folder / "empty").mkdir()
    message = refused(folder)
    assert f"{folder / 'empty'}: no pictures in this class" in message

    one = save_classes(tmp_path / "one", "only")
    message = refused(one)
    assert str(one) in message
    assert "one class only ('only')" in message

    (tmp_path / "void").mkdir()
    assert f"{tmp_path / 'void'}: no class folders" in refused(tmp_path / "void")
    (tmp_path / "void" / "a").mkdir()
    (tmp_path / "void" / "b").mkdir()
    assert "no pictures" in refused(tmp_path / "void")


def test_loose_pictures_and_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "loose" / f"{i}.png")
    message = refused(tmp_path / "loose")
    assert "loose: 3 pictures but no class folders; a folder for each class is needed" in message
    assert message.endswith(f"without classes: eyebright predict RUN {tmp_path / 'loose'}")
    message = refused(save(tmp_path / "one.png"))
    assert "one.png: neither a folder of pictures, a table (.csv, .tsv, .jsonl" in message
    assert "nor an archive (.zip, .tar, " in message
    for name in ("pipe.csv", "pipe.zip", "pipe.tar"):
        os.mkfifo(tmp_path / name)
        assert f"{name}: no regular file" in refused(tmp_path / name)


def spoil(folder: Path) -> list[Path]:
    """Unreadable pictures of every kind, in the classes cat and dog."""
    whole = save(folder.parent / "whole.jpg").read_bytes()
    bad = [folder / "cat" / f"cut-{i}.jpg" for i in range(10)]
    for i, path in enumerate(bad):
        path.write_bytes(whole[: len(whole) * (i + 1) // 11])
    (folder / "dog" / "empty.png").touch()
    (folder / "dog" / "text.jpg").write_text("a note")
    (folder / "dog" / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "dog" / "unreadable.jpg").symlink_to("/proc/self/mem")  # reading it is an error
    os.mkfifo(folder / "dog" / "pipe.jpg")
    names = ("empty.png", "text.jpg", "dangling.jpg", "unreadable.jpg", "pipe.jpg")
    return bad + [folder / "dog" / name for name in names]


def test_battery_01_all_unreadable_files_are_listed_at_once(class_folders: Make) -> None:
    folder = class_folders(count=4)
    bad = spoil(folder)
    lines = refused(folder).splitlines()
    assert {line.split(": ")[0] for line in lines[:-1]} == {str(path) for path in bad}
    assert all(line.split(": ", 1)[1] for line in lines[:-1])
    reasons = "\n".join(lines)
    assert "empty.png: the file is empty" in reasons
    assert "text.jpg: no picture in a format that is read" in reasons
    assert "dangling.jpg: No such file" in reasons
    assert lines[-1].startswith("15 of 23 pictures cannot be read")
    assert "--skip-bad" in lines[-1]


def test_battery_01_skip_bad_goes_on_and_counts(
    class_folders: Make, said: Callable[[], str]
) -> None:
    folder = class_folders(count=4)
    clean = load(folder)
    spoil(folder)
    data = load(folder, skip_bad=True)
    assert data.ids == clean.ids
    assert data.fingerprint == clean.fingerprint
    assert len(data.sizes) == len(data.modes) == 8
    assert "15 unreadable pictures were left out" in said()


def test_a_class_that_skip_bad_empties_is_named(class_folders: Make) -> None:
    folder = class_folders(count=2)
    save_classes(folder, "eel")
    (folder / "eel" / "0.png").write_bytes(b"no eel")
    message = refused(folder, skip_bad=True)
    assert f"{folder}: not one readable picture in the class 'eel'" in message
    for path in folder.rglob("*.png"):
        path.write_bytes(b"nothing")
    assert f"{folder}: not one readable picture" in refused(folder, skip_bad=True)
    classes = ["cat", "dog", "eel"]
    assert "not one readable picture" in refused(folder, skip_bad=True, classes=classes)


def test_bad_pictures_of_the_validation_part_are_found_too(tmp_path: Path) -> None:
    save_classes(tmp_path / "d" / "train", "x", "y")
    save_classes(tmp_path / "d" / "val", "x", "y")
    (tmp_path / "d" / "val" / "y" / "0.png").write_bytes(b"")
    assert str(Path("val") / "y" / "0.png") in refused(tmp_path / "d")


def test_battery_10_link_loops_end(class_folders: Make) -> None:
    folder = class_folders(count=3)
    (folder / "cat" / "again").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "self").symlink_to("self")
    (folder / "dog" / "a").mkdir()
    (folder / "dog" / "a" / "back").symlink_to(folder / "dog")
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert data.ids.count("cat/0.png") == 1
    assert len([name for name in data.ids if str(name).startswith("dog/")]) == 3


def test_battery_10_what_cannot_be_read_is_named_and_no_pipe_is_waited_for(
    class_folders: Make,
) -> None:
    folder = class_folders(count=2)
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "dog" / "shut.png").symlink_to("/proc/1/mem")  # nobody may read it, not even root
    message = refused(folder)
    assert "cat/pipe.png: no regular file" in message
    assert "dog/shut.png: " in message
    assert load(folder, skip_bad=True).ids == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


def test_battery_10_strange_names_are_shown_escaped_in_one_line(class_folders: Make) -> None:
    folder = class_folders(count=1)
    for name in (b"two\nlines.jpg", b"caf\xe9.jpg", b"\x1b[31mred.jpg"):
        Path(os.fsdecode(os.fsencode(folder / "cat") + b"/" + name)).write_bytes(b"no picture")
    message = refused(folder)
    assert len(message.splitlines()) == 4
    assert "two\\nlines.jpg: " in message
    assert "caf\\udce9.jpg: " in message
    assert "\\x1b[31mred.jpg: " in message
    message.encode()  # fit to print anywhere


def test_battery_10_strange_names_of_readable_pictures_and_classes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    for name in (b"line\nbreak", b"caf\xe9"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "d") + b"/" + name))
        folder.mkdir(parents=True)
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(buffer.getvalue())
    look = load(tmp_path / "d").look()
    assert sorted(" ".join(look.label_lines()).split()) == ["caf\\udce9", "line\\nbreak"]
    str(look).encode()
    assert look.image().size[0] > 100


@pytest.mark.parametrize(
    ("sizes", "imgsz"),
    [
        ([(16, 16), (16, 16)], 16),
        ([(64, 64), (64, 64)], 64),
        ([(48, 40), (48, 40)], 40),
        ([(65, 65), (65, 65)], 224),
        ([(64, 64), (63, 63)], 32),
        ([(16, 16), (64, 64)], 32),
        ([(300, 200), (200, 300)], 224),
        ([(20, 20), (20, 20), (300, 300)], 32),
        ([(20, 20), (300, 300), (300, 300)], 224),
    ],
)
def test_default_size(tmp_path: Path, sizes: list[tuple[int, int]], imgsz: int) -> None:
    for name in ("a", "b"):
        for i, size in enumerate(sizes):
            save(tmp_path / "d" / name / f"{i}.png", size)
    data = load(tmp_path / "d")
    assert data.images.shape[1:] == (imgsz, imgsz, 3)
    assert data.sizes[: len(sizes)].tolist() == [list(size) for size in sizes]
    assert load(tmp_path / "d", imgsz=24).images.shape[1:] == (24, 24, 3)


def test_a_size_below_one_is_refused(class_folders: Make) -> None:
    folder = class_folders(count=1)
    for imgsz in (0, -3):
        with pytest.raises(UsageError, match="imgsz"):
            load(folder, imgsz=imgsz)


def test_validation_pictures_get_the_size_of_training_pictures(tmp_path: Path) -> None:
    save_classes(tmp_path / "d" / "train", "x", "y", size=(16, 16))
    save_classes(tmp_path / "d" / "val", "x", "y", size=(300, 200))
    data = load(tmp_path / "d")
    assert data.val is not None
    assert data.val.images.shape == (2, 16, 16, 3)


def test_modes_and_sizes_are_those_before_conversion(tmp_path: Path) -> None:
    save(tmp_path / "d" / "a" / "0.png", (20, 10))
    (tmp_path / "d" / "b").mkdir()
    Image.new("LA", (30, 40)).save(tmp_path / "d" / "b" / "0.png")
    data = load(tmp_path / "d")
    assert data.modes == ["RGB", "LA"]
    assert data.sizes.tolist() == [[20, 10], [30, 40]]


def test_battery_06_classes_are_matched_by_name(tmp_path: Path) -> None:
    """The test part lacks "bee": labels still count as the model counts them."""
    data = load(save_classes(tmp_path / "train", "ant", "bee", "cat"))
    test = load(save_classes(tmp_path / "lacking", "ant", "cat"), classes=data.classes)
    assert test.classes == data.classes
    assert test.labels.tolist() == [0, 2]
    assert test.counts().tolist() == [1, 0, 1]
    only = load(save_classes(tmp_path / "only", "cat"), classes=data.classes)
    assert only.labels.tolist() == [2]
    other = load(tmp_path / "train", classes=["cat", "ant", "bee"])
    assert other.labels.tolist() == [1, 2, 0], "in the model's order"


def test_battery_06_an_unknown_class_is_refused(tmp_path: Path) -> None:
    folder = save_classes(tmp_path / "test", "ant", "wasp")
    message = refused(folder, classes=["ant", "bee"])
    assert f"{folder / 'wasp'}: there is no class 'wasp' among those known: ant, bee" in message
    save_classes(tmp_path / "d" / "train", "ant", "bee")
    save_classes(tmp_path / "d" / "val", "ant", "wasp")
    assert "no class 'wasp'" in refused(tmp_path / "d")
    assert "are not the model's (ant, bee)" in refused("digits", classes=["ant", "bee"])


def test_too_large_for_the_memory(class_folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folders()
    monkeypatch.setattr(dataset, "memory", lambda: (100 << 20, 5 << 20))
    assert len(load(folder, imgsz=224)) == 40, "mapped from a file"
    monkeypatch.setenv("EYEBRIGHT_CACHE_GB", "0")
    with pytest.raises(StorageError, match=r"40 pictures of 224 px.*lower --imgsz") as caught:
        load(folder, imgsz=224)
    assert caught.value.exit_code == 5
    assert str(folder) in str(caught.value)
    assert len(load(folder, imgsz=128)) == 40


def test_any_number_of_workers_gives_the_same_data(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / "d" / "ab"[i % 2] / f"{i}.jpg", (20 + i, 60 - i), seed=i)
    several = [load(tmp_path / "d", workers=workers) for workers in (0, 1, 2, None)]
    assert len({data.fingerprint for data in several}) == 1
    assert all(data.ids == several[0].ids for data in several)


def test_battery_09_animations_get_one_notice(tmp_path: Path, said: Callable[[], str]) -> None:
    save_classes(tmp_path / "d", "a", "b")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for ending in ("gif", "webp", "png"):
        path = tmp_path / "d" / "a" / f"moving.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
    data = load(tmp_path / "d")
    red = data.images[[str(name).startswith("a/moving") for name in data.ids]]
    assert len(red) == 3
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 3
    assert said() == "3 animations: the first frame of each is used"


def test_an_animation_cut_behind_its_first_frame_is_no_crash(tmp_path: Path) -> None:
    save_classes(tmp_path / "d", "a", "b")
    path = tmp_path / "d" / "a" / "moving.gif"
    second = Image.effect_noise((16, 16), 90)
    Image.new("L", (16, 16)).save(path, save_all=True, append_images=[second])
    whole = load(tmp_path / "d").fingerprint
    content = path.read_bytes()
    for cut in range(60, len(content), 9):
        path.write_bytes(content[:cut])
        try:
            assert load(tmp_path / "d").fingerprint == whole
        except DataError as error:
            assert "moving.gif" in str(error)  # noqa: PT017


def test_ants_and_bees(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "ants-bees.tar") as archive:
        archive.extractall(tmp_path / "insects", filter="data")
    data = load(tmp_path / "insects")
    assert data.val is not None
    assert (len(data), len(data.val)) == (245, 153)
    assert data.classes == data.val.classes == ("ants", "bees")
    assert data.images.shape[1:] == (224, 224, 3)
    assert {"ants/formica.jpeg", "ants/imageNotFound.gif"} <= set(data.ids)
    assert data.modes[data.ids.index("ants/imageNotFound.gif")] == "P"
    assert data.counts().sum() == 245
    gif = data.images[data.ids.index("ants/imageNotFound.gif")]
    assert gif.std() > 10
