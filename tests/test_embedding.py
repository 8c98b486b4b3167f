"""Features in files: whose rows they are, in both formats."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import eyebright
from eyebright.batches import predict_logits
from eyebright.cli import run_app
from eyebright.data.folders import list_pictures
from eyebright.errors import install_command
from eyebright.models import head_of


@pytest.fixture
def run(class_folders: Callable[..., Path]) -> eyebright.Run:
    return eyebright.train(class_folders(), model="white16", epochs=1, quiet=True)


def pictures_of(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["picture"] for row in csv.DictReader(file)]


def test_features_are_written_beside_the_names(
    run: eyebright.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pets" / "cat"
    single = tmp_path / "pets" / "dog" / "3.png"
    single.with_name("notes.txt").write_text("no picture")
    assert run_app(["embed", str(run.path), str(folder), str(single), "-o", "f.npy"]) == 0
    features = np.load("f.npy")
    names = pictures_of(Path("f.pictures.csv"))
    assert features.dtype == np.float32
    assert features.shape == (21, 64)
    assert names == [str(path) for path in list_pictures([folder])] + [str(single)]
    assert "21 pictures, 64 features each" in capsys.readouterr().out
    # The last layer makes of them what the model says.
    classifier = run.classifier()
    with torch.no_grad():
        logits = head_of(classifier.model)(torch.from_numpy(features)).numpy()
    images = np.stack([eyebright.images.read_image(name, 16) for name in names])
    card = classifier.card
    expected = predict_logits(classifier.model, images, card.normalization, card.tta).numpy()
    assert np.allclose(logits, expected, atol=1e-4)
    assert np.allclose(features, classifier.embed(names), atol=1e-5)


def test_parquet_holds_both(run: eyebright.Run, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert run_app(["embed", str(run.path), str(tmp_path / "pets"), "-o", "f.parquet"]) == 0
    table = pq.read_table("f.parquet")
    assert table.column_names == ["picture", "features"]
    features = np.stack(table["features"].to_numpy())
    assert features.shape == (40, 64)
    assert np.allclose(features, run.classifier().embed(table["picture"].to_pylist()), atol=1e-5)
    assert not Path("f.pictures.csv").exists()


def test_what_cannot_be_embedded_is_named(
    run: eyebright.Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments, code, message in (
        ([str(bad)], 3, "bad.jpg: no picture in a format that is read"),
        ([str(tmp_path / "nowhere")], 3, "nowhere: no such file or folder"),
        ([str(tmp_path / "empty")], 3, "empty: no pictures in it"),
        ([str(tmp_path / "pets"), "-o", "f.txt"], 2, "f.txt: features go into .npy or .parquet"),
        ([str(tmp_path / "pets"), "-o", "f.parquet"], 2, install_command("parquet")),
        ([str(tmp_path / "pets"), "-o", "no/where/f.npy"], 5, "no/where"),
    ):
        assert run_app(["embed", str(run.path), *arguments]) == code
        assert message in capsys.readouterr().err
    assert not list(Path().glob("f.*"))
