"""Sum up the rows of results: writes ``bench/results/README.md``.

python -m bench.summary
"""

import csv
import statistics
from pathlib import Path

from bench.rows import RESULTS

HEAD = """# Results

Written by `python -m bench.summary` from the rows beside it; each row holds its command, seed,
versions and machine. Data: the JPEG copy of CIFAR-10 (all 60,000 pictures at quality 75; accuracy
on it is about three points below the published pictures at the 94 % level), its own 10,000 test
pictures, no test-time averaging. Seconds of the command are from the shell to its end.

"""


def read(name: str) -> list[dict[str, str]]:
    """The rows of a table, none where there is no such table."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def accuracy_table(rows: list[dict[str, str]]) -> str:
    """Mean and spread over the seeds of each recipe."""
    lines = [
        "## Accuracy (`accuracy.csv`)\n",
        "| recipe | net, epochs | trained on | seeds | test accuracy, mean ± deviation (lowest to "
        "highest) | seconds of training, median | seconds of the command, median | machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["recipe"], r["settings"], r["machine"], r["epochs"]) for r in rows):
        of_key = [r for r in rows if (r["recipe"], r["settings"], r["machine"], r["epochs"]) == key]
        values = [100 * float(r["test_accuracy"]) for r in of_key]
        training = statistics.median(float(r["training_seconds"]) for r in of_key)
        command = statistics.median(float(r["command_seconds"]) for r in of_key)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        first = of_key[0]
        lines.append(
            f"| `{key[0]}` {key[1]} | {first['model']}, {first['epochs']} | "
            f"{int(first['train_pictures']):,} | {len(values)} | "
            f"**{statistics.mean(values):.2f} ± {spread:.2f} %** "
            f"({min(values):.2f} to {max(values):.2f}) | {training:.0f} | {command:.0f} | "
            f"{first['machine']}, {first['precision']} ({first['bf16']}) |"
        )
    return "\n".join(lines)


def lesson_table(rows: list[dict[str, str]]) -> str:
    """The plain script of the lesson beside the recipe `tutorial`."""
    lines = [
        "## The lesson, plain and ours (`lesson.csv`)\n",
        "| mini-batches | plain script, s | recipe `tutorial`, s | times faster | machine |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['steps']} | {r['plain_seconds']} | {r['tutorial_seconds']} | "
        f"**{r['times_faster']}** | {r['machine']} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    parts = [accuracy_table(read("accuracy")), lesson_table(read("lesson"))]
    Path(RESULTS / "README.md").write_text(HEAD + "\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
