"""Sum up the rows of results: writes ``bench/results/README.md``.

python -m bench.summary
"""

import statistics

from bench.rows import RESULTS, read
from bench.tables import (
    Cell,
    by_row,
    grouped,
    mean,
    mean_and_deviation,
    mean_and_range,
    numbers,
    percentages,
    section,
    section_of,
)
from bench.targets import race, targets

HEAD = """# Results

Written by `python -m bench.summary` from the rows beside it; each row holds its command, seed,
versions and machine. Data: the JPEG copy of CIFAR-10 (all 60,000 pictures at quality 75; accuracy
on it is about three points below the published pictures at the 94 % level), its own 10,000 test
pictures, no test-time averaging unless said. Settings of the recipes were compared on these test
pictures, as races on CIFAR-10 are. Seconds of the command are from the shell to its end."""
SCALING = """## Two ranks (`scaling.csv`)

In [the guide to scaling out](../../docs/scaling.md), with the model fitted to them."""
# Tables with a line for each row as it is: their title, columns, line and text.
PLAIN = {
    "reading": (
        "Reading photographs at 224 px",
        "pictures | first epoch, a second: ours, torchvision's, times | later | machine",
        "{pictures} | {first_epoch_per_s}, {theirs_first}, **{times_first}** | "
        "{later_epochs_per_s}, {theirs_later}, **{times_later}** | {machine}",
    ),
    "reading-small": (
        "Many small pictures",
        "pictures | first time, s | again, s | private memory at most, MB | machine",
        "{pictures:,.0f} | {seconds} | {seconds_again} | {private_peak_mb} | {machine}",
    ),
    "shards": (
        "Tar shards",
        "px | pictures | converted | ours | webdataset | ImageFolder + DataLoader | times "
        "webdataset | times ImageFolder | machine",
        "{px} | {pictures:,.0f} | {converted_per_s:,.0f} | **{ours_per_s:,.0f}** | "
        "{webdataset_per_s:,.0f} | {torchvision_per_s:,.0f} | {times_webdataset} | "
        "{times_torchvision} | {machine}",
        "Pictures a second, nothing decoded beforehand: ours streams the shards, `webdataset` "
        "reads the same ones through a DataLoader, `ImageFolder` the files they were made of.",
    ),
    "lake": (
        "A lake of pictures",
        "pictures | one process with one core, pictures a second | one with both | two ranks, a "
        "core each | two ranks over one with one core | machine",
        "{pictures:,.0f} | {one_of_half_a_second} | {one_a_second} | **{two_a_second}** | "
        "{two_over_one_of_half} | {machine}",
    ),
    "explaining": (
        "Heat maps",
        "net | px | pictures | map | insertion − deletion ± standard error | machine",
        "{net} | {imgsz} | {n} | {map} | **{insertion_minus_deletion}** ± {standard_error} | "
        "{machine}",
        "Area under the probability as pixels come, hottest first (insertion), minus the same as "
        "they go (deletion; Petsiuk et al. 2018); higher is better.",
    ),
    "lesson": (
        "The lesson, plain and ours",
        "mini-batches | plain script, s | recipe `tutorial`, s | times faster | machine",
        "{steps} | {plain_seconds} | {tutorial_seconds} | **{times_faster}** | {machine}",
    ),
}


def accuracy() -> str:
    """Mean and spread over the seeds of each recipe."""
    lines = []
    groups = grouped(read("accuracy"), "recipe", "settings", "machine", "epochs")
    for (recipe, settings, machine, epochs), rows in groups.items():
        first, values = rows[0], percentages(rows, "test_accuracy")
        training = statistics.median(numbers(rows, "training_seconds"))
        command = statistics.median(numbers(rows, "command_seconds"))
        lines.append(
            f"{f'`{recipe}` {settings}'.strip()} | {first['model']}, {epochs} | "
            f"{int(first['train_pictures']):,} | {len(rows)} | "
            f"**{mean_and_deviation(rows, 'test_accuracy')}** "
            f"({min(values):.2f} to {max(values):.2f}) | {training:.0f} | {command:.0f} | "
            f"{machine}, {first['precision']} ({first['bf16']})"
        )
    return section(
        "Accuracy (`accuracy.csv`)",
        "recipe | net, epochs | trained on | seeds | test accuracy, mean ± deviation (lowest to "
        "highest) | seconds of training, median | seconds of the command, median | machine",
        lines,
    )


