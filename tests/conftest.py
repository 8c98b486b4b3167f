"""Fixtures: real data where it lies, made pictures everywhere else."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyebright import images
from eyebright.cli import run_app
from eyebright.data import cifar, pixels

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The raw shared data."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def cifar10_home() -> Path:
    """A folder with an unpacked CIFAR-10 and the class folders cifar10-folder."""
    home = Path(os.environ.get("EYEBRIGHT_DATA", "/nowhere"))
    if not (home / "cifar-10-batches-py").is_dir() or not (home / "cifar10-folder").is_dir():
        pytest.skip("needs CIFAR-10: EYEBRIGHT_DATA must hold what make_cifar10.py unpacks")
    return home


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Makes a noisy RGB picture: ``picture(width, height, seed)``."""

    def make(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
        generator = np.random.default_rng(seed)
        return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Makes class folders that a net can learn: each class has a brightness of its own."""

    def make(
        name: str = "pets",
        classes: tuple[str, ...] = ("cat", "dog"),
        count: int = 20,
        size: tuple[int, int] = (16, 16),
        ending: str = ".png",
    ) -> Path:
        for i, label in enumerate(classes):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for j in range(count):
                generator = np.random.default_rng([i, j])
                middle = 40 + 170 * i // max(1, len(classes) - 1)
                noise = generator.integers(-40, 40, (size[1], size[0], 3))
                pixels = np.clip(middle + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{j}{ending}")
        return tmp_path / name

    return make


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves anything in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _own_limit_on_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets by ``--max-pixels`` ends with it."""
    monkeypatch.setattr(images, "MAX_PIXELS", images.MAX_PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(autouse=True)
def pixel_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded pictures are kept for one test only; this is where."""
    folder = tmp_path / "cache" / "pixels"
    monkeypatch.setattr(pixels, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data sets that holds a CIFAR-10 of 100 made pictures a batch."""
    monkeypatch.setattr(cifar, "ROWS", 100)
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / cifar.FOLDER
    folder.mkdir(parents=True)
    for seed, name in enumerate(cifar.BATCH_MD5):
        generator = np.random.default_rng(seed)
        labels = (np.arange(100) + 3) % 10
        noise = generator.integers(0, 50, (100, 3072))
        pixels = (20 * labels[:, None] + noise).astype(np.uint8)
        content = {"labels": labels.tolist(), "data": pixels}
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    return tmp_path / "data"


@pytest.fixture
def eyebright_says(
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_app([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class folders ``pets``, a run ``runs/r`` on them, and that run in ``onnx``.

    Tests leave it as it is.
    """
    home = tmp_path_factory.mktemp("shipped")
    for i, label in enumerate(("cat", "<b>dog</b>".replace("/", "∕"))):
        (home / "pets" / label).mkdir(parents=True)
        for j in range(130):
            noise = np.random.default_rng([i, j]).integers(-60, 60, (24, 16 + j % 9, 3))
            image = Image.fromarray((100 + 40 * i + noise).clip(0, 255).astype(np.uint8))
            image.save(home / "pets" / label / f"{j}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYEBRIGHT_CACHE_GB", "0")
        train = "--recipe fast --model white16 --epochs 1 -b 16 --imgsz 16 --device cpu --name r"
        words = ["train", str(home / "pets"), *train.split(), "--val", "0.3"]
        assert run_app([*words, "--runs", str(home / "runs")]) == 0
        assert run_app(["export", str(home / "runs" / "r"), "-o", str(home / "onnx")]) == 0
    return home
