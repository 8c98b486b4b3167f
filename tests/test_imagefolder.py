"""Hugging Face's layout `imagefolder`: a metadata file beside the pictures, or class folders."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from eyebright.console import notices
from eyebright.data import load
from eyebright.data.sources import MissingPartError
from eyebright.errors import DataError

Rows = Sequence[dict[str, object]]


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All notices so far, as text."""
    monkeypatch.setattr(notices, "propagate", True)
    return lambda: "\n".join(r.getMessage() for r in caplog.records if r.name == "eyebright")


def write(folder: Path, rows: Rows, ending: str = ".csv") -> Path:
    path = folder / f"metadata{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture
def flat(class_folders: Callable[..., Path], tmp_path: Path) -> Callable[..., Rows]:
    """Makes a folder of loose pictures, and gives its rows: `flat("d", 6)`."""

    def make(folder: str, count: int = 6) -> Rows:
        made = class_folders(f"{folder}.classes", count=count)
        (tmp_path / folder).mkdir(parents=True)
        rows: list[dict[str, object]] = []
        for path in sorted(made.rglob("*.png")):
            name = f"{len(rows):04d}.png"
            path.rename(tmp_path / folder / name)
            rows.append({"file_name": name, "label": path.parent.name})
        return rows

    return make


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_metadata_file_names_the_classes(
    tmp_path: Path, flat: Callable[..., Rows], ending: str
) -> None:
    rows = flat("pets", 6)
    write(tmp_path / "pets", [row | {"width": 16, "by": "me"} for row in rows], ending)
    data = load(tmp_path / "pets")
    assert data.classes == ("cat", "dog")
    assert data.ids == [row["file_name"] for row in rows]
    assert (data.name, data.source) == ("pets", str(tmp_path / "pets"))
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.columns == {"width": ["16"] * 12, "by": ["me"] * 12}
    with pytest.raises(MissingPartError, match=r"pets: no test part \(no column 'split'\)"):
        load(tmp_path / "pets", "test")


def test_numbers_and_the_only_other_column_are_labels_too(
    tmp_path: Path, flat: Callable[..., Rows]
) -> None:
    rows = flat("pets")
    numbered = [{"file_name": row["file_name"], "is_dog": row["label"] == "dog"} for row in rows]
    write(tmp_path / "pets", numbered, ".jsonl")
    assert load(tmp_path / "pets").classes == ("false", "true")
    write(tmp_path / "pets", [{"file_name": r["file_name"], "path": r["label"]} for r in rows])
    assert load(tmp_path / "pets").classes == ("cat", "dog"), "the .csv is looked for first"


def test_a_metadata_file_in_each_part(tmp_path: Path, flat: Callable[..., Rows]) -> None:
    for part, count in (("train", 6), ("validation", 2), ("test", 3)):
        rows = flat(f"pets/{part}", count)
        write(tmp_path / "pets" / part, rows, ".jsonl")
    for made in (tmp_path / "pets").glob("*.classes"):
        for folder in (*made.iterdir(), made):
            folder.rmdir()
    data = load(tmp_path / "pets")
    assert data.val is not None
    assert (len(data), len(data.val)) == (12, 4)
    assert (data.name, data.source) == ("pets", str(tmp_path / "pets"))
    assert len(load(tmp_path / "pets", "test")) == 6
    (tmp_path / "pets" / "test" / "0000.png").unlink()
    with pytest.raises(DataError, match=r"test/0000.png: No such file"):
        load(tmp_path / "pets", "test")


def test_one_metadata_file_above_all_parts(tmp_path: Path, flat: Callable[..., Rows]) -> None:
    rows: list[dict[str, object]] = []
    for part, count in (("train", 6), ("valid", 2)):
        found = flat(f"pets/{part}", count)
        rows += [row | {"file_name": f"{part}/{row['file_name']}"} for row in found]
    write(tmp_path / "pets", rows)
    data = load(tmp_path / "pets")
    assert data.val is not None
    assert (len(data), len(data.val)) == (12, 4)
    assert data.val.ids[0] == "valid/0000.png"
    with pytest.raises(MissingPartError, match="no test part, only train, val"):
        load(tmp_path / "pets", "test")
    # A column says it better than the names of folders.
    write(tmp_path / "pets", [row | {"split": "test"} for row in rows])
    assert len(load(tmp_path / "pets", "test")) == 16


def test_class_folders_need_no_metadata(
    tmp_path: Path, class_folders: Callable[..., Path], said: Callable[[], str]
) -> None:
    folder = class_folders()
    before = load(folder)
    # About something else, or in no encoding that is read: the folders are the classes, as before.
    write(folder, [{"lesion": "1", "age": "80"}])
    assert load(folder).ids == before.ids
    assert said() == ""
    (folder / "metadata.csv").write_bytes(b"caf\xe9,age\n1,2\n")
    assert load(folder).ids == before.ids
    assert "metadata.csv: no table in CSV" in said()
    assert said().count("passed over, its folders are classes") == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"file_name": "0000.png"}], "no column label beside file_name; it has none"),
        ([{"file_name": "0000.png", "a": 1, "b": 2}], "no column label .* it has a, b"),
        ([{"file_name": "", "label": "x"}], "line 2: needs a value"),
        ([{"file_name": "0000.png", "label": ""}], "line 2: needs a value"),
        ([{"file_name": "0000.png", "label": "x"}] * 2, "line 3: names '0000.png' twice"),
        ([{"file_name": "0000.png", "label": "x"}], "one class only"),
        (
            [{"file_name": "0000.png", "label": "x"}, {"file_name": "9.png", "label": "y"}],
            "pets/9.png: No such file",
        ),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, flat: Callable[..., Rows], rows: Rows, said: str
) -> None:
    flat("pets")
    write(tmp_path / "pets", rows)
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path / "pets")
    assert str(tmp_path / "pets") in str(caught.value)


def test_a_damaged_file_beside_loose_pictures_is_named(
    tmp_path: Path, flat: Callable[..., Rows]
) -> None:
    flat("pets")
    (tmp_path / "pets" / "metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"metadata.jsonl, line 1: no JSON object"):
        load(tmp_path / "pets")
