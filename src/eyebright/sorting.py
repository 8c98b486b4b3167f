"""Sorting picture files into class folders by what a model says of them; nothing is moved."""

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from eyebright.answers import NOT_SURE
from eyebright.console import progress_bar, shown
from eyebright.errors import StorageError, UsageError
from eyebright.files import beside

Answer = tuple[Path, str | None]
"""A picture and its class; None: not sure."""


def folder_name(label: str | None) -> str:
    """What a class's folder is called: one plain name, whatever the class is called."""
    if label is None:
        return NOT_SURE
    plain = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in label)
    return plain.strip(". ") or "_"


def plan_table(answers: Iterable[Answer], folder: Path) -> Table:
    """How many pictures would go into which folder."""
    counts = Counter(folder_name(label) for _, label in answers)
    table = Table("folder", title=f"into {shown(folder)}")
    table.add_column("pictures", justify="right")
    for name, count in sorted(counts.items()):
        table.add_row(shown(name), f"{count:,}")
    return table


def check_folder(folder: Path, classes: Iterable[str]) -> None:
    """See that pictures can be sorted there.

    Raises:
        UsageError: it is a file, or two classes would share a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{shown(folder)}: no folder, so nothing can be sorted into it")
    names = Counter(folder_name(label) for label in [*classes, None])
    if twice := [name for name, count in names.items() if count > 1]:
        raise UsageError(f"several classes would go into the folder '{shown(twice[0])}'")


def sort_into(folder: Path, answers: list[Answer], link: bool) -> int:
    """Copy or link pictures into folders of their classes.

    What is there already is never overwritten: another picture of the same name gets a number, and
    the same one is left as it is.

    Args:
        folder: made if need be.
        answers: which they are.
        link: make hard links, which take no room, in place of copies.

    Returns:
        How many are new.

    Raises:
        StorageError: the disk refuses; the message names the picture.
    """
    new = 0
    with progress_bar("linking" if link else "copying", len(answers)) as bar:
        for picture, label in answers:
            into = folder / folder_name(label)
            try:
                into.mkdir(parents=True, exist_ok=True)
                new += _put(picture, into, link)
            except OSError as error:
                raise StorageError(
                    f"{shown(picture)} into {shown(into)}: {error.strerror or error}"
                ) from None
            bar.advance()
    return new


def _put(picture: Path, into: Path, link: bool) -> bool:
    """Whether it was not there yet."""
    number = 1
    while True:
        name = picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}"
        target = into / name
        if not os.path.lexists(target):
            break
        if target.is_file() and filecmp.cmp(picture, target, shallow=False):
            return False
        number += 1
    if link:
        os.link(picture.resolve(), target)
        return True
    temporary = beside(target)
    try:
        shutil.copy2(picture, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True
