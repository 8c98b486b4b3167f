"""The drawings of the essay on cross-entropy, in English and in Chinese, and its real example.

    python docs/figures.py
    python docs/figures.py --run runs/cifar10-fast --picture cifar10-folder/train/cat/13941.jpg

The first draws ``docs/cross-entropy/*.svg``; the same numbers give the same files. The second asks
a trained run about one picture before that: it keeps what was said in ``run.json``, the picture
beside it, and puts the output into both pages. Words in an SVG stay words, so that a reader's own
fonts show them, Chinese too.
"""

import argparse
import csv
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOCS = Path(__file__).parent
FOLDER = DOCS / "cross-entropy"
FACTS = FOLDER / "run.json"
PAGES = {"en": DOCS / "cross-entropy.md", "zh": DOCS / "cross-entropy.zh-CN.md"}
OUTPUT = re.compile(r"(?<=```text\n)\$ eyebright explain .*?(?=```)", re.DOTALL)
CLASSES, SMOOTHING, CATS = 10, 0.2, 0.7
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#555555"  # Okabe and Ito's
CHINESE = dict(
    zip(
        "airplane automobile bird cat deer dog frog horse ship truck".split(),
        "飞机 汽车 鸟 猫 鹿 狗 青蛙 马 船 卡车".split(),
        strict=True,
    )
)

Floats = NDArray[np.float64]
Words = dict[str, str]
WORDS: dict[str, dict[str, Words]] = {
    "softargmax": {
        "en": {
            "title": "argmax jumps and is flat elsewhere; softargmax slides",
            "x": "logit of “cat” (the others stay at 1 and −1)",
            "y": "what “cat” gets",
            "hard": "argmax",
            "soft": "softargmax",
            "cold": "softargmax of 4 × logits",
        },
        "zh": {
            "title": "argmax 会跳变，别处都是平的；softargmax 平滑过渡",
            "x": "“猫”的 logit（另外两个固定为 1 和 −1）",
            "y": "“猫”得到的份额",
            "hard": "argmax",
            "soft": "softargmax",
            "cold": "4 × logits 的 softargmax",
        },
    },
    "minus-log": {
        "en": {
            "title": "Each time the probability is halved, the loss grows by the same 0.69",
            "x": "probability that the net gives to the true class, %",
            "y": "loss −log p, nats",
            "guess": "(a guess among ten)",
        },
        "zh": {
            "title": "概率每减半一次，损失都增加同样的 0.69",
            "x": "网络给真实类别的概率，%",
            "y": "损失 −log p，nat",
            "guess": "（十类里瞎猜）",
        },
    },
    "twice": {
        "en": {
            "title": "A softmax in front of the loss keeps it above 1.46",
            "x": "lead of the true class's logit over the nine others",
            "y": "loss, nats",
            "once": "logits into cross-entropy",
            "twice": "softmax, then cross-entropy",
            "floor": "log(e + 9) − 1 = 1.461",
        },
        "zh": {
            "title": "前面多加一个 softmax，损失永远降不到 1.46 以下",
            "x": "真实类别的 logit 比其余九个高出多少",
            "y": "损失，nat",
            "once": "logits 直接进交叉熵",
            "twice": "先 softmax，再交叉熵",
            "floor": "log(e + 9) − 1 = 1.461",
        },
    },
    "gradient": {
        "en": {
            "title": "Where the net is surely wrong, only cross-entropy still pulls",
            "x": "lead of the true class's logit over the nine others",
            "y": "pull on that logit (gradient)",
            "cross": "cross-entropy: 1 − p",
            "square": "squared error of the softmax",
            "wrong": "surely wrong",
            "right": "surely right",
        },
        "zh": {
            "title": "网络错得很自信时，只有交叉熵还在拉它",
            "x": "真实类别的 logit 比其余九个高出多少",
            "y": "对该 logit 的拉力（梯度大小）",
            "cross": "交叉熵：1 − p",
            "square": "softmax 的平方误差",
            "wrong": "自信地答错",
            "right": "自信地答对",
        },
    },
    "distance": {
        "en": {
            "title": "Of pictures that are cats in 70 % of cases, the best answer is 70 %",
            "x": "probability of “cat” that the model answers, %",
            "y": "mean loss, nats",
            "cross": "cross-entropy",
            "entropy": "entropy of the truth: 0.611, out of any model's reach",
            "distance": "KL: the distance\nto the truth",
        },
        "zh": {
            "title": "如果这类图片有 70 % 是猫，最好的回答就是 70 %",
            "x": "模型回答“猫”的概率，%",
            "y": "平均损失，nat",
            "cross": "交叉熵",
            "entropy": "真实分布的熵：0.611，任何模型都消不掉",
            "distance": "KL：与真实\n分布的距离",
        },
    },
    "smoothing": {
        "en": {
            "title": "With smoothed labels, being surer than 82 % costs",
            "x": "lead of the true class's logit over the nine others",
            "y": "loss, nats",
            "plain": "one-hot label",
            "smooth": "label smoothing 0.2",
            "best": "least: 0.867, at a lead of 3.71 (82 %)",
        },
        "zh": {
            "title": "标签平滑之后，把握超过 82 % 反而要付代价",
            "x": "真实类别的 logit 比其余九个高出多少",
            "y": "损失，nat",
            "plain": "one-hot 标签",
            "smooth": "标签平滑 0.2",
            "best": "最小值 0.867，在高出 3.71（82 %）处",
        },
    },
    "temperature": {
        "en": {
            "title": "One number takes the log loss from {before:.3f} to {after:.3f}",
            "x": "temperature that the logits are divided by (log scale)",
            "y": "log loss, nats ({n:,} held out)",
            "one": "as trained: T = 1",
            "best": "least at T = {temperature:.3f}",
        },
        "zh": {
            "title": "一个数就把对数损失从 {before:.3f} 降到 {after:.3f}",
            "x": "除 logits 的温度（对数刻度）",
            "y": "对数损失，nat（{n:,} 张留出图片）",
            "one": "训练结束时：T = 1",
            "best": "最小值在 T = {temperature:.3f}",
        },
    },
    "picture": {
        "en": {
            "title": "A cat taken for a dog: logits, softmax, and with temperature",
            "logits": "logit",
            "softmax": "probability, %",
            "plain": "softmax",
            "warm": "at T = {temperature:.3f}",
        },
        "zh": {
            "title": "一只被认成狗的猫：logits、softmax，以及加上温度之后",
            "logits": "logit",
            "softmax": "概率，%",
            "plain": "softmax",
            "warm": "T = {temperature:.3f}",
        },
    },
}


