"""Every word of the review page, in English and Chinese. The English text is the key."""

import re

from eyebright.audit import findings

LANGUAGES = ("en", "zh")

CHINESE: dict[str, str] = {
    "Review": "复核",
    "{i} of {n}": "第 {i} 张，共 {n} 张",
    "{n} decided": "已决定 {n} 张",
    "dark or light": "深色或浅色",
    "perhaps a wrong label": "标签可能有误",
    "perhaps a duplicate": "可能重复",
    "perhaps a bad picture": "图片可能有问题",
    "given label": "现有标签",
    "suggested label": "建议标签",
    "score": "得分",
    "its twin": "与之相同的图片",
    "keep": "保留",
    "take suggestion": "采纳建议",
    "drop": "删去",
    "drop the twin": "删去另一张",
    "undo": "撤销",
    "back": "上一张",
    "on": "下一张",
    "relabel as": "改为",
    "another class": "其他类别",
    "type a part of its name": "输入名称的一部分",
    "no such class": "没有这个类别",
    "cancel": "取消",
    "kept": "已保留",
    "dropped": "已删去",
    "now: {label}": "改为：{label}",
    "not decided": "未决定",
    "undone": "已撤销",
    "nothing to undo": "没有可撤销的",
    "labelled {label}": "标为 {label}",
    "This picture cannot be read.": "这张图片无法读取。",
    "This finding suggests no other label.": "这里没有建议的标签。",
    "There is nothing to review.": "没有需要复核的内容。",
    "All of them are decided. No picture is deleted: commands leave out or relabel what {table} "
    "says, where they are given it with --labels.": (
        "全部已决定。没有图片被删除：用 --labels 指定 {table} 后，各命令会按其略去图片或更改标签。"
    ),
    "Not saved: {why}": "未保存：{why}",
    "nothing answers; is the command still running?": "没有应答；命令还在运行吗？",
    "another review was started; reload this page": "已启动另一次复核；请重新加载本页",
    "Every decision is in {table} before the next picture comes.": (
        "每个决定都在下一张出现之前写入 {table}。"
    ),
    "pictures": "图片",
    "main": "主要内容",
}

# What findings say, with the values that stand in them; the last are of `eyebright.images`.
NOTES = {
    findings.NEVER_SAW: "没见过它的模型认为：{sure} % 是 {guess}，{less} % 是 {given}",
    findings.SAME: "{part} 中有完全相同的图片",
    findings.ALMOST: "{part} 中有几乎相同的图片",
    findings.TINY: "太小：{width}×{height} 像素",
    findings.LONG: "太狭长：{width}×{height} 像素",
    findings.BLANK: "空白：通体一色",
    findings.DARK: "太暗：99 % 的像素低于 {of}（最亮为 255）",
    findings.BRIGHT: "太亮：95 % 的像素高于 {of}（最亮为 255）",
    "damaged ({why})": "已损坏（{why}）",
    "damaged or cut short ({why})": "已损坏或不完整（{why}）",
    "the file is empty": "文件是空的",
    "no picture in a format that is read ({formats})": "不是可读格式的图片（{formats}）",
}
NUMBER = re.compile(r"\\\{(\w+):[^}]*\\\}")  # these as they stand in an escaped text
VALUE = re.compile(r"\\\{(\w+)\\\}")


def note(text: str, language: str) -> str:
    """What a finding says, in a language; as it is where that is not known.

    Args:
        text: of `Finding.note`.
        language: one of `LANGUAGES`.
    """
    if language == "zh":
        for english, chinese in NOTES.items():
            pattern = NUMBER.sub(r"(?P<\1>\\d+)", re.escape(english))
            pattern = VALUE.sub(r"(?P<\1>.+)", pattern)
            if found := re.fullmatch(pattern, text, re.DOTALL):
                return chinese.format(**found.groupdict())
    return text


def words(language: str) -> dict[str, str]:
    """The page's texts in a language, by their English.

    Args:
        language: one of `LANGUAGES`.
    """
    return CHINESE if language == "zh" else {english: english for english in CHINESE}
