"""What more ranks would give: a model of the time of a step, fitted to what two ranks measured.

    python -m bench.simulate_scale

reads ``results/scaling.csv`` and ``results/reading.csv`` and writes the tables of
``docs/scaling.md`` and ``docs/scaling.zh-CN.md``. A step takes what computing takes, and then waits

    exchanges × latency × log2(ranks)    for batch norms, and for each bucket of gradients
    + what is left of the gradients      when the backward pass is over

Small exchanges go by recursive doubling (Thakur, Rabenseifner & Gropp 2005); of gradients, each
rank sends and receives 2 (ranks − 1) / ranks times their bytes (Patarasuk & Yuan 2009). They go in
buckets, one after the other while the backward pass computes those before, and the last one when it
is over (Li et al. 2020). Nets with batch norms compute longer by a share of their time, since norms
over ranks are not torch's own.
"""

import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from bench.rows import Rows, read
from bench.scaling import BURST
from bench.tables import table
from eyebright.metrics import Floats

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"en": DOCS / "scaling.md", "zh": DOCS / "scaling.zh-CN.md"}
PICTURES, JPEG_BYTES, EPOCHS = 1_281_167, 110_000, 90
"""ImageNet's training pictures (Russakovsky et al. 2015), what one takes, and how often it is seen
(He et al. 2016)."""
GRADIENT_BYTES, EXCHANGES = 4 * 25_557_032, 2 * 53 + 1
"""Of torchvision's ResNet-50: its weights; its batch norms, two exchanges each."""
GPU = 3000.0
"""Pictures a second of one GPU that trains ResNet-50 in bf16: assumed."""
HOP = 10e-6
"""Seconds from one GPU to another and back into a kernel: assumed."""
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20
"""Bytes of gradients that torch's DistributedDataParallel sends at once."""
BACKWARD = 2 / 3
"""Of computing."""
MACHINE = 8
INSIDE = 360e9
"""Bytes a second between GPUs of a machine: assumed, 80 % of NVLink 4."""
NETWORKS = {"400 Gbit/s / GPU": 0.8 * 50e9, "100 Gbit/s / 8 GPUs": 0.8 * 12.5e9 / 8}
"""Bytes a second of a GPU between machines: assumed."""
LARGEST_BATCH = 8192
"""Pictures a step up to which ResNet-50 loses no accuracy (Goyal et al. 2017)."""


@dataclass(frozen=True)
class Link:
    """What was fitted."""

    latency: float
    """Seconds of an exchange of a few numbers between two ranks."""
    share: float
    """Of the link's nominal speed."""
    copying: float
    """Bytes a second, however fast the link."""
    norms: float
    """Share of computing that norms over ranks add."""

    def seconds(self, row: dict[str, str]) -> float:
        """Of a step of two ranks."""
        compute, sent = float(row["compute_ms"]) / 1e3, float(row["gradient_bytes"])
        travel = sent / self.copying
        if row["link_mbit_per_s"]:
            travel += max(0.0, sent - BURST) / (
                self.share * float(row["link_mbit_per_s"]) * 125_000
            )
        number = float(row["exchanges_per_step"])
        norms = self.norms * compute if number > 2 else 0.0
        exchanges = (number + buckets(sent)) * self.latency
        return compute + norms + exchanges + left_over(sent, travel, compute)


def buckets(sent: float) -> int:
    """How many pieces DistributedDataParallel sends gradients in: a small one, then large ones."""
    return 1 + max(0, math.ceil((sent - FIRST_BUCKET) / BUCKET))


def left_over(sent: float, travel: float, compute: float) -> float:
    """Seconds that gradients still travel when the backward pass is over.

    Args:
        sent: their bytes.
        travel: seconds that all of them take.
        compute: seconds of both passes.
    """
    last = min(1.0, BUCKET / sent)
    return max(last * travel, travel - (1 - last) * BACKWARD * compute)