def log_softmax(logits: Floats) -> Floats:
    """Of the last axis, by its largest, so that nothing overflows."""
    lower = logits - logits.max(-1, keepdims=True)
    found: Floats = lower - np.log(np.exp(lower).sum(-1, keepdims=True))
    return found


def with_lead(leads: Floats) -> Floats:
    """Logits (n, classes) whose first, the true class's, leads the others by so much."""
    logits = np.zeros((len(leads), CLASSES))
    logits[:, 0] = leads
    return logits


def plot(axes: Any, name: str, x: Floats, y: Floats, colour: str, **style: Any) -> None:
    """A line with a name in the file, by which a test finds its points again."""
    axes.plot(x, y, color=colour, linewidth=2, gid=f"data-{name}", **style)


def begin(words: Words) -> tuple[Any, Any]:
    """A figure with its title, and axes that say what they show."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.7))
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.15, top=0.87)
    figure.text(0.02, 0.94, words["title"], fontsize=12.5, fontweight="bold")
    finish(axes, words["x"], words["y"])
    return figure, axes


def finish(axes: Any, x: str, y: str) -> None:
    """Axes with units, a light grid and no frame."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e2e6eb", linewidth=0.8)
    axes.set_axisbelow(True)


def note(axes: Any, text: str, at: tuple[float, float], colour: str, **style: Any) -> None:
    """Words beside a line, in its colour."""
    axes.text(*at, text, color=colour, fontsize=10.5, **style)


def softargmax(words: Words, facts: dict[str, Any]) -> Any:
    """The jump of argmax and its smooth forms, as one logit grows."""
    figure, axes = begin(words)
    x = np.linspace(-4, 6, 201)
    logits = np.stack([x, np.ones_like(x), -np.ones_like(x)], 1)
    axes.set_ylim(-0.06, 1.08)
    axes.axhline(0, color=GREY, linewidth=0.6)
    step = np.array([-4, 1, 1, 6.0])
    plot(axes, "hard", step, np.array([0, 0, 1, 1.0]), GREY, linestyle="--")
    plot(axes, "cold", x, np.exp(log_softmax(4 * logits))[:, 0], ORANGE)
    plot(axes, "soft", x, np.exp(log_softmax(logits))[:, 0], BLUE)
    note(axes, words["soft"], (-1.0, 0.22), BLUE, ha="right")
    note(axes, words["cold"], (1.7, 0.55), ORANGE)
    axes.annotate("", (1.12, 0.62), (1.65, 0.58), arrowprops={"arrowstyle": "-", "color": ORANGE})
    note(axes, words["hard"], (0.85, 0.93), GREY, ha="right")
    return figure


