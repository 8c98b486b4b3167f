"""Features of pictures in a file: NumPy's format with a list beside it, or Parquet."""

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyebright.console import shown
from eyebright.errors import UsageError
from eyebright.files import write_file
from eyebright.tabular import check_pyarrow

ENDINGS = (".npy", ".parquet")


def check_format(path: Path) -> None:
    """See that there is a format for a file of this name.

    Raises:
        UsageError: there is none, or what writes it is not installed.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"{shown(path)}: features go into .npy or .parquet files")
    if path.suffix == ".parquet":
        check_pyarrow("write .npy")


def write_features(path: Path, names: list[str], features: NDArray[np.float32]) -> None:
    """Write features and which picture each row is of.

    Args:
        path: ``.npy``, an array (n, width) beside a ``.pictures.csv`` with the column picture; or
            ``.parquet``, with the columns picture and features (a list of float32).
        names: n texts.
        features: float32 (n, width).

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = features.shape[1]
        values = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width)
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table({"picture": names, "features": values}), buffer)
        return write_file(path, buffer.getvalue().to_pybytes())
    table, array = io.StringIO(newline=""), io.BytesIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["picture"])
    writer.writerows([name] for name in names)
    write_file(path.with_suffix(".pictures.csv"), table.getvalue().encode())
    np.save(array, features, allow_pickle=False)
    return write_file(path, array.getvalue())
