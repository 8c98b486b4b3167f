"""Tables: a CSV that names pictures and their classes, and perhaps more about them."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from eyebright.console import shown
from eyebright.data.dataset import Dataset
from eyebright.data.folders import natural_order, read_files
from eyebright.errors import DataError

ENDING = ".csv"
PATH, LABEL = "path", "label"


def load_table(
    table: Path,
    *,
    classes: Sequence[str] | None,
    imgsz: int | None,
    large: int,
    skip_bad: bool | Collection[str],
    workers: int,
) -> Dataset:
    """The pictures that a table names.

    Args:
        table: a CSV file whose first line names its columns: ``path`` (from the table's folder),
            ``label``, and others, which `Dataset.columns` keeps.
        classes: class names that labels must count by; None: the table's own in natural order.
        imgsz: side of the pictures in pixels; None: from the pictures.
        large: the side then, where they are not small.
        skip_bad: go on without pictures that cannot be read: all, or those of these ids.
        workers: threads that decode; 0 and 1 are the same.

    Raises:
        DataError: no such columns, an empty or unknown class, a picture named twice, no pictures,
            one class only, or pictures that cannot be read.
        StorageError: the pictures do not fit into memory.
    """
    rows = _read_rows(table)
    paths = [row[PATH] for row in rows]
    if len(set(paths)) < len(paths):
        twice = next(path for i, path in enumerate(paths) if path in paths[:i])
        raise DataError(f"{shown(table)}: names '{shown(twice)}' twice")
    found = sorted({row[LABEL] for row in rows}, key=natural_order)
    names = found if classes is None else list(classes)
    if unknown := set(found) - set(names):
        raise DataError(
            f"{shown(table)}: there is no class '{shown(min(unknown))}' among those known: "
            f"{', '.join(map(shown, names))}"
        )
    if len(names) < 2:
        raise DataError(f"{shown(table)}: one class only; two are the least there is to tell apart")
    number = {name: i for i, name in enumerate(names)}
    data = read_files(
        [table.parent / path for path in paths],
        [number[row[LABEL]] for row in rows],
        names,
        ids=paths,
        source=table,
        may_be_empty=classes is not None,
        imgsz=imgsz,
        large=large,
        skip_bad=skip_bad,
        workers=workers,
    )
    of_picture = {row[PATH]: row for row in rows}
    data.columns = {
        column: [of_picture[str(name)][column] for name in data.ids]
        for column in rows[0]
        if column not in (PATH, LABEL)
    }
    return data


def _read_rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {PATH, LABEL} <= set(columns) or len(set(columns)) < len(columns):
                raise DataError(
                    f"{shown(table)}: its first line must name the columns, each once, {PATH} and "
                    f"{LABEL} among them"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(table)}: no table in CSV ({error})") from None
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not row[PATH] or not row[LABEL]:
            raise DataError(f"{shown(table)}, line {line}: needs a value in each column")
    if not rows:
        raise DataError(f"{shown(table)}: names no pictures")
    return rows
