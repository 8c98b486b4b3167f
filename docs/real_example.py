"""The real example of the essay on cross-entropy: what a trained run says of one picture.

    python -m docs.real_example runs/cifar10-fast cifar10-folder/train/cat/13941.jpg
    python -m docs.figures

Keeps what was said in ``cross-entropy/run.json``, the picture beside it, and puts the output into
both pages; the figures then show the same numbers.
"""

import argparse
import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from docs.figures import DOCS, FACTS, FOLDER, Floats, log_softmax
from eyebright import Run
from eyebright.cli.chain import as_row, chain_table, closing_lines, headline
from eyebright.config import TrainConfig
from eyebright.console import out
from eyebright.loss_chain import LossChain, explain_loss

PAGES = [DOCS / "cross-entropy.md", DOCS / "cross-entropy.zh-CN.md"]
OUTPUT = re.compile(r"(?<=```text\n)\$ eyebright explain .*?(?=```)", re.DOTALL)


def ask(run: Path, shown: Path) -> None:
    """Keep what a run says of a picture, and what temperatures do to its pictures held out."""
    opened = Run(run)
    classifier = opened.classifier("cpu")
    chain = explain_loss(classifier, shown, shown.absolute().parent.name)
    counts = opened.data_record["counts"]
    config, epoch = opened.config, classifier.card.epoch
    assert chain.temperature is not None, "runs with pictures held out have one"
    logits, truth = held_out_logits(run / "predictions-val.csv", chain.temperature)

    def loss_at(t: float) -> float:
        return float(-log_softmax(logits / t)[np.arange(len(truth)), truth].mean())

    tested = json.loads((run / "test.json").read_text(encoding="utf-8"))["figures"]
    temperatures = np.geomspace(0.25, 4, 81).round(4).tolist()
    name = f"{shown.absolute().parent.name}/{shown.name}"
    row = as_row(Path(name), chain, config, epoch, list(counts.values()))
    facts = {
        "picture": name,
        "config": json.loads(config.to_json()),
        "epoch": epoch,
        "counts": counts,
        "tta": classifier.card.tta,
        "n": len(truth),
        "before": loss_at(1),
        "after": loss_at(chain.temperature),
        "calibration error before": tested["calibration error before temperature"]["value"],
        "calibration error after": tested["calibration error"]["value"],
        "curve": {"temperatures": temperatures, "losses": [loss_at(t) for t in temperatures]},
        "chain": row,
    }
    shutil.copyfile(shown, FOLDER / "cat.jpg")
    FACTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(OUTPUT.sub(lambda _: output(facts), text), encoding="utf-8")


def held_out_logits(predictions: Path, t: float) -> tuple[Floats, NDArray[np.int64]]:
    """What a run said of pictures held out, as logits (but for a constant), and their classes.

    Args:
        predictions: ``predictions-val.csv``, whose probabilities are calibrated.
        t: the temperature that they were calibrated with.
    """
    with predictions.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    classes = header[3:]
    probabilities = np.array([[float(cell) for cell in row[3:]] for row in rows])
    return t * np.log(probabilities), np.array([classes.index(row[1]) for row in rows])


def output(facts: dict[str, Any]) -> str:
    """What ``eyebright explain --loss`` prints of the real example, 80 columns wide."""
    row, name = facts["chain"], Path(facts["picture"])
    logits = np.array(list(row["logits"].values()))
    chain = LossChain(tuple(row["logits"]), logits, row["label"], row["temperature"])
    config = TrainConfig.from_json(json.dumps(facts["config"]))
    counts = list(facts["counts"].values())
    width, out.width = out.width, 80
    try:
        with out.capture() as captured:
            out.print(headline(name, chain, named=False), soft_wrap=True)
            out.print(chain_table(chain))
            for line in closing_lines(chain, config, facts["epoch"], counts, facts["tta"]):
                out.print(line, soft_wrap=True)
    finally:
        out.width = width
    lines = re.sub(r"\x1b\[[\d;]*m", "", captured.get())  # bold, where this is a terminal
    return f"$ eyebright explain runs/cifar10-fast {name} --loss\n{lines}"


def main() -> None:
    """Ask the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="on CIFAR-10, tested")
    parser.add_argument("picture", type=Path, help="in a folder that its class is called by")
    arguments = parser.parse_args()
    ask(arguments.run, arguments.picture)


if __name__ == "__main__":
    main()
