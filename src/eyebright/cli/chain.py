"""What `explain --loss` prints: the loss of a picture, from logits to one number."""

import json
import math
from pathlib import Path
from typing import Any

from eyebright.console import as_text, counted, out, progress_bar, say, shown, waiting_for
from eyebright.errors import UsageError

MOST_TABLES = 20  # pictures whose chains are printed; --json has no limit
MOST_ROWS = 12  # classes in a table; of more, the likeliest are shown


def explain_losses(
    run: Path, pictures: list[Path], label: str | None, as_json: bool, device: str
) -> None:
    """Print the chain of each picture, and the mean loss of those whose true class is known."""
    waiting_for("looking at the pictures")
    from eyebright.data.folders import list_pictures
    from eyebright.loss_chain import explain_loss
    from eyebright.run import Run

    paths = list_pictures(pictures)
    if len(paths) > MOST_TABLES and not as_json:
        raise UsageError(
            f"{len(paths):,} pictures are too many to follow (at most {MOST_TABLES}); name fewer, "
            "or have all as --json"
        )
    opened = Run(run)
    classifier = opened.classifier(device)
    training = (opened.config, classifier.card.epoch, list(opened.data_record["counts"].values()))
    chains = []
    with progress_bar("computing losses", len(paths)) as bar:
        for path in paths:
            truth = label if label is not None else folder_class(path, classifier.classes)
            chains.append(explain_loss(classifier, path, truth))
            bar.advance()
    if as_json:
        rows = [as_row(path, chain, *training) for path, chain in zip(paths, chains, strict=True)]
        print(json.dumps(rows, indent=2))
        return
    for path, chain in zip(paths, chains, strict=True):
        say(headline(path, chain, label is not None))
        out.print(chain_table(chain))
        for line in closing_lines(chain, *training, classifier.card.tta):
            say(line)
        say("")
    losses = [chain.loss for chain in chains if chain.loss is not None]
    if len(losses) > 1:
        say(f"mean loss of {len(losses)} pictures: {sum(losses) / len(losses):.4f}")


def folder_class(picture: Path, classes: tuple[str, ...]) -> str | None:
    """The class that the folder of a picture is called by, if it is one."""
    name = picture.absolute().parent.name
    return name if name in classes else None


def headline(picture: Path, chain: Any, named: bool) -> str:
    """What the picture is, and what the model says of it, as `predict` has it.

    Args:
        picture: its file.
        chain: a `LossChain`.
        named: whether somebody said the class, and not the folder.
    """
    given = chain.probabilities if chain.calibrated is None else chain.calibrated
    said = f"the model says {shown(chain.prediction)}, {100 * given.max():.1f} %"
    if chain.label is None:
        folder = shown(picture.absolute().parent.name)
        return (
            f"{shown(picture)}: {said}; its folder '{folder}' is no class, so here is the loss for "
            "each that might be true (or say --label)"
        )
    source = "as --label says" if named else "as its folder is called"
    return f"{shown(picture)}: {shown(chain.label)}, {source}; {said}"


def chain_table(chain: Any) -> Any:
    """A row for each class, a column for each link, and their sums.

    Args:
        chain: a `LossChain`.
    """
    from rich.table import Table

    table = Table(show_footer=True)
    table.add_column("class", "sum", overflow="fold", max_width=24)
    columns = ["logit", "softmax", "log-\nsoftmax"]
    sums = ["", f"{chain.probabilities.sum():.4f}", ""]
    if chain.label is None:
        columns.append("loss if it\nwere this")
        sums.append("")
    else:
        columns += ["one-hot", "−one-hot ×\nlog-softmax"]
        sums += ["1", f"{chain.loss:.4f}"]
    if chain.calibrated is not None:
        columns.append(f"softmax,\nT = {chain.temperature:.3f}")
        sums.append(f"{chain.calibrated.sum():.4f}")
    for title, total in zip(columns, sums, strict=True):
        table.add_column(title, total, justify="right")
    rows = shown_rows(chain)
    for i in rows:
        name = chain.classes[i]
        style = "bold" if name == chain.label else None
        table.add_row(shown(name), *_cells(chain, i), style=style)
    if left := len(chain.classes) - len(rows):
        table.add_row(counted(left, "other"), *_cells_of_others(chain, rows), style="dim")
    return table


def shown_rows(chain: Any) -> list[int]:
    """Which classes have a row: all, in the order of the logits; of many, the likeliest."""
    if len(chain.classes) <= MOST_ROWS:
        return list(range(len(chain.classes)))
    rows = [int(i) for i in (-chain.logits).argsort(kind="stable")[: MOST_ROWS - 2]]
    if chain.label is not None and (true := chain.classes.index(chain.label)) not in rows:
        rows.append(true)
    return rows


def _cells(chain: Any, i: int) -> list[str]:
    cells = [f"{chain.logits[i]:.4f}", _share(chain.probabilities[i])]
    cells.append(f"{chain.log_probabilities[i]:.4f}")
    if chain.label is None:
        cells.append(f"{chain.losses[i]:.4f}")
    else:
        true = chain.classes[i] == chain.label
        cells += ["1", f"{chain.loss:.4f}"] if true else ["0", "0"]
    if chain.calibrated is not None:
        cells.append(_share(chain.calibrated[i]))
    return cells


