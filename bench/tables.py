"""Tables of Markdown from rows of results."""

import statistics
from collections.abc import Iterable

from bench.rows import Rows, read


class Cell(str):
    """Of a CSV file: as it stands, or formatted as the number that it is; a dash where empty."""

    __slots__ = ()

    def __format__(self, form: str) -> str:
        """A share goes by ``.1%``, with the space that stands before a unit."""
        if not form:
            return str(self)
        return format(float(self), form).replace("%", " %") if self else "–"


def section(title: str, columns: str, lines: Iterable[str], text: str = "") -> str:
    """A table under its title.

    Args:
        title: of the section.
        columns: their names, with ``|`` between them.
        lines: of the table, with ``|`` between their cells.
        text: stands before the table.
    """
    return "\n\n".join([f"## {title}", *([text] if text else []), table(columns, lines)])


def table(columns: str, lines: Iterable[str]) -> str:
    """The table alone."""
    number, lines = columns.count("|"), list(lines)
    assert all(line.count("|") == number for line in lines), (columns, lines)
    return "\n".join([f"| {columns} |", "|---" * (number + 1) + "|", *(f"| {x} |" for x in lines)])


def section_of(
    name: str, title: str, columns: str, line: str, text: str = "", *, rows: Rows | None = None
) -> str:
    """A section with a line for each row of ``bench/results/<name>.csv``, which its title names.

    Args:
        name: of the file.
        title: of the section.
        columns: as `section` has them.
        line: as `by_row` has it.
        text: stands before the table.
        rows: some of them, or with more columns; None: as they are.
    """
    lines = by_row(read(name) if rows is None else rows, line)
    return section(f"{title} (`{name}.csv`)", columns, lines, text)


def by_row(rows: Rows, line: str) -> list[str]:
    """A line for each row, in which its columns' names stand: ``{pictures:,.0f} | {seed}``."""
    return [line.format_map({name: Cell(text) for name, text in row.items()}) for row in rows]


def grouped(rows: Rows, *columns: str) -> dict[tuple[str, ...], Rows]:
    """The rows that are alike in these columns, in the order in which they first occur."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def numbers(rows: Rows, column: str) -> list[float]:
    """A column without its empty cells."""
    return [float(row[column]) for row in rows if row[column]]


def mean(rows: Rows, column: str) -> float:
    """Of a column."""
    return statistics.mean(numbers(rows, column))


def percentages(rows: Rows, column: str) -> list[float]:
    """A column of shares in per cent."""
    return [100 * share for share in numbers(rows, column)]


def mean_and_deviation(rows: Rows, column: str) -> str:
    """Of shares in per cent; the deviation where there are several, a dash where there is none."""
    values = percentages(rows, column)
    if len(values) < 2:
        return f"{values[0]:.2f} %" if values else "–"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def mean_and_range(rows: Rows, column: str) -> str:
    """Of shares in per cent: their mean, the lowest and the highest."""
    values = percentages(rows, column)
    return f"**{statistics.mean(values):.1f} %** ({min(values):.1f} to {max(values):.1f})"


def three_digits(number: float) -> str:
    """A number to three digits, large ones whole."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
