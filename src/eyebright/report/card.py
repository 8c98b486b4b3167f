"""`model_card`: what model hubs read about a model."""

import json
from typing import Any

from eyebright.checkpoint import load_card
from eyebright.console import counted, shown
from eyebright.evaluation import Evaluation
from eyebright.run import Run
from eyebright.wording import notes, warnings, with_n


def model_card(run: Run, evaluation: Evaluation | None) -> str:
    """A model card as model hubs read it: YAML, then Markdown (Mitchell et al. 2019)."""
    record, config, card = run.data_record, run.config, load_card(run.path)
    name = shown(run.path.name)
    head: dict[str, Any] = {
        "library_name": "eyebright",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "pytorch", "safetensors"],
        "model_name": name,
    }
    body = [
        f"# {name}",
        f"An image classifier with {len(card.classes)} classes, trained with eyebright's recipe "
        f"`{config.recipe}` (net `{shown(card.architecture)}`, pictures of {card.imgsz} px).",
        "## Classes\n\n" + ", ".join(cell(c) for c in card.classes),
        "## Training data\n\n"
        f"{shown(record['name'])}: {counted(len(record['splits']['train']), 'picture')}, "
        f"{len(record['splits']['val']):,} held out, fingerprint `{record['fingerprint']}`.",
    ]
    if evaluation is not None:
        metrics_of = [
            {"type": name, "value": figure.value}
            for name, figure in evaluation.figures.items()
            if figure.value is not None
        ]
        head["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": shown(evaluation.data or record["name"]),
                            "type": "image",
                            "split": evaluation.split,
                        },
                        "metrics": metrics_of,
                    }
                ],
            }
        ]
        rows = [
            f"| {name} | {f.percent() if name.endswith('accuracy') else f.decimal()} | {f.n:,} |"
            for name, f in evaluation.figures.items()
        ]
        table = ["| figure | value (95 % interval) | pictures |", "|---|---|---|", *rows]
        per_class = [
            f"| {cell(c)} | {' | '.join(with_n(f[k]) for k in ('recall', 'precision', 'f1'))} |"
            for c, f in evaluation.per_class().items()
        ]
        titles = "| class | recall, % | precision, % | F1, % |"
        of_classes = [titles, "|---|---|---|---|", *per_class]
        what = "Test set" if evaluation.split == "test" else "Pictures held out"
        about = "; ".join(
            [f"{what}: {cell(evaluation.data or record['name'])}", *notes(evaluation)]
        )
        known = "calibrated" if evaluation.temperature is not None else "uncalibrated"
        limits = (*warnings(evaluation), f"Probabilities are {known}.")
        warned = [f"- {cell(line)}" for line in limits]
        body += [
            "## Limitations\n\n" + "\n".join(warned),
            f"## Evaluation\n\n{about}.\n\n" + "\n".join(table),
            "\n".join(of_classes),
        ]
    body.append(
        "## How to use\n\n```python\nimport eyebright\n\n"
        f'classifier = eyebright.Classifier.load("{name}")\n'
        'print(classifier.predict(["picture.jpg"])[0])\n```'
    )
    # JSON is YAML, and has no surprises in its strings.
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    return f"---\n{yaml}\n---\n\n" + "\n\n".join(body) + "\n"


def cell(text: str) -> str:
    """A name in a table of Markdown, where bars and angle brackets would mean something."""
    return shown(text).replace("|", "\\|").replace("<", "&lt;")