def minus_log(words: Words, facts: dict[str, Any]) -> Any:
    """The loss of the true class's probability, with some to remember."""
    figure, axes = begin(words)
    p = np.geomspace(0.008, 1, 200)
    plot(axes, "loss", 100 * p, -np.log(p), BLUE)
    axes.set_xlim(-2, 108)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_ylim(-0.15, 5.1)
    for percent, tail in ((1, ""), (10, f" {words['guess']}"), (25, ""), (50, ""), (90, "")):
        loss = -math.log(percent / 100)
        axes.plot(percent, loss, "o", color=ORANGE, markersize=6)
        note(axes, f"{percent} %: {loss:.2f}{tail}", (percent + 1.8, loss + 0.12), GREY)
    return figure


def twice(words: Words, facts: dict[str, Any]) -> Any:
    """What a second softmax does to the loss."""
    figure, axes = begin(words)
    leads = np.linspace(-4, 12, 161)
    logits = with_lead(leads)
    plot(axes, "once", leads, -log_softmax(logits)[:, 0], BLUE)
    plot(axes, "twice", leads, -log_softmax(np.exp(log_softmax(logits)))[:, 0], ORANGE)
    floor = math.log(math.e + CLASSES - 1) - 1
    axes.axhline(floor, color=GREY, linewidth=1, linestyle="--")
    axes.set_ylim(0, 6.4)
    note(axes, words["once"], (-2.4, 5.0), BLUE)
    note(axes, words["twice"], (4.6, 1.66), ORANGE)
    note(axes, words["floor"], (12, 1.08), GREY, ha="right")
    return figure


def gradient(words: Words, facts: dict[str, Any]) -> Any:
    """The pull on the true class's logit under two losses."""
    figure, axes = begin(words)
    leads = np.linspace(-10, 10, 201)
    p = np.exp(log_softmax(with_lead(leads)))
    short = p - np.eye(CLASSES)[0]
    square = 2 * (short * p * (np.eye(CLASSES)[0] - p[:, :1])).sum(1)
    plot(axes, "square", leads, np.abs(square), ORANGE)
    plot(axes, "cross", leads, -short[:, 0], BLUE)
    axes.set_ylim(-0.04, 1.12)
    axes.set_xticks([-10, -5, 0, 5, 10])
    note(axes, words["cross"], (-9.8, 1.04), BLUE)
    note(axes, words["square"], (-2.2, 0.1), ORANGE, ha="right")
    note(axes, f"← {words['wrong']}", (-9.8, 0.5), GREY)
    note(axes, f"{words['right']} →", (9.8, 0.5), GREY, ha="right")
    return figure