def fit_link(rows: Rows) -> Link:
    """The link that explains the steps best, by relative error."""
    measured: Floats = np.array([float(row["two_ranks_ms"]) / 1e3 for row in rows])

    def errors(logs: Floats) -> Floats:
        link = link_of(logs)
        return np.array([link.seconds(row) for row in rows], np.float64) / measured - 1.0

    return link_of(least_squares(errors, np.log([1e-3, 0.9, 1e9, 0.1]), loss="soft_l1").x)


def link_of(logs: Floats) -> Link:
    """From the logarithms of its numbers, which are positive."""
    latency, share, copying, norms = np.exp(logs).tolist()
    return Link(latency, min(1.0, share), copying, norms)


def misses(link: Link, rows: Rows) -> list[float]:
    """How far it is off at each step, in percent."""
    return [100 * abs(1000 * link.seconds(r) / float(r["two_ranks_ms"]) - 1) for r in rows]


def latest(rows: Rows) -> Rows:
    """The last row of each net, batch and link; computing takes the same, whatever the link."""
    keys = ("model", "batch_per_rank", "link_mbit_per_s")
    found = list({tuple(row[key] for key in keys): row for row in rows}.values())

    def compute(of: dict[str, str]) -> float:
        alike = [row for row in found if all(row[key] == of[key] for key in keys[:2])]
        return statistics.median(float(row["compute_ms"]) for row in alike)

    return [row | {"compute_ms": str(compute(row))} for row in found]


def measured_table(rows: Rows, words: dict[str, str]) -> str:
    """What two ranks measured, and what the model says of it."""
    link = fit_link(rows)
    lines = []
    for row in rows:
        speed = row["link_mbit_per_s"]
        lines.append(
            f"{row['model']}, {row['batch_per_rank']} | {speed or words['unlimited']} | "
            f"{int(row['gradient_bytes']) / 1e6:.2f} | {float(row['exchanges_per_step']):.0f} | "
            f"{float(row['one_rank_ms']):.0f} | {float(row['compute_ms']):.0f} | "
            f"**{float(row['two_ranks_ms']):.0f}** | {1e3 * link.seconds(row):.0f} | "
            f"**{100 * float(row['efficiency']):.0f} %**"
        )
    return table(words["measured"], lines)


def fitted_line(rows: Rows, words: dict[str, str]) -> str:
    """The numbers of the model, and how far off it is where it was not fitted."""
    link = fit_link(rows)
    speeds = dict.fromkeys(row["link_mbit_per_s"] for row in rows)
    unseen: list[float] = []
    for speed in speeds:
        others = [row for row in rows if row["link_mbit_per_s"] != speed]
        unseen += misses(fit_link(others), [r for r in rows if r["link_mbit_per_s"] == speed])
    said = {
        "latency": 1e3 * link.latency, "share": 100 * link.share, "copying": link.copying / 1e6,
        "norms": 100 * link.norms, "n": len(rows),
        "median": statistics.median(misses(link, rows)), "most": max(misses(link, rows)),
        "median_unseen": statistics.median(unseen), "most_unseen": max(unseen),
    }  # fmt: skip
    return words["fitted"].format(**said)


def step_on_gpus(gpus: int, a_gpu: int, network: float) -> dict[str, float]:
    """Seconds of a step of ResNet-50, by its parts, and what it asks of the pictures."""
    compute = a_gpu / GPU
    speed = INSIDE if gpus <= MACHINE else min(INSIDE, network)
    travel = 2 * (gpus - 1) / gpus * GRADIENT_BYTES / speed
    norms = (EXCHANGES + buckets(GRADIENT_BYTES)) * HOP * math.log2(gpus)
    gradients = left_over(GRADIENT_BYTES, travel, compute)
    step = compute + norms + gradients
    rate = gpus * a_gpu / step
    return {
        "compute": compute, "norms": norms, "gradients": gradients, "step": step, "rate": rate,
        "efficiency": compute / step, "hours": EPOCHS * PICTURES / rate / 3600,
    }  # fmt: skip