def longtail() -> str:
    """Every value of ``--balance`` on the long-tailed CIFAR-10, and what ``auto`` gains."""
    return section(
        "Unbalanced classes (`longtail.csv`)",
        "net | `--balance` | balanced accuracy | worst class found | log loss | epochs | seeds",
        (
            f"{model} | `{balance}` | **{mean_and_deviation(rows, 'balanced_accuracy')}** | "
            f"{100 * mean(rows, 'worst_recall'):.1f} % | {mean(rows, 'log_loss'):.3f} | "
            f"{rows[0]['epochs']} | {len(rows)}"
            for (model, balance), rows in grouped(read("longtail"), "model", "balance").items()
        ),
        "Recipe `fast`, trained on 12,406 pictures, 5,000 of the first class down to 50 of the "
        "last (a tenth of them held out), tested on CIFAR-10's own 10,000. `auto` is "
        "`logit-adjust` here.",
    )


def promises() -> str:
    """What was promised of answers and sets, and how often it was kept."""
    rows = read("promises")
    for row in rows:
        row["broken"] = f"{row['broken']} of {row['splits']}" if row["broken"] else "–"
    return section_of(
        "promises",
        "Promises",
        "run | promise | splits | share that held the true class, or was right | answered | "
        "broken in",
        "`{run}` | {promise} | {splits} | {mean_share:.2%} | {answered:.2%} | {broken}",
        "Test pictures split in two by chance, again and again: one half gives the promise, the "
        "other shows whether it was kept. Each promise of errors may be broken in 5 % of the "
        "splits.",
        rows=rows,
    )


def finetune() -> str:
    """Ants and bees: what is trained after the probe, mean over the seeds."""
    lines = []
    for (tune,), rows in grouped(read("finetune"), "tune").items():
        columns = (percentages(rows, name) for name in ("difference_to_probe", "low", "high"))
        more = ("{:+.1f} ({:+.1f} to {:+.1f})".format(*one) for one in zip(*columns, strict=True))
        seconds = numbers(rows, "process_seconds")
        lines.append(
            f"{tune} | {len({row['seed'] for row in rows})} | {mean_and_range(rows, 'accuracy')} | "
            f"{'–' if tune == 'none' else '; '.join(dict.fromkeys(more))} | "
            f"{statistics.mean(seconds):.0f} ({max(seconds):.0f}) | {rows[0]['machine']}"
        )
    return section(
        "Few photographs (`finetune.csv`: ants and bees, 153 test photographs)",
        "trained after the probe | seeds | test accuracy, mean (lowest to highest) | points more "
        "than the probe, 95 % interval | whole command, s, mean (longest) | machine",
        lines,
    )


def audit() -> str:
    """What audits found and how long they took."""
    rows = read("audit")
    for row in rows:
        shares = [Cell(row[f"wrong_of_{n}"]) for n in (1000, 3000, 5000)]
        row["wrong"] = ", ".join(f"{share:.1%}" for share in shares if share) or "–"
    return section_of(
        "audit",
        "Audits",
        "data | whole command, s | test pictures with a copy in train | suspect labels | truly "
        "wrong of the first 1,000, 3,000, 5,000 | machine",
        "`{data}` | {seconds} | {across_splits} | {suspects} | {wrong} | {machine}",
        rows=rows,
    )


def cleaned() -> str:
    """Nets trained on a noisy table, and on the same as an audit cleaned it."""
    return section(
        "Training on cleaned labels (`cleaned.csv`)",
        "table | labels | net, epochs | seeds | accuracy on CIFAR-10's test set, mean (lowest to "
        "highest) | machine",
        (
            f"`{data}` | {labels} | {rows[0]['model']}, {rows[0]['epochs']} | {len(rows)} | "
            f"{mean_and_range(rows, 'accuracy')} | {rows[0]['machine']}"
            for (data, labels), rows in grouped(read("cleaned"), "data", "labels").items()
        ),
    )


def exporting() -> str:
    """Pictures a second of exported models."""
    return section_of(
        "exporting",
        "Exported models",
        "net | px | threads | pictures | runs on | pictures a second (lowest to highest) | "
        "times eager | MB | machine",
        "{model} | {imgsz} | {threads} | {batch} | {runs_on} | **{pictures_a_second:,.0f}** "
        "({lowest:,.0f} to {highest:,.0f}) | {times_eager} | {mb} | {machine}",
        "Pictures a second from ready pixels to probabilities; medians of measurements in turn.",
        rows=[row | {"mb": f"{int(row['bytes']) / 1e6:.1f}"} for row in read("exporting")],
    )