def distance(words: Words, facts: dict[str, Any]) -> Any:
    """Cross-entropy as entropy and a distance on top of it."""
    figure, axes = begin(words)
    p = np.linspace(0.05, 0.99, 189)
    cross = -(CATS * np.log(p) + (1 - CATS) * np.log(1 - p))
    entropy = float(-(CATS * math.log(CATS) + (1 - CATS) * math.log(1 - CATS)))
    axes.fill_between(100 * p, entropy, cross, color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(entropy, color=GREY, linewidth=1, linestyle="--")
    plot(axes, "cross", 100 * p, cross, BLUE)
    axes.plot(100 * CATS, entropy, "o", color=ORANGE, markersize=8)
    axes.set_ylim(0.3, 2.2)
    axes.set_xlim(0, 100)
    note(axes, words["cross"], (16, 1.45), BLUE)
    note(axes, words["distance"], (8, 0.76), BLUE)
    note(axes, words["entropy"], (2, 0.47), GREY)
    return figure


def smoothing(words: Words, facts: dict[str, Any]) -> Any:
    """The loss with and without label smoothing."""
    figure, axes = begin(words)
    leads = np.linspace(-1, 12, 131)
    log_p = log_softmax(with_lead(leads))
    target = np.full(CLASSES, SMOOTHING / CLASSES)
    target[0] += 1 - SMOOTHING
    plot(axes, "plain", leads, -log_p[:, 0], BLUE)
    plot(axes, "smooth", leads, -(log_p @ target), ORANGE)
    best = math.log(target[0] / target[1])
    axes.plot(best, -(target * np.log(target)).sum(), "o", color=ORANGE, markersize=8)
    axes.set_ylim(0, 3.4)
    note(axes, words["plain"], (6.2, 0.12), BLUE)
    note(axes, words["smooth"], (8.3, 1.75), ORANGE, ha="right")
    note(axes, words["best"], (3.9, 0.55), GREY)
    return figure


def temperature(words: Words, facts: dict[str, Any]) -> Any:
    """The log loss of a real run's held out pictures at other temperatures."""
    chosen, curve = facts["chain"]["temperature"], facts["curve"]
    numbers = {"before": facts["before"], "after": facts["after"], "temperature": chosen}
    words = {key: text.format(n=facts["n"], **numbers) for key, text in words.items()}
    figure, axes = begin(words)
    axes.set_xscale("log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    axes.minorticks_off()
    plot(axes, "curve", np.array(curve["temperatures"]), np.array(curve["losses"]), BLUE)
    axes.plot(1, facts["before"], "o", color=GREY, markersize=8)
    axes.plot(chosen, facts["after"], "o", color=ORANGE, markersize=8)
    note(axes, words["one"], (1.06, facts["before"] - 0.05), GREY)
    note(axes, words["best"], (chosen, facts["after"] - 0.1), ORANGE, ha="center")
    axes.set_ylim(0.6, 1.8)
    return figure


def picture(words: Words, facts: dict[str, Any]) -> Any:
    """The picture of the real example, its logits and its probabilities."""
    import matplotlib.pyplot as plt
    from PIL import Image

    chain = facts["chain"]
    classes = list(chain["logits"])
    names = [CHINESE[c] for c in classes] if words is WORDS["picture"]["zh"] else classes
    figure = plt.figure(figsize=(7.2, 3.7))
    figure.text(0.02, 0.94, words["title"], fontsize=12.5, fontweight="bold")
    shown = figure.add_axes((0.02, 0.2, 0.28, 0.6))
    shown.imshow(Image.open(FOLDER / "cat.jpg"), interpolation="nearest")
    shown.axis("off")
    left = figure.add_axes((0.46, 0.14, 0.21, 0.73))
    right = figure.add_axes((0.7, 0.14, 0.27, 0.73))
    y = np.arange(len(classes))
    left.barh(y, list(chain["logits"].values()), color=GREY)
    left.set_yticks(y, names)
    true = classes.index(chain["label"])
    left.get_yticklabels()[true].set_fontweight("bold")
    columns = (("softmax", BLUE, "plain", -0.2), ("calibrated", ORANGE, "warm", 0.2))
    for key, colour, name, offset in columns:
        shares = 100 * np.array(list(chain[key].values()))
        right.barh(y + offset, shares, 0.4, color=colour)
        text = words[name].format(temperature=chain["temperature"])
        note(right, text, (100, 7.2 + 2 * offset), colour, ha="right")
    right.set_yticks(y, [])
    right.set_xlim(0, 100)
    for axes, label in ((left, words["logits"]), (right, words["softmax"])):
        finish(axes, label, "")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
    return figure


FIGURES: dict[str, Callable[[Words, dict[str, Any]], Any]] = {
    "softargmax": softargmax,
    "minus-log": minus_log,
    "twice": twice,
    "gradient": gradient,
    "distance": distance,
    "smoothing": smoothing,
    "temperature": temperature,
    "picture": picture,
}
SETTINGS: Any = {
    "svg.fonttype": "none",  # words, not outlines
    "svg.hashsalt": "eyebright",  # the same names of parts each time
    "font.size": 10.5,
    "axes.edgecolor": GREY,
    "axes.unicode_minus": True,
}


def draw(folder: Path = FOLDER) -> list[Path]:
    """Draw every figure in both languages, on white, so that dark pages show them too."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    paths = []
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        # Readers have the fonts; that the drawing machine lacks Chinese ones is no matter.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        for name, make in FIGURES.items():
            for language, words in WORDS[name].items():
                figure = make(words, facts)
                tail = "" if language == "en" else f"-{language}"
                paths.append(folder / f"{name}{tail}.svg")
                figure.savefig(paths[-1], facecolor="white", metadata={"Date": None})
                plt.close(figure)
    return paths


def ask(run: Path, shown: Path) -> None:
    """Keep what a run says of a picture, and what temperatures do to its pictures held out."""
    from eyebright import Run
    from eyebright.cli.chain import as_row
    from eyebright.loss_chain import explain_loss

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
    for page in PAGES.values():
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
    from eyebright.cli.chain import chain_table, closing_lines, headline
    from eyebright.config import TrainConfig
    from eyebright.console import out
    from eyebright.loss_chain import LossChain

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
    """Draw, after asking a run if one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run on CIFAR-10, tested")
    parser.add_argument("--picture", type=Path, help="in a folder that its class is called by")
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.picture is None):
        parser.error("--run and --picture go together")
    if arguments.run is not None:
        ask(arguments.run, arguments.picture)
    for path in draw():
        print(path)


if __name__ == "__main__":
    main()