def _cells_of_others(chain: Any, rows: list[int]) -> list[str]:
    cells = ["", _share(1 - chain.probabilities[rows].sum()), ""]
    cells += [""] if chain.label is None else ["0", "0"]
    if chain.calibrated is not None:
        cells.append(_share(1 - chain.calibrated[rows].sum()))
    return cells


def _share(probability: float) -> str:
    """Four digits; of what would be zeros, its order of magnitude."""
    if 0 < probability < 0.00005:
        return f"{probability:.0e}"
    return f"{max(0.0, probability):.4f}"


def closing_lines(chain: Any, config: Any, epoch: int, counts: list[int], tta: str) -> list[str]:
    """The same in words: what was subtracted, what the loss means, what else the model does.

    Args:
        chain: a `LossChain`.
        config: the run's `TrainConfig`.
        epoch: whose weights the model has.
        counts: training pictures of each class.
        tta: test-time averaging.
    """
    k = len(chain.classes)
    lines = []
    if tta == "mirror":
        lines.append("logits: the mean of those of the picture and of its mirror image")
    lines.append(f"log-softmax = logit − log Σ exp(logit), here logit − {chain.log_sum_exp:.4f}")
    if chain.loss is not None:
        probability = _share(math.exp(-chain.loss))
        lines.append(
            f"loss: {chain.loss:.4f} nats = −log {probability}; a net that knows nothing has log "
            f"{k:,} = {math.log(k):.4f}"
        )
    if chain.temperature is not None:
        lines.append(_temperature_line(chain))
    return lines + training_lines(chain, config, epoch, counts)


def _temperature_line(chain: Any) -> str:
    effect = "surer" if chain.temperature < 1 else "less sure"
    line = f"temperature {chain.temperature:.3f}, fitted on pictures held out: the same answers, "
    line += effect
    if chain.calibrated_loss is not None:
        line += f"; with it the loss is {chain.calibrated_loss:.4f}"
    return line


def training_lines(chain: Any, config: Any, epoch: int, counts: list[int]) -> list[str]:
    """How the loss that the run was trained with differs from the one above.

    Args:
        chain: a `LossChain`.
        config: the run's `TrainConfig`.
        epoch: whose weights the model has.
        counts: training pictures of each class.
    """
    from eyebright.loss_chain import training_loss
    from eyebright.losses import class_weights

    if _is_regression(config, epoch):
        return ["trained with: this loss, by logistic regression of the last layer, with a penalty"]
    k, smoothing = len(counts), config.label_smoothing
    ways = {
        "logit-adjust": "the log of each class's share added to its logit",
        "focal": "focal loss, which hardly counts what is right and sure",
        "sampler": "pictures drawn so that all classes come equally often",
    }
    found = [ways[config.balance]] if config.balance in ways else []
    if smoothing and config.balance == "logit-adjust":
        found.append(f"label smoothing {smoothing:g}, spread by the classes' shares")
    elif smoothing and config.balance != "focal":
        share = smoothing / k
        found.append(
            f"label smoothing {smoothing:g}: the target is {1 - smoothing + share:.4g} for the "
            f"true class and {share:.4g} for each other"
        )
    import torch

    weights = class_weights(config.balance, torch.tensor(counts))
    if weights is not None and chain.label is not None:
        weight = float(weights[chain.classes.index(chain.label)])
        found.append(
            f"weights ({config.balance}): a picture of {shown(chain.label)} counts {weight:.3g} "
            "times in the mean"
        )
    elif weights is not None:
        found.append(f"weights ({config.balance}) of {weights.min():.3g} to {weights.max():.3g}")
    if not found:
        return ["trained with: this very loss"]
    line = f"trained with {'; '.join(found)}"
    changed = training_loss(chain, config, counts)
    if changed is not None and chain.loss is not None and abs(changed - chain.loss) > 5e-5:
        line += f"; that loss is {changed:.4f}"
    return [line]


def _is_regression(config: Any, epoch: int) -> bool:
    return bool(config.probe) and epoch == 0


def as_row(picture: Path, chain: Any, config: Any, epoch: int, counts: list[int]) -> dict[str, Any]:
    """The chain as JSON has it, without rounding.

    Args:
        picture: its file.
        chain: a `LossChain`.
        config: the run's `TrainConfig`.
        epoch: whose weights the model has.
        counts: training pictures of each class.
    """
    from eyebright.loss_chain import training_loss

    columns = {
        "logits": chain.logits,
        "softmax": chain.probabilities,
        "log_softmax": chain.log_probabilities,
        "one_hot": chain.one_hot,
        "losses": chain.losses,
        "calibrated": chain.calibrated,
    }
    by_class = {
        key: None if column is None else dict(zip(chain.classes, column.tolist(), strict=True))
        for key, column in columns.items()
    }
    regression = _is_regression(config, epoch)
    return {
        "picture": as_text(picture),
        "label": chain.label,
        "prediction": chain.prediction,
        **by_class,
        "log_sum_exp": chain.log_sum_exp,
        "loss": chain.loss,
        "temperature": chain.temperature,
        "calibrated_loss": chain.calibrated_loss,
        "label_smoothing": 0.0 if regression else config.label_smoothing,
        "balance": config.balance,
        "training_loss": chain.loss if regression else training_loss(chain, config, counts),
    }
