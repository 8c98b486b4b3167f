"""What the project was to reach beside what it reached, and the programs of the race."""

from collections.abc import Iterator

from bench.rows import Rows, latest_settings, read
from bench.tables import by_row, mean, mean_and_deviation, numbers, section, three_digits

IN_THE_RACE = {
    "quick": "61 % in 1/200 of the lesson's time (1/100 at least)",
    "fast": "recipe `fast`: 88.5 % in 180 s of training",
    "best": "recipe `best`: 91 % in 600 s of training",
}
RACES = {"race": "The race", "race-avx512": "The recipes on a processor without AMX"}
"""Tables of races, each of one machine."""
ON_A_GPU = {
    "airbench": "the unit on a GPU: airbench94_muon's settings on our step",
    "airbench-eager": "a recorded step: the same, launched one kernel after the other",
    "fast": "`fast` on a GPU: that accuracy in half that time, and in at most 1.0 s",
    "best": "`best` on a GPU: the accuracy of airbench96_faster's settings in at most 10 s",
}
STEPS = (
    "`{recipe}`: 70 % of the convolutions' peak (as if no product were saved) | "
    "**{share_of_peak:.0%}** ({gflops} of {convolution_peak_gflops} GFLOP/s, {model}) | "
    "`python -m bench.profile --recipe {recipe}` | – | {machine}, {precision} ({bf16})",
    "`{recipe}`: data take less than 3 % of a step | **{data_share:.1%}** | "
    "`python -m bench.profile --recipe {recipe}` | – | {machine}, {precision} ({bf16})",
)
GPU_COMMAND = (
    "`{recipe}` on a GPU, from the shell to a saved model, cold: at most 9 s | "
    "**{process_seconds} s**, of which training {training_seconds} s | `{command}` | {seeds} | "
    "{machine}"
)
TIMED = (
    "`--time`: within 5 % or 3 s, never 10 % later | **{taken_seconds} s** of {asked_seconds}: "
    "{model}, {val_accuracy:.1%} of what was held out | "
    "`python -m bench.timed --data {data}` | 1 | {machine}, {bf16}"
)
START = (
    "first step within 6 s of the shell, `--help` within 0.5 s | **{first_step_seconds} s**, "
    "**{help_seconds} s** | `python -m bench.start` | – | {machine}"
)


def targets() -> str:
    """Each target of the project beside what was reached."""
    raced = {table: latest_settings(read(table)) for table in RACES}
    latest = {(row["recipe"], row["bf16"]): row for row in read("profile")}
    lines = [
        *(line for table, programs in raced.items() for line in race_lines(table, programs)),
        *(line for row in latest.values() for step in STEPS for line in by_row([row], step)),
        *(line for table, programs in raced.items() for line in memory_lines(table, programs)),
        *by_row(read("start")[-1:], START),
        *by_row(read("timed"), TIMED),
        *gpu_lines(),
        *by_row(read("gpu-command"), GPU_COMMAND),
    ]
    return section("Targets", "target | reached | command | seeds | machine", lines)


def race_lines(table: str, raced: dict[str, Rows]) -> Iterator[str]:
    """Accuracy with and without averaging, seconds, and their ratio to the lesson's."""
    for program, target in IN_THE_RACE.items():
        if program not in raced:
            continue
        rows = raced[program]
        times = mean(rows, "times_lesson")
        of_the_lesson = f"1/{times:.3g} of" if times > 1 else f"{1 / times:.2g} times"
        yield (
            f"{target} | **{mean_and_deviation(rows, 'test_accuracy')}** in "
            f"**{three_digits(mean(rows, 'training_seconds'))} s**, {of_the_lesson} the lesson's "
            f"time; averaged with mirror images "
            f"{mean_and_deviation(rows, 'test_accuracy_averaged')} | "
            f"`python -m bench.race --programs {program} --seeds {len(rows)}{of_table(table)}` | "
            f"{len(rows)} | {rows[-1]['machine']}, {rows[-1]['bf16']}"
        )


def gpu_lines() -> Iterator[str]:
    """The same on a GPU."""
    for program, target in ON_A_GPU.items():
        rows = [row for row in read("gpu") if row["program"] == program]
        # Those of the recipe itself: others were tried afterwards.
        rows = [row for row in rows if row["settings"] == rows[0]["settings"]]
        yield (
            f"{target} | **{mean_and_deviation(rows, 'test_accuracy')}** in "
            f"**{three_digits(mean(rows, 'training_seconds'))} s**; averaged "
            f"{mean_and_deviation(rows, 'test_accuracy_averaged')} | "
            f"`python -m bench.gpu --programs {program} --seeds {len(rows)}` | {len(rows)} | "
            f"{rows[0]['machine'].split(',')[0]}"
        )


def memory_lines(table: str, raced: dict[str, Rows]) -> Iterator[str]:
    """Private memory, where it was measured."""
    for recipe in ("fast", "best"):
        if peaks := numbers(raced.get(recipe, []), "private_memory_mb"):
            yield (
                f"`{recipe}`: peak of private memory under 1.5 GB | "
                f"**{max(peaks) * 1.024**2 / 1000:.2f} GB** | "
                f"`python -m bench.race --programs {recipe}{of_table(table)}` | {len(peaks)} | "
                f"{raced[recipe][-1]['machine']}, {raced[recipe][-1]['bf16']}"
            )


def of_table(table: str) -> str:
    """What the command says of the table that it adds to."""
    return "" if table == "race" else f" --table {table}"


def race() -> str:
    """The programs of the races."""
    return "\n\n".join(
        section(
            f"{name} (`{table}.csv`)",
            "program | settings | seeds | test accuracy | averaged | training, s | "
            "whole process, s | peak memory, MB",
            (
                f"{program} ({rows[-1]['versions']}) | {rows[-1]['settings']} | {len(rows)} | "
                f"**{mean_and_deviation(rows, 'test_accuracy')}** | "
                f"{mean_and_deviation(rows, 'test_accuracy_averaged')} | "
                f"{three_digits(mean(rows, 'training_seconds'))} | "
                f"{mean(rows, 'process_seconds'):,.0f} | "
                f"{max(numbers(rows, 'peak_memory_mb')):,.0f}"
                for program, rows in latest_settings(read(table)).items()
            ),
        )
        for table, name in RACES.items()
    )
