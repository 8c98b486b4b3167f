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
pictures, no test-time averaging unless said. Settings of the recipes were compared on these test
pictures, as races on CIFAR-10 are. Seconds of the command are from the shell to its end.

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
            f"| {f'`{key[0]}` {key[1]}'.strip()} | {first['model']}, {first['epochs']} | "
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


def limits_table(rows: list[dict[str, str]]) -> str:
    """The lesson's net trained longer, and trained otherwise."""
    lines = [
        "## The lesson's net, longer and otherwise (`lesson-limits.csv`)\n",
        "All 50,000 pictures, one seed; the test pictures are looked at after every epoch, none is "
        "chosen. The rate of `tutorial` is constant, so that each of its rows is also the end of a "
        "run of that length; it was stopped after the eighth of twelve epochs. What the lesson's "
        "page printed: [lesson-page.md](lesson-page.md).\n",
        "| recipe | epoch | of | training pictures right | test pictures right |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row["epoch"] in ("1", "5", "8", row["epochs"]):
            train, test = (100 * float(row[f"{which}_accuracy"]) for which in ("train", "test"))
            lines.append(
                f"| `{row['recipe']}` | {row['epoch']} | {row['epochs']} | {train:.1f} % | "
                f"**{test:.1f} %** |"
            )
    return "\n".join(lines)


def race_rows(program: str) -> list[dict[str, str]]:
    """The rows of a program with the settings of its latest one."""
    rows = [r for r in read("race") if r["program"] == program]
    return [r for r in rows if r["settings"] == rows[-1]["settings"]]


def spread(values: list[float]) -> str:
    """Mean ± deviation of percentages."""
    if len(values) < 2:
        return f"{values[0]:.2f} %"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def three_digits(value: float) -> str:
    """A number to three digits, large ones whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def race_line(target: str, program: str) -> str:
    """A target of the race: accuracy with and without averaging, seconds, ratio to the lesson."""
    rows = race_rows(program)
    if not rows:
        return f"| {target} | not measured | | | |"
    plain = [100 * float(r["test_accuracy"]) for r in rows]
    averaged = [100 * float(r["test_accuracy_averaged"]) for r in rows]
    seconds = statistics.mean(float(r["training_seconds"]) for r in rows)
    times = statistics.mean(float(r["times_lesson"]) for r in rows)
    of_the_lesson = f"1/{times:.3g} of" if times > 1 else f"{1 / times:.2g} times"
    reached = f"**{spread(plain)}** in **{seconds:.3g} s**, {of_the_lesson} the lesson's time"
    reached += f"; averaged with mirror images {spread(averaged)}"
    command = f"`python -m bench.race --programs {program} --seeds {len(rows)}`"
    return f"| {target} | {reached} | {command} | {len(rows)} | {rows[-1]['machine']} |"


def gpu_lines() -> list[str]:
    """The targets on a GPU beside what was reached."""
    targets = {
        "airbench": "the unit on a GPU: airbench94_muon's settings on our step",
        "airbench-eager": "the same, its steps launched one kernel after the other",
        "fast": "`fast` on a GPU: that accuracy in half that time, and in at most 1.0 s",
        "best": "`best` on a GPU: the accuracy of airbench96_faster's settings in at most 10 s",
    }
    lines = []
    for program, target in targets.items():
        rows = [row for row in read("gpu") if row["program"] == program]
        rows = [row for row in rows if row["settings"] == rows[0]["settings"]]
        if rows:
            plain = spread([100 * float(row["test_accuracy"]) for row in rows])
            averaged = spread([100 * float(row["test_accuracy_averaged"]) for row in rows])
            seconds = statistics.mean(float(row["training_seconds"]) for row in rows)
            command = f"`python -m bench.gpu --programs {program} --seeds {len(rows)}`"
            lines.append(
                f"| {target} | **{plain}** in **{seconds:.3g} s**; averaged {averaged} | "
                f"{command} | {len(rows)} | {rows[0]['machine'].split(',')[0]} |"
            )
    return lines


def targets_table() -> str:
    """Each target of the project beside what was reached."""
    lines = [
        "## Targets\n",
        "| target | reached | command | seeds | machine |",
        "|---|---|---|---|---|",
    ]
    lines.append(race_line("61 % in 1/200 of the lesson's time (1/100 at least)", "quick"))
    lines.append(race_line("recipe `fast`: 88.5 % in 180 s of training", "fast"))
    lines.append(race_line("recipe `best`: 91 % in 600 s of training", "best"))
    latest = {(row["recipe"], row["bf16"]): row for row in read("profile")}
    for (recipe, _), row in latest.items():
        command = f"`python -m bench.profile --recipe {recipe}`"
        share = f"{100 * float(row['share_of_peak']):.0f} %"
        speed = f"({row['gflops']} of {row['convolution_peak_gflops']} GFLOP/s, {row['model']})"
        machine = f"{row['machine']}, {row['precision']} ({row['bf16']})"
        lines.append(
            f"| `{recipe}`: 70 % of the convolutions' peak | **{share}** {speed} | {command} | – | "
            f"{machine} |"
        )
        lines.append(
            f"| `{recipe}`: data take less than 3 % of a step | "
            f"**{100 * float(row['data_share']):.1f} %** | {command} | – | {machine} |"
        )
    for recipe in ("fast", "best"):
        rows = [row for row in race_rows(recipe) if row["private_memory_mb"]]
        if rows:
            most = max(float(row["private_memory_mb"]) for row in rows) * 1.024**2 / 1000
            lines.append(
                f"| `{recipe}`: peak of private memory under 1.5 GB | **{most:.2f} GB** | "
                f"`python -m bench.race --programs {recipe}` | {len(rows)} | "
                f"{rows[-1]['machine']} |"
            )
    for row in read("start")[-1:]:
        lines.append(
            f"| first step within 6 s of the shell, `--help` within 0.5 s | "
            f"**{row['first_step_seconds']} s**, **{row['help_seconds']} s** | "
            f"`python -m bench.start` | – | {row['machine']} |"
        )
    lines += gpu_lines()
    return "\n".join(lines)


def race_table() -> str:
    """The programs of the race."""
    lines = [
        "## The race (`race.csv`)\n",
        "| program | settings | seeds | test accuracy | averaged | training, s | "
        "whole process, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for program in dict.fromkeys(r["program"] for r in read("race")):
        rows = race_rows(program)
        averaged = [100 * float(a) for r in rows if (a := r["test_accuracy_averaged"])]
        lines.append(
            f"| {program} ({rows[-1]['versions']}) | {rows[-1]['settings']} | {len(rows)} | "
            f"**{spread([100 * float(r['test_accuracy']) for r in rows])}** | "
            f"{spread(averaged) if averaged else '–'} | "
            f"{three_digits(statistics.mean(float(r['training_seconds']) for r in rows))} | "
            f"{statistics.mean(float(r['process_seconds']) for r in rows):,.0f} | "
            f"{max(float(r['peak_memory_mb']) for r in rows):,.0f} |"
        )
    return "\n".join(lines)


def longtail_table(rows: list[dict[str, str]]) -> str:
    """Every value of ``--balance`` on the long-tailed CIFAR-10, and what ``auto`` gains."""
    lines = [
        "## Unbalanced classes (`longtail.csv`)\n",
        "Recipe `fast`, trained on 12,406 pictures, 5,000 of the first class down to 50 of the "
        "last (a tenth of them held out), tested on CIFAR-10's own 10,000. `auto` is "
        "`logit-adjust` here.\n",
        "| net | `--balance` | balanced accuracy | worst class found | log loss | epochs | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, balance in dict.fromkeys((r["model"], r["balance"]) for r in rows):
        of_kind = [r for r in rows if (r["model"], r["balance"]) == (model, balance)]
        worst, loss = (
            statistics.mean(float(r[key]) for r in of_kind) for key in ("worst_recall", "log_loss")
        )
        lines.append(
            f"| {model} | `{balance}` | "
            f"**{spread([100 * float(r['balanced_accuracy']) for r in of_kind])}** "
            f"| {100 * worst:.1f} % | {loss:.3f} | {of_kind[0]['epochs']} | {len(of_kind)} |"
        )
    return "\n".join(lines)


def promises_table(rows: list[dict[str, str]]) -> str:
    """What was promised of answers and sets, and how often it was kept."""
    lines = [
        "## Promises (`promises.csv`)\n",
        "Test pictures split in two by chance, again and again: one half gives the promise, the "
        "other shows whether it was kept. Each promise of errors may be broken in 5 % of the "
        "splits.\n",
        "| run | promise | splits | share that held the true class, or was right | answered | "
        "broken in |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        share, answered = (
            f"{100 * float(r[key]):.2f} %" if r[key] else "–" for key in ("mean_share", "answered")
        )
        broken = f"{r['broken']} of {r['splits']}" if r["broken"] else "–"
        lines.append(
            f"| `{r['run']}` | {r['promise']} | {r['splits']} | {share} | {answered} | {broken} |"
        )
    return "\n".join(lines)


def mean_and_range(values: list[float]) -> str:
    """Per cent: the mean of a few seeds, and the lowest and the highest of them."""
    return f"**{statistics.mean(values):.1f} %** ({min(values):.1f} to {max(values):.1f})"


def finetune_table(rows: list[dict[str, str]]) -> str:
    """Ants and bees: what is trained after the probe, mean over the seeds."""
    lines = [
        "## Few photographs (`finetune.csv`: ants and bees, 153 test photographs)\n",
        "| trained after the probe | seeds | test accuracy, mean (lowest to highest) | points more "
        "than the probe, 95 % interval | whole command, s, mean (longest) | machine |",
        "|---|---|---|---|---|---|",
    ]
    for tune in dict.fromkeys(row["tune"] for row in rows):
        of_tune = [row for row in rows if row["tune"] == tune]
        values = [100 * float(row["accuracy"]) for row in of_tune]
        seconds = [float(row["process_seconds"]) for row in of_tune]
        differences = [
            "{:+.1f} ({:+.1f} to {:+.1f})".format(
                *(100 * float(row[key]) for key in ("difference_to_probe", "low", "high"))
            )
            for row in of_tune
        ]
        more = "; ".join(dict.fromkeys(differences))
        seeds = len({row["seed"] for row in of_tune})
        lines.append(
            f"| {tune} | {seeds} | {mean_and_range(values)} | {'–' if tune == 'none' else more} | "
            f"{statistics.mean(seconds):.0f} ({max(seconds):.0f}) | {of_tune[0]['machine']} |"
        )
    return "\n".join(lines)


def reading_table(rows: list[dict[str, str]]) -> str:
    """Pictures a second, ours and torchvision's."""
    lines = [
        "## Reading photographs at 224 px (`reading.csv`)\n",
        "| pictures | first epoch, a second: ours, torchvision's, times | later | machine |",
        "|---|---|---|---|",
    ]
    for row in rows:
        first = f"{row['first_epoch_per_s']}, {row['theirs_first']}, **{row['times_first']}**"
        later = f"{row['later_epochs_per_s']}, {row['theirs_later']}, **{row['times_later']}**"
        lines.append(f"| {row['pictures']} | {first} | {later} | {row['machine']} |")
    return "\n".join(lines)


def small_table(rows: list[dict[str, str]]) -> str:
    """Many small pictures: listed, checked and cached."""
    lines = [
        "## Many small pictures (`reading-small.csv`)\n",
        "| pictures | first time, s | again, s | private memory at most, MB | machine |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {int(row['pictures']):,} | {row['seconds']} | {row['seconds_again']} | "
            f"{row['private_peak_mb']} | {row['machine']} |"
        )
    return "\n".join(lines)


def audit_table(rows: list[dict[str, str]]) -> str:
    """What audits found and how long they took."""
    lines = [
        "## Audits (`audit.csv`)\n",
        "| data | whole command, s | test pictures with a copy in train | suspect labels | truly "
        "wrong of the first 1,000, 3,000, 5,000 | machine |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = [row[f"wrong_of_{n}"] for n in (1000, 3000, 5000)]
        wrong = ", ".join(f"{100 * float(share):.1f} %" for share in shares if share) or "–"
        lines.append(
            f"| `{row['data']}` | {row['seconds']} | {row['across_splits']} | {row['suspects']} | "
            f"{wrong} | {row['machine']} |"
        )
    return "\n".join(lines)


def cleaned_table(rows: list[dict[str, str]]) -> str:
    """Nets trained on a noisy table, and on the same as an audit cleaned it."""
    lines = [
        "## Training on cleaned labels (`cleaned.csv`)\n",
        "| table | labels | net, epochs | seeds | accuracy on CIFAR-10's test set, mean (lowest to "
        "highest) | machine |",
        "|---|---|---|---|---|---|",
    ]
    for data, labels in dict.fromkeys((row["data"], row["labels"]) for row in rows):
        those = [row for row in rows if (row["data"], row["labels"]) == (data, labels)]
        values = [100 * float(row["accuracy"]) for row in those]
        first = those[0]
        lines.append(
            f"| `{data}` | {labels} | {first['model']}, {first['epochs']} | {len(values)} | "
            f"{mean_and_range(values)} | {first['machine']} |"
        )
    return "\n".join(lines)


def soak_table() -> str:
    """Kills, damaged pictures, and what checkpoints cost."""
    lines = [
        "## Nothing lost (`soak.csv`, `fuzz.csv`, `saving.csv`)\n",
        "| what | how often | outcome | target | command | machine |",
        "|---|---|---|---|---|---|",
    ]
    for row in read("soak"):
        lines.append(
            f"| `kill -9` of a training, resumed | {int(row['kills']):,} kills of {row['runs']} "
            f"runs | **{row['mismatches']} runs** not bit-identical | 0 | `{row['command']}` | "
            f"{row['machine']} |"
        )
    for row in read("fuzz"):
        most = max(int(row["peak_mib"]), int(row["largest_mib"]))
        lines.append(
            f"| damaged pictures, seed {row['seed']} | {int(row['pictures']):,} | "
            f"{int(row['read']):,} read, {int(row['refused']):,} refused; slowest "
            f"{row['slowest_s']} s; the largest allowed ({row['largest'].split(' {')[0]}) "
            f"{row['largest_s']} s; {most:,} MiB | no crash, 2 s, 1,536 MiB | "
            f"`{row['command']}` | {row['machine']} |"
        )
    for row in read("saving"):
        lines.append(
            f"| checkpoints of `{row['recipe']}` on {row['data']} ({row['model']}, "
            f"{row['megabytes']} MB each) | {row['checkpoints']} in {row['seconds']} s | "
            f"**{100 * float(row['share']):.2f} %** of the time; at most {row['longest_gap_s']} s "
            f"between two | 2 %, 60 s | `{row['command']}` | {row['machine']} |"
        )
    return "\n".join(lines)


def exporting_table(rows: list[dict[str, str]]) -> str:
    """Pictures a second of exported models."""
    lines = [
        "## Exported models (`exporting.csv`)\n",
        "Pictures a second from ready pixels to probabilities; medians of measurements in turn.\n",
        "| net | px | threads | pictures | runs on | pictures a second (lowest to highest) | "
        "times eager | MB | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['imgsz']} | {row['threads']} | {row['batch']} | "
            f"{row['runs_on']} | **{float(row['pictures_a_second']):,.0f}** "
            f"({float(row['lowest']):,.0f} to {float(row['highest']):,.0f}) | "
            f"{row['times_eager']} | {int(row['bytes']) / 1e6:.1f} | {row['machine']} |"
        )
    return "\n".join(lines)


def serving_table() -> str:
    """What the server stands."""
    lines = [
        "## The server (`load.csv`, `load-soak.csv`)\n",
        "An open-loop client (h2load, a connection a request) on the same two cores; one JPEG of "
        "CIFAR-10 a request; net `wide32`, 32 px. Capacity: the most pictures answered a second, "
        "at whatever rate they are offered. In brackets the target.\n",
        "| plain FastAPI handler, pictures a second | ours | times | at 70 %: p99, ms (50) "
        "| at four times: p99 accepted, ms (100) | p99 refused, ms (50) "
        "| slowest liveness, ms (100) | memory, MiB (1,536) | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in read("load"):
        lines.append(
            f"| {row['plain_per_second']} | **{row['capacity_per_second']}** | "
            f"{row['times_plain']} | {row['p99_ms_at_70_percent']} | "
            f"{row['p99_ms_accepted_at_4_times']} | {row['p99_ms_refused_at_4_times']} | "
            f"{row['slowest_ms_alive_at_4_times']} | {row['peak_mib']} | {row['machine']} |"
        )
    for row in read("load-soak"):
        lines.append(
            f"\n{float(row['minutes']):g} minutes of good, bad and hostile clients at once "
            f"(`--soak`): {int(row['answers']):,} answers (status and count: {row['statuses']}), "
            f"**{row['answers_5xx']} of them 5xx**, liveness within {row['slowest_ms_alive']} ms, "
            f"{row['peak_mib']} MiB at most ({row['machine']})."
        )
    return "\n".join(lines)


def explaining_table(rows: list[dict[str, str]]) -> str:
    """Which heat maps find the pixels that matter."""
    lines = [
        "## Heat maps (`explaining.csv`)\n",
        "Area under the probability as pixels come, hottest first (insertion), minus the same as "
        "they go (deletion; Petsiuk et al. 2018); higher is better.\n",
        "| net | px | pictures | map | insertion − deletion ± standard error | machine |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['net']} | {row['imgsz']} | {row['n']} | {row['map']} | "
            f"**{row['insertion_minus_deletion']}** ± {row['standard_error']} | {row['machine']} |"
        )
    return "\n".join(lines)


def shards_table(rows: list[dict[str, str]]) -> str:
    """Streamed shards beside other readers of the same pictures."""
    lines = [
        "## Tar shards (`shards.csv`)\n",
        "Pictures a second, nothing decoded beforehand: ours streams the shards, `webdataset` "
        "reads the same ones through a DataLoader, `ImageFolder` the files they were made of.\n",
        "| px | pictures | converted | ours | webdataset | ImageFolder + DataLoader | times "
        "webdataset | times ImageFolder | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['px']} | {int(r['pictures']):,} | {int(r['converted_per_s']):,} | "
        f"**{int(r['ours_per_s']):,}** | {int(r['webdataset_per_s']):,} | "
        f"{int(r['torchvision_per_s']):,} | {r['times_webdataset']} | {r['times_torchvision']} | "
        f"{r['machine']} |"
        for r in rows
    ]
    return "\n".join(lines)


def lake_table(rows: list[dict[str, str]]) -> str:
    """`predict --parts` by one process and by two."""
    lines = [
        "## A lake of pictures (`lake.csv`)\n",
        "| pictures | one process with one core, pictures a second | one with both | two ranks, a "
        "core each | two ranks over one with one core | machine |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {int(r['pictures']):,} | {r['one_of_half_a_second']} | {r['one_a_second']} | "
        f"**{r['two_a_second']}** | {r['two_over_one_of_half']} | {r['machine']} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    parts = [targets_table(), race_table(), accuracy_table(read("accuracy"))]
    parts.append(longtail_table(read("longtail")))
    parts.append(promises_table(read("promises")))
    parts.append(finetune_table(read("finetune")))
    parts.append(reading_table(read("reading")))
    parts.append(small_table(read("reading-small")))
    parts.append(audit_table(read("audit")))
    if cleaned := read("cleaned"):
        parts.append(cleaned_table(cleaned))
    if exported := read("exporting"):
        parts.append(exporting_table(exported))
    if read("load"):
        parts.append(serving_table())
    if shards := read("shards"):
        parts.append(shards_table(shards))
    if lakes := read("lake"):
        parts.append(lake_table(lakes))
    parts.append(
        "## Two ranks (`scaling.csv`)\n\n"
        "In [the guide to scaling out](../../docs/scaling.md), with the model fitted to them."
    )
    parts.append(explaining_table(read("explaining")))
    parts.append(soak_table())
    parts.append(lesson_table(read("lesson")))
    parts.append(limits_table(read("lesson-limits")))
    Path(RESULTS / "README.md").write_text(HEAD + "\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
