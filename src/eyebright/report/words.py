"""Every word of the report, in English and Chinese. The English text is the key."""

from collections.abc import Callable

LANGUAGES = ("en", "zh")

CHINESE: dict[str, str] = {
    "Report of the run": "训练报告",
    "accuracy on one test picture": "一张测试图片上的准确率",
    "accuracy on one picture held out": "一张留出图片上的准确率",
    "accuracy on {n} test pictures": "{n} 张测试图片上的准确率",
    "accuracy on {n} pictures held out": "{n} 张留出图片上的准确率",
    "95 % interval: {low} to {high}": "95 % 区间：{low} 至 {high}",
    "not evaluated yet: nothing was held out, and the test set has not been opened": (
        "尚未评估：没有留出图片，测试集也未打开"
    ),
    "averaged with mirror images": "与镜像图片取平均",
    "data": "数据",
    "pictures to train on": "训练图片",
    "classes": "类别",
    "recipe": "配方",
    "net": "网络",
    "epochs": "轮数",
    "training": "训练用时",
    "{seconds} s": "{seconds} 秒",
    "Read this first": "请先阅读",
    "Nothing suspicious was found.": "没有发现可疑之处。",
    "Of the pictures it was evaluated on, {count} stood among those trained on too, pixel for "
    "pixel: its figures are too good.": (
        "评估图片中有 {count} 张与训练图片逐像素相同：这些数字偏高。"
    ),
    "The average hides a class: {name} is found in only {figure} of its {n} pictures.": (
        "平均值掩盖了一个类别：{name} 的 {n} 张图片中只有 {figure} 被认出。"
    ),
    "Runs in this folder have looked at this test set {count} times: if they are chosen by it, "
    "expect less on new pictures.": (
        "此文件夹中的训练已查看该测试集 {count} 次：若据此挑选模型，在新图片上会更差。"
    ),
    "Probabilities are uncalibrated: nothing was held out to calibrate them with.": (
        "概率未经校准：没有留出可用于校准的图片。"
    ),
    "These pictures have other shares of classes than those trained on: what is promised need not "
    "hold for them.": ("这些图片的类别比例与训练图片不同：所作承诺对它们未必成立。"),
    "Only {n} pictures: look at the intervals, not at the figures.": (
        "只有 {n} 张图片：请看区间，而不是数值。"
    ),
    "These pictures also chose the best epoch.": "这些图片也用于挑选最佳轮次。",
    "These pictures also chose the best epoch; the test set has not been opened.": (
        "这些图片也用于挑选最佳轮次；测试集尚未打开。"
    ),
    "The largest class has {ratio} times as many pictures as the smallest ({balance}).": (
        "最大类别的图片数是最小类别的 {ratio} 倍（{balance}）。"
    ),
    "It was trained to answer as if all classes were equally frequent, and its probabilities are "
    "meant for that.": ("它被训练成如同所有类别同样常见那样作答，其概率也以此为准。"),
    "The pictures could not be read again, so none are shown.": "无法再次读取图片，因此不显示。",
    "Whether it was trained on any of these pictures is not known any more.": (
        "已无法得知这些图片中是否有用于训练的。"
    ),
    "Is it better than something simple?": "比简单方法好吗？",
    "What needs no net: naming the largest class every time, and a linear regression on 8 by 8 "
    "colours": ("不需要网络的方法：每次都说最大的类别，以及对 8×8 个颜色值的线性回归"),
    "this model": "本模型",
    "always the largest class": "总是最大的类别",
    "linear probe on pixels": "像素上的线性分类器",
    "How it learned": "学习过程",
    "epoch": "轮次",
    "training loss": "训练损失",
    "validation accuracy, %": "验证准确率，%",
    "Figures": "数值",
    "figure": "指标",
    "value (95 % interval)": "数值（95 % 区间）",
    "accuracy": "准确率",
    "balanced accuracy": "平衡准确率",
    "top-5 accuracy": "前五准确率",
    "log loss": "对数损失",
    "Brier score": "布赖尔分数",
    "calibration error": "校准误差",
    "calibration error before temperature": "校准前的校准误差",
    "Class by class": "逐个类别",
    "precision": "精确率",
    "Share of each class's pictures that were found, with 95 % intervals, of how many": (
        "每个类别被认出的图片比例，附 95 % 区间与图片数"
    ),
    "What is taken for what": "什么被当成了什么",
    "Rows: the true class; columns: what the model said. Click a number to see the pictures.": (
        "行：真实类别；列：模型的回答。点击数字查看图片。"
    ),
    "true: {truth}, predicted: {guess}": "真实：{truth}，预测：{guess}",
    "pictures shown: {shown} of {count}": "{count} 张图片中的 {shown} 张",
    "Surest mistakes": "最有把握的错误",
    "Wrong labels are often found here first.": "错误的标签往往最先在这里出现。",
    "In colour: what spoke for the answer given ({method}). It says where, not why, and is no "
    "proof that nothing else mattered.": (
        "彩色部分：支持所给答案的依据（{method}）。它只说明在哪里，不说明为什么，"
        "也不能证明其他地方无关紧要。"
    ),
    "what spoke for the answer given": "支持所给答案的依据",
    "HiResCAM": "HiResCAM 方法",
    "integrated gradients": "积分梯度",
    "Least sure": "最没有把握",
    "Can its probabilities be believed?": "它的概率可信吗？",
    "probability of the answer, %": "回答的概率，%",
    "share that was right, %": "正确的比例，%",
    "calibrated": "校准后",
    "before": "校准前",
    "perfect": "理想",
    "temperature {value}, fitted on the pictures held out": "温度 {value}，由留出图片拟合",
    "If it may say “not sure”": "如果允许它说“不确定”",
    "share answered, %": "回答的比例，%",
    "errors among the answers, %": "回答中的错误，%",
    "It answers {answered} of pictures, right on at least {right} % of those, with 95 % confidence "
    "(from {n} pictures held out).": (
        "它回答 {answered} 的图片，其中至少 {right} % 正确，置信度 95 %（依据 {n} 张留出图片）。"
    ),
    "Here: it answered {answered}, right on {right} of those {n}.": (
        "在此：它回答了 {answered}，这 {n} 张中 {right} 正确。"
    ),
    "Nothing is promised: too few pictures were held out, or none, or too many answers are "
    "wrong.": ("不作承诺：留出的图片太少或没有，或答错太多。"),
    "Sets of classes are to hold the true one {share} % of the time.": (
        "类别集合应有 {share} % 的时候包含真实类别。"
    ),
    "Here: they hold it for {held} of the pictures, with {size} classes on average; {empty} are "
    "empty, which means “not sure”.": (
        "在此：{held} 的图片其集合包含真实类别，平均 {size} 个类别；{empty} 为空集，即“不确定”。"
    ),
    "the most errors promised": "所承诺的最多错误",
    "observed here": "在此观察到的",
    "tested on": "测试数据",
    "The largest mistakes; click a number to see the pictures.": ("最多的错误；点击数字查看图片。"),
    "true class": "真实类别",
    "taken for": "被当成",
    "lowest third": "最低三分之一",
    "middle third": "中间三分之一",
    "highest third": "最高三分之一",
    "size": "尺寸",
    "unchanged": "未改变",
    "Parts of the unchanged pictures": "未改变图片的各部分",
    "{n} of the test pictures, with 95 % intervals": "{n} 张测试图片，附 95 % 区间",
    "pictures": "图片数",
    "F1": "F1 分数",
    "In brackets: 95 % intervals; after the slash: how many pictures it is counted over": (
        "括号内为 95 % 区间；斜线之后是计算所依据的图片数"
    ),
    "On changed pictures": "在改变过的图片上",
    "One picture after every change, above the accuracy on pictures changed like it": (
        "同一张图片经过每种改变，下方是同样改变的图片上的准确率"
    ),
    "strength, from weak to strong": "强度，由弱到强",
    "accuracy, %": "准确率，%",
    "brightness": "亮度",
    "contrast": "对比度",
    "noise": "噪声",
    "blur": "模糊",
    "jpeg": "JPEG 压缩",
    "rotation": "旋转",
    "shift": "平移",
    "How to do it again": "如何重现",
    "command": "命令",
    "seed": "随机种子",
    "fingerprint of the data": "数据指纹",
    "decisions on labels": "标签决定",
    "interrupted": "中断",
    "gone on with exactly after step {step}": "在第 {step} 步之后精确地继续",
    "gone on with after step {step}, not exactly: see env.json": (
        "在第 {step} 步之后继续，但并非精确：见 env.json"
    ),
    "As {table} says, {dropped} of its pictures were left out and {relabelled} relabelled: its "
    "figures are not those of the data as they came.": (
        "按 {table} 的决定，略去了 {dropped} 张图片，{relabelled} 张改了标签："
        "这些数字不是原始数据的。"
    ),
    "versions": "版本",
    "machine": "机器",
    "Search over settings": "设置搜索",
    "Trial after trial": "逐次试验",
    "What is far below the others lies on the lower edge. Given up early: its best epoch so far.": (
        "远低于其他试验的点画在下边缘。提前放弃的：到那时为止最好的一轮。"
    ),
    "On fresh seeds": "在新的随机种子上",
    "Each dot is a run of its own, judged on pictures that the search never looked at": (
        "每个点是一次单独的训练，在搜索从未看过的图片上评判"
    ),
    "Which setting mattered": "哪个设置重要",
    "Each dot is a trial that was trained to its end; all settings change at once, so a single "
    "picture says little where trials are few": (
        "每个点是一次训练到底的试验；所有设置同时变化，试验少时单看一张图说明不了多少"
    ),
    "The best trials": "最好的试验",
    "trial": "试验",
    "trials": "试验数",
    "On the pictures that the search looks at: the best of many looks too good": (
        "在搜索所看的图片上：许多次中最好的一次看起来偏好"
    ),
    "given up early": "提前放弃",
    "failed": "失败",
    "pictures that the search looks at": "搜索所看的图片",
    "pictures kept for the verdict": "留作最后评判的图片",
    "the recipe’s own": "配方自带的设置",
    "winner": "胜出者",
    "best so far": "至今最好",
    "trained to the end": "训练到底",
    "There is no trial with a figure yet.": "还没有得出数字的试验。",
    "Keep the recipe": "保留配方",
    "No trial was better than the recipe’s own settings.": "没有试验比配方自带的设置更好。",
    "Not judged on fresh seeds yet: the best of many trials looks better than it is.": (
        "尚未在新的随机种子上评判：许多次试验中最好的一次看起来比实际好。"
    ),
    "{points} points, the winner against the recipe’s own settings, on {seeds} fresh seeds and "
    "{n} pictures that the search never looked at.": (
        "胜出者与配方自带的设置相差 {points} 个百分点，依据 {seeds} 个新的随机种子和搜索从未看过的 "
        "{n} 张图片。"
    ),
    "One seed has no interval, and gives no verdict.": "一个随机种子没有区间，也得不出结论。",
    "Search helped": "搜索有帮助",
    "Search did harm": "搜索反而有害",
    "No gain that stands out from chance": "没有超出偶然的提升",
    "It counts seeds and pictures.": "区间同时计入随机种子和图片。",
    "It counts pictures.": "区间只计入图片。",
    "It counts seeds.": "区间只计入随机种子。",
    "Counting seeds alone, on these very pictures: {low} to {high}.": (
        "只计入随机种子、就这些图片而言：{low} 至 {high}。"
    ),
    "In the search it was {points} points ahead: the best of many trials is partly luck.": (
        "在搜索中它高 {points} 个百分点：许多次试验中最好的一次有一部分是运气。"
    ),
    "dark or light": "深色或浅色",
}


def translator(language: str) -> Callable[..., str]:
    """A function from English text, with values for its braces, to text in a language.

    Args:
        language: one of `LANGUAGES`.
    """

    def translate(text: str, **values: object) -> str:
        chinese = CHINESE[text]  # a text that nobody has translated is a KeyError in any language
        return (chinese if language == "zh" else text).format(**values)

    return translate