def gpu_table(words: dict[str, str]) -> str:
    """8, 64 and 512 GPUs on pictures as many as ImageNet's."""
    decoded, cached = photographs_a_core()
    lines = []
    for gpus in (8, 64, 512):
        networks = NETWORKS if gpus > MACHINE else {"NVLink": INSIDE}
        for a_gpu in dict.fromkeys((256, max(1, min(256, LARGEST_BATCH // gpus)))):
            for name, network in networks.items():
                at = step_on_gpus(gpus, a_gpu, network)
                lines.append(
                    f"{gpus} | {name} | {gpus * a_gpu:,} | {1e3 * at['compute']:.1f} | "
                    f"{1e3 * at['norms']:.1f} | {1e3 * at['gradients']:.1f} | "
                    f"**{100 * at['efficiency']:.0f} %** | **{at['hours']:.2f}** | "
                    f"{at['rate'] * JPEG_BYTES / 1e9:.1f} | {at['rate'] / decoded:,.0f} | "
                    f"{at['rate'] / cached:,.0f}"
                )
    return table(words["gpus"], lines)


def photographs_a_core() -> tuple[float, float]:
    """Pictures a second that a core decodes, and that it reads once they are decoded."""
    row = [row for row in read("reading") if "distinct" in row["pictures"]][-1]
    cores = int(re.findall(r"(\d+) cores", row["machine"])[-1])
    return float(row["first_epoch_per_s"]) / cores, float(row["later_epochs_per_s"]) / cores


WORDS = {
    "en": {
        "unlimited": "not limited",
        "measured": "net, pictures a rank | link, Mbit/s | gradients, MB | exchanges a step | "
        "one rank, ms | computing beside another, ms | two ranks, ms | the model says | "
        "efficiency",
        "fitted": "Fitted to these {n} steps: an exchange takes {latency:.1f} ms, norms over "
        "ranks add {norms:.0f} % to computing, gradients travel at {share:.0f} % of the link's "
        "nominal speed and are copied at {copying:,.0f} MB/s. It is off by "
        "{median:.0f} % (median), at most {most:.0f} %; where a link's speed was left out of the "
        "fit, by {median_unseen:.0f} % (median), at most {most_unseen:.0f} %.",
        "gpus": "GPUs | link between machines | pictures a step | computing, ms | norms, ms | "
        "gradients not hidden, ms | efficiency | hours for 90 epochs | JPEG, GB/s | cores that "
        "decode | cores that read decoded pictures",
    },
    "zh": {
        "unlimited": "不限",
        "measured": "网络，每进程图片数 | 链路，Mbit/s | 梯度，MB | 每步交换次数 | 单进程，ms | "
        "两进程各算各的，ms | 两进程协同，ms | 模型预测，ms | 效率",
        "fitted": "对这 {n} 种情形拟合的结果：两进程间一次交换需 {latency:.1f} ms，"
        "跨进程的归一化使计算增加 {norms:.0f} %，梯度以链路标称速度的 {share:.0f} % 传输，"
        "复制速度 {copying:,.0f} MB/s。"
        "误差中位数 {median:.0f} %，最大 {most:.0f} %；把某一链路速度排除在拟合之外再去预测它，"
        "误差中位数 {median_unseen:.0f} %，最大 {most_unseen:.0f} %。",
        "gpus": "GPU 数 | 机器间链路 | 每步图片数 | 计算，ms | 归一化交换，ms | "
        "未被掩盖的梯度传输，ms | 效率 | 90 轮所需小时 | JPEG，GB/s | "
        "解码所需核数 | 读取已解码图片所需核数",
    },
}


def tables(language: str) -> dict[str, str]:
    """Each table of the page, by its name."""
    rows, words = latest(read("scaling")), WORDS[language]
    return {
        "measured": f"{measured_table(rows, words)}\n\n{fitted_line(rows, words)}",
        "gpus": gpu_table(words),
    }


def put_tables(text: str, language: str) -> str:
    """A page with its tables made anew, each between two comments that name it."""
    for name, made in tables(language).items():
        mark = f"<!-- {name} -->"
        before, _, after = text.split(mark)
        text = f"{before}{mark}\n{made}\n{mark}{after}"
    return text


def main() -> None:
    """Write the tables into both pages."""
    for language, page in PAGES.items():
        text = put_tables(page.read_text(encoding="utf-8"), language)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
