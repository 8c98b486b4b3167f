"""What stands in the drawings of `figures`: figure -> language -> part -> words.

Numbers in braces are those of the real example.
"""

WORDS: dict[str, dict[str, dict[str, str]]] = {
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
            "best": "least at T = {chain[temperature]:.3f}",
        },
        "zh": {
            "title": "一个数就把对数损失从 {before:.3f} 降到 {after:.3f}",
            "x": "除 logits 的温度（对数刻度）",
            "y": "对数损失，nat（{n:,} 张留出图片）",
            "one": "训练结束时：T = 1",
            "best": "最小值在 T = {chain[temperature]:.3f}",
        },
    },
    "picture": {
        "en": {
            "title": "A cat taken for a dog: logits, softmax, and with temperature",
            "logits": "logit",
            "softmax": "probability, %",
            "plain": "softmax",
            "warm": "at T = {chain[temperature]:.3f}",
            "classes": "airplane automobile bird cat deer dog frog horse ship truck",
        },
        "zh": {
            "title": "一只被认成狗的猫：logits、softmax，以及加上温度之后",
            "logits": "logit",
            "softmax": "概率，%",
            "plain": "softmax",
            "warm": "T = {chain[temperature]:.3f}",
            "classes": "飞机 汽车 鸟 猫 鹿 狗 青蛙 马 船 卡车",
        },
    },
}
