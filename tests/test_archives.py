"""Archives of class folders: what is read, and what is refused before anything is written."""

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import eyebright
from eyebright.cli import run_app
from eyebright.data import archives, cifar, load
from eyebright.data.sources import MissingPartError
from eyebright.errors import DataError, StorageError

TARS = {
    ".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data sets."""
    monkeypatch.setenv("EYEBRIGHT_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def pack(folder: Path, path: Path, top: str = "pets/") -> Path:
    """All that is in a folder, as an archive of that name."""
    names = sorted(folder.rglob("*"))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as opened:
            for name in names:
                opened.write(name, top + str(name.relative_to(folder)))
        return path
    ending = next(e for e in TARS if path.name.endswith(e))
    with tarfile.open(path, TARS[ending]) as tar:
        for name in names:
            tar.add(name, top + str(name.relative_to(folder)), recursive=False)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable(), "one line, no control characters"
    return str(caught.value)


def nothing_was_written(tmp_path: Path) -> bool:
    """No file but the archives themselves, and nothing in the folder of data sets."""
    files = [p for p in tmp_path.rglob("*") if not p.is_dir() and "pets" not in p.parts]
    return all(p.name.startswith("a.") for p in files)


@pytest.mark.parametrize("ending", [".zip", ".ZIP", *TARS])
@pytest.mark.parametrize("top", ["", "./", "pets/"])
def test_an_archive_is_what_its_folder_is(
    class_folders: Callable[..., Path], tmp_path: Path, home: Path, ending: str, top: str
) -> None:
    folder = class_folders(count=3)
    first = load(folder)
    made = pack(folder, tmp_path / f"my.pets{ending.lower()}", top)
    path = made.rename(tmp_path / f"my.pets{ending}")
    data = load(path)
    assert (data.name, data.source) == ("my.pets", str(path))
    assert data.ids == first.ids
    assert data.classes == first.classes
    assert data.fingerprint == first.fingerprint
    (unpacked,) = (home / "unpacked").iterdir()
    times = {p: p.stat().st_mtime_ns for p in unpacked.rglob("*")}
    assert load(path).fingerprint == first.fingerprint
    assert {p: p.stat().st_mtime_ns for p in unpacked.rglob("*")} == times, "unpacked once"


def test_a_changed_archive_is_unpacked_anew(
    class_folders: Callable[..., Path], tmp_path: Path, home: Path
) -> None:
    folder = class_folders(count=3)
    assert len(load(pack(folder, tmp_path / "a.zip"))) == 6
    (folder / "cat" / "0.png").unlink()
    assert len(load(pack(folder, tmp_path / "a.zip"))) == 5
    assert len(list((home / "unpacked").iterdir())) == 2


def test_parts_in_an_archive(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        class_folders(f"pets/{part}", count=3)
    for top in ("", "pets/"):
        path = pack(tmp_path / "pets", tmp_path / "a.tar.gz", top)
        data = load(path)
        assert data.val is not None
        assert len(load(path, "test")) == 6
    shutil.rmtree(tmp_path / "pets" / "test")
    with pytest.raises(MissingPartError, match=r"a.tar.gz: no test part|a.tar.gz/pets: no test"):
        load(pack(tmp_path / "pets", path), "test")
    shutil.rmtree(tmp_path / "pets" / "val")
    assert load(pack(tmp_path / "pets", path, "")).ids[0] == "cat/0.png"


def test_a_run_on_an_archive_finds_its_test_part(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders("pets/train")
    class_folders("pets/test", count=3)
    path = pack(tmp_path / "pets", tmp_path / "a.zip")
    assert run_app(f"train {path} --model white16 --epochs 1 -b 8 --device cpu".split()) == 0
    assert "open the test set: eyebright test runs/a-fast\n" in capsys.readouterr().out
    run = eyebright.Run("runs/a-fast")
    assert run.val().accuracy.n == 4
    assert run.test().accuracy.n == 6


def test_what_systems_leave_behind_in_archives_is_ignored(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = class_folders(count=3)
    path = pack(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("__MACOSX/pets/cat/._0.png", b"\0\5\x16\7")
        opened.writestr(".DS_Store", b"\0")
        opened.writestr("pets/cat/Thumbs.db", b"\0")
    assert load(path).fingerprint == load(folder).fingerprint


def test_a_zip_from_windows(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    folder = class_folders(count=3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name in folder.rglob("*.png"):
            info = zipfile.ZipInfo("x")
            info.filename = str(name.relative_to(folder)).replace("/", "\\")
            opened.writestr(info, name.read_bytes())
    assert load(tmp_path / "a.zip").fingerprint == load(folder).fingerprint


def test_bad_pictures_are_named_within_their_archive(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = class_folders(count=3)
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    path = pack(folder, tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"a.zip/pets/dog/1.png: no picture.*\n1 of 6"):
        load(path)
    assert len(load(path, skip_bad=True)) == 5
    shutil.rmtree(folder / "dog")
    assert "a.zip/pets: one class only" in refused(pack(folder, path, "pets/pets/"))
    assert "one class only ('cat')" in refused(pack(folder, path, ""))


def test_archives_without_pictures(tmp_path: Path, home: Path) -> None:
    for name in ("a.zip", "a.tar"):
        (tmp_path / "void").mkdir(exist_ok=True)
        assert "no pictures in it" in refused(pack(tmp_path / "void", tmp_path / name))
        (tmp_path / "void" / "x.txt").write_text("x")
        assert "no pictures in it" in refused(pack(tmp_path / "void", tmp_path / name))
    assert not home.exists()


# What could do harm


def tar_of(path: Path, *members: tarfile.TarInfo, content: bytes = b"x") -> Path:
    mode = TARS[path.name.removeprefix("a")]
    with tarfile.open(path, mode) as tar:
        for info in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def info_of(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(path: Path, *names: str, mode: int = 0, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            opened.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


OUTSIDE = [
    "../evil.png", "pets/../../evil.png", "/tmp/evil.png", "..", "pets/..", "..\\evil.png",
    "\\evil.png", "C:evil.png", "c:\\evil.png", "//server/evil.png", "x" * 300 + ".png",
    "x/" * 600 + "x.png",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_battery_11_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    for path in (
        zip_of(tmp_path / "a.zip", "cat/0.png", name),
        tar_of(tmp_path / "a.tar.gz", info_of("cat/0.png"), info_of(name)),
        tar_of(tmp_path / "a.tar", info_of(name, tarfile.DIRTYPE), info_of("cat/0.png")),
    ):
        message = refused(path)
        assert "lies outside the archive, or has an impossible name" in message
        assert f"'{name.encode('unicode_escape').decode()}'" in message or "\\" in name
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device or pipe"),
        (tarfile.BLKTYPE, "is a device or pipe"),
        (tarfile.FIFOTYPE, "is a device or pipe"),
        (tarfile.GNUTYPE_SPARSE, "is a sparse file"),
    ],
)
@pytest.mark.parametrize("target", ["/etc/passwd", "../..", "0.png"])
def test_battery_11_tars_with_links_and_devices_are_refused(
    tmp_path: Path, kind: bytes, said: str, target: str
) -> None:
    path = tar_of(tmp_path / "a.tgz", info_of("cat/0.png"), info_of("cat/1.png", kind, target))
    assert f"the member 'cat/1.png' {said}; nothing of it is used" in refused(path)
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (stat.S_IFLNK | 0o777, "is a link"),
        (stat.S_IFCHR, "is a device or pipe"),
        (stat.S_IFBLK, "is a device or pipe"),
        (stat.S_IFIFO, "is a device or pipe"),
        (stat.S_IFSOCK, "is a device or pipe"),
    ],
)
def test_battery_11_zips_with_links_and_devices_are_refused(
    tmp_path: Path, mode: int, said: str
) -> None:
    path = zip_of(tmp_path / "a.zip", "cat/0.png", mode=mode, content=b"/etc/passwd")
    assert f"the member 'cat/0.png' {said}" in refused(path)
    assert nothing_was_written(tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", "cat/0.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag in the list of members
    path.write_bytes(content)
    assert "'cat/0.png' is encrypted" in refused(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat/0.png", "cat/0.png"], "'cat/0.png' is there twice"),
        (["cat/0.png", "./cat//0.png"], "'./cat//0.png' is there twice"),
        (["cat/0.png", "cat/0.png/1.png"], "'cat/0.png/1.png' lies in a file"),
        (["cat/0.png/1.png", "cat/0.png"], "'cat/0.png' is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    assert said in refused(zip_of(tmp_path / "a.zip", *names))
    assert said in refused(tar_of(tmp_path / "a.tar", *map(info_of, names)))
    assert nothing_was_written(tmp_path)


def test_strange_names_are_shown_escaped(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", info_of("../\x1b[31m\nred.png"))
    assert "'../\\x1b[31m\\nred.png'" in refused(path)
    path = tar_of(tmp_path / "a.tar", info_of("../" + os.fsdecode(b"caf\xe9.png")))
    assert "caf\\udce9.png" in refused(path)


def test_battery_11_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST", 1_000_000)
    content = bytes(600_000)
    paths = [
        zip_of(tmp_path / "a.zip", "cat/0.png", "dog/0.png", content=content),
        tar_of(tmp_path / "a.tar.gz", info_of("a.png"), info_of("b.png"), content=content),
        tar_of(tmp_path / "a.tar.xz", info_of("a.png"), info_of("b.png"), content=content),
        tar_of(tmp_path / "a.tar.bz2", info_of("a.png"), info_of("b.png"), content=content),
    ]
    for path in paths:
        assert path.stat().st_size < 20_000
        assert "unpacks to more than 0.001 GB" in refused(path)
    monkeypatch.setattr(archives, "LARGEST", 100_000_000_000)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 1)
    for path in paths:
        assert "or 1 files" in refused(path)
    assert nothing_was_written(tmp_path)


def test_a_zip_that_says_less_than_it_holds_is_refused(tmp_path: Path, home: Path) -> None:
    path = zip_of(tmp_path / "a.zip", "cat/0.png", content=bytes(5_000_000))
    content = path.read_bytes()
    path.write_bytes(content.replace((5_000_000).to_bytes(4, "little"), b"\1\0\0\0"))
    assert "cut short or damaged" in refused(path)
    assert list((home / "unpacked").iterdir()) == []


def test_what_comes_is_counted_whatever_was_said_before(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "a.zip", "cat/0.png", content=bytes(5_000_000))
    monkeypatch.setattr(archives, "_content", lambda *_: iter([bytes(4_000_000)] * 1000))
    assert "holds more than it says" in refused(path)
    assert list((home / "unpacked").iterdir()) == []


def test_giant_headers_of_a_tar_are_not_read(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        info = info_of("x", kind)
        info.size = 50 << 30
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        message = refused(tmp_path / "a.tar")
        assert "a header of 53,687,091,200 bytes" in message or "cut short or damaged" in message


def test_headers_upon_headers_end(tmp_path: Path) -> None:
    info = info_of("x", tarfile.GNUTYPE_LONGNAME)
    info.size = 2
    block = info.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(block * 20_000)
    refused(tmp_path / "a.tar")


def test_much_behind_the_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LONGEST_END", 3_000_000)
    path = tmp_path / "a.tar.gz"
    tar = tar_of(tmp_path / "a.tar", info_of("cat/0.png")).read_bytes()
    path.write_bytes(gzip.compress(tar + bytes(10_000_000)))
    assert "too much behind its end" in refused(path)
    path.write_bytes(gzip.compress(tar + bytes(1_000_000)))
    assert "one class only ('cat')" in refused(path), "it was unpacked"


def test_a_sparse_map_cut_short_is_refused(tmp_path: Path) -> None:
    headers = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    pax, file = info_of("x", tarfile.XHDTYPE), info_of("cat/0.png")
    pax.size, file.size = len(headers), 1 << 20
    blocks = [pax.tobuf(tarfile.USTAR_FORMAT), headers.ljust(512, b"\0")]
    blocks += [file.tobuf(tarfile.USTAR_FORMAT), b"100\n" + b"9" * 508]
    (tmp_path / "a.tar").write_bytes(b"".join(blocks))
    assert "cut short or damaged" in refused(tmp_path / "a.tar")


# What is damaged


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_an_archive_cut_short_anywhere_is_refused(
    class_folders: Callable[..., Path], tmp_path: Path, home: Path, ending: str
) -> None:
    path = pack(class_folders(count=3), tmp_path / f"a{ending}")
    content = path.read_bytes()
    # Behind the last picture a tar has zeros only, of which two blocks are needed.
    length = len(content.rstrip(b"\0")) if ending == ".tar" else len(content)
    for cut in [*range(0, length, 512), length - 1]:
        path.write_bytes(content[:cut])
        assert "cut short or damaged" in refused(path)
    assert not home.exists() or not list((home / "unpacked").iterdir())


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_a_damaged_archive_is_refused_or_read(
    class_folders: Callable[..., Path], tmp_path: Path, ending: str
) -> None:
    folder = class_folders(count=3)
    whole = load(folder).fingerprint
    path = pack(folder, tmp_path / f"a{ending}")
    content = path.read_bytes()
    failures = 0
    for position in range(0, len(content), len(content) // 30):
        path.write_bytes(content[:position] + bytes(4) + content[position + 4 :])
        try:
            assert load(path).fingerprint == whole
        except DataError as error:
            failures += str(path) in str(error)
    assert failures > 15


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_what_is_no_archive_is_refused(tmp_path: Path, ending: str) -> None:
    for content in (b"", b"text", bytes(100), b"x" * 5000):
        (tmp_path / f"a{ending}").write_bytes(content)
        refused(tmp_path / f"a{ending}")
    assert nothing_was_written(tmp_path)


def test_an_ending_that_lies(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    path = pack(class_folders(count=3), tmp_path / "b.tar.gz")
    for ending in (".zip", ".tar", ".tar.xz"):
        shutil.copy(path, tmp_path / f"a{ending}")
        assert "cut short or damaged" in refused(tmp_path / f"a{ending}")


# The folder that it goes to


def test_no_room_and_no_permission(
    class_folders: Callable[..., Path], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(class_folders(count=3), tmp_path / "a.zip")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(StorageError, match=r"a.zip: unpacks to .* GB are free.*EYEBRIGHT_DATA"):
            load(path)
    assert list((home / "unpacked").iterdir()) == []
    shutil.rmtree(home)
    home.write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="EYEBRIGHT_DATA") as caught:
        load(path)
    assert str(home) in str(caught.value)


def test_another_process_may_be_faster(
    class_folders: Callable[..., Path], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(count=3)
    path = pack(folder, tmp_path / "a.zip")
    write_all = archives._write_all

    def meanwhile(archive: Path, target: Path, total: int) -> None:
        write_all(archive, target, total)
        shutil.copytree(target, home / "unpacked" / target.name)

    monkeypatch.setattr(archives, "_write_all", meanwhile)
    assert load(path).fingerprint == load(folder).fingerprint
    assert len(list((home / "unpacked").iterdir())) == 1


def test_the_official_archive_is_still_known(small_cifar10: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(small_cifar10 / cifar.FOLDER, cifar.FOLDER)
    data = load(path)
    assert data.name == "cifar10"
    assert data.fingerprint == load(small_cifar10).fingerprint