def serving() -> str:
    """What the server stands."""
    latencies = section(
        "The server (`load.csv`, `load-soak.csv`)",
        "plain FastAPI handler, pictures a second | ours | times | at 70 %: p99, ms (50) | at four "
        "times: p99 accepted, ms (100) | p99 refused, ms (50) | slowest liveness, ms (100) | "
        "memory, MiB (1,536) | machine",
        by_row(
            read("load"),
            "{plain_per_second} | **{capacity_per_second}** | {times_plain} | "
            "{p99_ms_at_70_percent} | {p99_ms_accepted_at_4_times} | {p99_ms_refused_at_4_times} | "
            "{slowest_ms_alive_at_4_times} | {peak_mib} | {machine}",
        ),
        "An open-loop client (h2load, a connection a request) on the same two cores; one JPEG of "
        "CIFAR-10 a request; net `wide32`, 32 px. Capacity: the most pictures answered a second, "
        "at whatever rate they are offered. In brackets the target.",
    )
    mixed = by_row(
        read("load-soak"),
        "{minutes:g} minutes of good, bad and hostile clients at once (`--soak`): {answers:,.0f} "
        "answers (status and count: {statuses}), **{answers_5xx} of them 5xx**, liveness within "
        "{slowest_ms_alive} ms, {peak_mib} MiB at most ({machine}).",
    )
    return "\n\n".join([latencies, *mixed])


def nothing_lost() -> str:
    """Kills, damaged pictures, and what checkpoints cost."""
    fuzzed = [row | {"largest": row["largest"].partition(" {")[0]} for row in read("fuzz")]
    return section(
        "Nothing lost (`soak.csv`, `fuzz.csv`, `saving.csv`)",
        "what | how often | outcome | target | command | machine",
        [
            *by_row(
                read("soak"),
                "`kill -9` of a training, resumed | {kills:,.0f} kills of {runs} runs | "
                "**{mismatches} runs** not bit-identical | 0 | `{command}` | {machine}",
            ),
            *by_row(
                fuzzed,
                "damaged pictures, seed {seed} | {pictures:,.0f} | {read:,.0f} read, "
                "{refused:,.0f} refused; slowest {slowest_s} s; the largest allowed ({largest}) "
                "{largest_s} s; {largest_mib:,.0f} MiB | no crash, 2 s, 1,536 MiB | `{command}` | "
                "{machine}",
            ),
            *by_row(
                read("saving"),
                "checkpoints of `{recipe}` on {data} ({model}, {megabytes} MB each) | "
                "{checkpoints} in {seconds} s | **{share:.2%}** of the time; at most "
                "{longest_gap_s} s between two | 2 %, 60 s | `{command}` | {machine}",
            ),
        ],
    )


def lesson_limits() -> str:
    """The lesson's net trained longer, and trained otherwise."""
    return section_of(
        "lesson-limits",
        "The lesson's net, longer and otherwise",
        "recipe | epoch | of | training pictures right | test pictures right",
        "`{recipe}` | {epoch} | {epochs} | {train_accuracy:.1%} | **{test_accuracy:.1%}**",
        "All 50,000 pictures, one seed; the test pictures are looked at after every epoch, none is "
        "chosen. The rate of `tutorial` is constant, so that each of its rows is also the end of a "
        "run of that length; it was stopped after the eighth of twelve epochs. What the lesson's "
        "page printed: [lesson-page.md](lesson-page.md).",
        rows=[
            row for row in read("lesson-limits") if row["epoch"] in ("1", "5", "8", row["epochs"])
        ],
    )


def plain(name: str) -> str:
    """One of the tables above."""
    return section_of(name, *PLAIN[name])


def main() -> None:
    """Write the page."""
    parts = [
        HEAD, targets(), race(), accuracy(), longtail(), promises(), finetune(), plain("reading"),
        plain("reading-small"), audit(), cleaned(), exporting(), serving(), plain("shards"),
        plain("lake"), SCALING, plain("explaining"), nothing_lost(), plain("lesson"),
        lesson_limits(),
    ]  # fmt: skip
    (RESULTS / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
