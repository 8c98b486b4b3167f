"""Tables of paths and labels, and what is wrong with some."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import eyebright
from eyebright import TrainConfig, several
from eyebright.errors import DataError, UsageError
from eyebright.holdout import choose_held_out, hold_out


@pytest.fixture
def table(class_folders: Callable[..., Path]) -> Path:
    """A table of 40 pictures of cats and dogs by ten photographers."""
    folder = class_folders("pets")
    rows = ["path,label,who"]
    for label in ("cat", "dog"):
        rows += [f"pets/{label}/{i}.png,{label},{i % 10}" for i in range(20)]
    path = folder.parent / "pets.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_table_is_what_its_folder_is(table: Path) -> None:
    data, folder = eyebright.load(table), eyebright.load(table.parent / "pets")
    assert data.classes == folder.classes
    assert data.name == "pets"
    assert data.source == str(table)
    assert data.ids[:2] == ["pets/cat/0.png", "pets/cat/1.png"]
    assert data.fingerprint == folder.fingerprint
    assert data.columns == {"who": [str(i % 10) for i in range(20)] * 2}
    assert data.subset([21, 3]).columns == {"who": ["1", "3"]}
    assert data.resized(8).columns == data.columns


def test_groups_of_a_table_are_held_out_whole(table: Path) -> None:
    settings = {"epochs": 1, "batch_size": 8, "model": "white16", "device": "cpu", "quiet": True}
    run = eyebright.train(table, group="who", val=0.2, **settings)
    record = run.data_record
    of = dict(zip(*(lambda d: (d.ids, d.columns["who"]))(eyebright.load(table)), strict=True))
    train, val = ({of[i] for i in record["splits"][part]} for part in ("train", "val"))
    assert val
    assert not train & val
    assert eyebright.Run(run.path).val().accuracy.n == len(record["splits"]["val"])
    with pytest.raises(UsageError, match="no further column 'owner'; it has who"):
        eyebright.train(table, group="owner", **settings)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.7])
def test_about_the_share_asked_for_is_held_out_in_groups(share: float) -> None:
    data = grouped(50)
    held_out = choose_held_out(data, TrainConfig(group="who", val=share))
    assert held_out.mean() == pytest.approx(share, abs=0.05)
    who = np.array(data.columns["who"])
    assert not set(who[held_out]) & set(who[~held_out])


def grouped(groups: int, n: int = 1000) -> eyebright.Dataset:
    images, labels = np.zeros((n, 4, 4, 3), np.uint8), np.arange(n) % 2
    who = [str(i // 2 % groups) for i in range(n)]
    return eyebright.Dataset(images, labels, ["a", "b"], columns={"who": who})


def test_groups_of_the_datas_own_validation_part_are_looked_at() -> None:
    data = grouped(10, 100)
    for val, said in ((grouped(1, 10), "'0' of who is in the training part and in"), (None, "")):
        data.val = val
        if val is None:
            assert hold_out(data, TrainConfig(group="who"))[1] is not None
            continue
        with pytest.raises(DataError, match=said):
            hold_out(data, TrainConfig(group="who"))
        with pytest.raises(UsageError, match="no further column"):
            hold_out(data, TrainConfig(group="owner"))


def test_a_fold_that_cannot_be_trained_is_known_before_the_first() -> None:
    data = grouped(4, 80)
    data.labels[:] = [int(who == "3") for who in data.columns["who"]]  # a class in one group alone
    with pytest.raises(DataError, match="nothing of the class 'b' is left"):
        several.train_several(data, folds=4, group="who", quiet=True, epochs=1)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name the columns"),
        ("path,class\na,b\n", "must name the columns"),
        ("path,label,path\na,b,c\n", "must name the columns"),
        ("path,label\n", "names no pictures"),
        ("path,label\npets/cat/0.png\n", "line 2: needs a value"),
        ("path,label\npets/cat/0.png,cat,more\n", "line 2: needs a value"),
        ("path,label\n,cat\n", "line 2: needs a value"),
        ("path,label\npets/cat/0.png,cat\npets/cat/0.png,dog\n", "'pets/cat/0.png' twice"),
        ("path,label\npets/cat/0.png,cat\n", "one class only"),
        ("path,label\npets/cat/0.png,cat\npets/none.png,dog\n", "none.png"),
        ('path,label\n"pets/cat/0.png,cat\n', "no table in CSV"),
    ],
)
def test_what_is_wrong_is_named(table: Path, text: str, said: str) -> None:
    table.write_text(text)
    with pytest.raises(DataError, match=said):
        eyebright.load(table)


def test_bytes_that_are_no_text_and_other_classes(table: Path) -> None:
    with pytest.raises(DataError, match="no class 'dog' among those known: cat, horse"):
        eyebright.load(table, classes=["cat", "horse"])
    table.write_bytes(b"\xff\xfe\x00,label")
    with pytest.raises(DataError, match="no table in CSV"):
        eyebright.load(table)


def test_a_spreadsheets_mark_at_the_beginning_is_no_name(table: Path) -> None:
    before = eyebright.load(table)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert eyebright.load(table).ids == before.ids


def test_unreadable_pictures_are_skipped_where_asked(table: Path) -> None:
    (table.parent / "pets/dog/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="--skip-bad"):
        eyebright.load(table)
    data = eyebright.load(table, skip_bad=True)
    assert len(data) == 39
    assert "pets/dog/3.png" not in data.ids
    assert np.array_equal(data.counts(), [20, 19])
    assert data.columns["who"][20:24] == ["0", "1", "2", "4"]
