"""What the site has beyond the pages in docs/ (called by MkDocs, see mkdocs.yml).

The site is built from a folder made for it: docs/ as it is, the README as the home page, a page
for each verb, and whatever files of the repository these pages link to. So nothing is said twice,
and links are right both in the repository and on the site.
"""

import os
import posixpath
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parents[1]
HOMES = {"README.md": "index.md", "README.zh-CN.md": "index.zh-CN.md"}
# By browsers, or to be downloaded.
SHOWN = (".md", ".png", ".jpg", ".svg", ".html", ".ipynb", ".txt")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'(\]\(|src="|href=")([^)"#:]+)(?=[)"#])')
HAN = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
HAN_BREAK = re.compile(rf"(?<={HAN})\n *(?={HAN})")

# The words around a verb's help, which is English in both languages.
WORDS = {
    "": {"Verbs": "Verbs", "Example:": "Example:", "Arguments": "Arguments",
         "Options": "Options", "What": "What"},
    ".zh-CN": {"Verbs": "命令", "Example:": "例子：", "Arguments": "参数",
               "Options": "选项", "What": "说明（与 --help 相同）"},
}  # fmt: skip
CHINESE = {
    "look": "看图片", "audit": "检查数据", "convert": "转成分片", "train": "训练",
    "tune": "搜索设置", "val": "在留出的图片上评估", "test": "打开测试集", "report": "写报告",
    "compare": "比较训练结果", "runs": "列出训练结果", "doctor": "报告故障所需的信息",
    "predict": "预测", "embed": "提取特征", "explain": "解释", "export": "导出", "serve": "服务",
}  # fmt: skip


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the folder in the place of docs/, and the verbs into the navigation.

    Called once for each language; the first call does it for all.
    """
    if Path(config.docs_dir) == ROOT / "docs":
        folder = TemporaryDirectory(prefix="eyebright-site-")
        config.extra["folder"] = folder  # goes when the configuration goes
        collect(Path(folder.name))
        config.docs_dir = folder.name
        _list_verbs(config.nav)
    return config


def on_post_template(output: str, template_name: str, **_: Any) -> str:
    """Leave out the map of the site, whose addresses nobody knows before it has one."""
    return "" if template_name == "sitemap.xml" else output


def collect(folder: Path) -> None:
    """Write everything that the site is made of into an empty folder."""
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(ROOT / "docs", folder, dirs_exist_ok=True, ignore=ignored)
    for name, text in verb_pages().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    waiting = [*HOMES, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
    for page in waiting:  # grows on the way
        text, linked = with_links((ROOT / page).read_text(encoding="utf-8"), page)
        if page in HOMES:
            text = f"---\nhide: [navigation]\n---\n\n{text}"
        (folder / place(page)).parent.mkdir(parents=True, exist_ok=True)
        (folder / place(page)).write_text(text, encoding="utf-8")
        for name in linked:
            if name.endswith(".md"):
                waiting += [name] * (name not in waiting)
            elif not (folder / place(name)).exists():
                (folder / place(name)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / place(name))


def place(name: str) -> str:
    """Where a file of the repository lies in the folder of the site: code, too, as text to read.

    Of its name's dots the last is left, for the one before would begin a language.
    """
    name = HOMES.get(name, name.removeprefix("docs/"))
    return name if name.endswith(SHOWN) else f"{name.replace('.', '_')}.txt"


def with_links(text: str, page: str) -> tuple[str, list[str]]:
    """The text of a page with its links as the site needs them, and the files that it links to.

    Args:
        text: Markdown.
        page: its name in the repository, as ``docs/lesson.md``.
    """
    linked: list[str] = []

    def moved(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
        if not (ROOT / name).is_file():
            return match[0]  # MkDocs says what is wrong with it
        linked.append(name)
        return match[1] + os.path.relpath(place(name), posixpath.dirname(place(page)) or ".")

    chinese = page.endswith(".zh-CN.md")
    stem = page.removesuffix(".md").removesuffix(".zh-CN")
    other = posixpath.basename(stem) + (".md" if chinese else ".zh-CN.md")

    def mended(piece: str) -> str:
        # The site has a switch of languages, and browsers show a line's end as a space.
        piece = re.sub(rf"\s*\[[^\]]*\]\({re.escape(other)}\)", "", piece)
        return LINK.sub(moved, HAN_BREAK.sub("", piece))

    pieces, end = [], 0
    for code in FENCE.finditer(text):
        pieces += [mended(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join(pieces) + mended(text[end:]), linked


def verb_pages() -> dict[str, str]:
    """The pages of the verbs, in each language, and a list of them: name -> Markdown."""
    from typer.main import get_group

    from eyebright.cli import app

    pages = {}
    verbs: Mapping[str, Any] = get_group(app).commands
    for language, words in WORDS.items():
        rows = [f"# {words['Verbs']}", "", f"| | {words['What']} |", "|---|---|"]
        for name, verb in verbs.items():
            pages[f"verbs/{name}{language}.md"] = _verb_page(name, verb, language)
            rows.append(f"| [`{name}`]({name}{language}.md) | {_cell(verb.help)} |")
        pages[f"verbs/index{language}.md"] = "\n".join(rows) + "\n"
    return pages


def _verb_page(name: str, verb: Any, language: str) -> str:
    words = WORDS[language]
    title = f"# {name}" + (f"：{CHINESE[name]}" if language else "")
    arguments = [p for p in verb.params if p.param_type_name == "argument"]
    options = [p for p in verb.params if p.param_type_name == "option"]
    usage = " ".join(["eyebright", name, "[OPTIONS]", *(one.metavar for one in arguments)])
    lines = [title, "", verb.help, "", "```text", usage, "```", ""]
    lines += [words["Example:"], "", "```bash", verb.epilog.partition(": ")[2], "```", ""]
    context = verb.make_context(name, [], resilient_parsing=True)
    for heading, parameters in (("Arguments", arguments), ("Options", options)):
        rows = [one.get_help_record(context) for one in parameters]
        if rows:
            lines += [f"## {words[heading]}", "", f"| | {words['What']} |", "|---|---|"]
            lines += [f"| {_code(left)} | {_cell(right)} |" for left, right in rows] + [""]
    return "\n".join(lines)


def _code(left: str) -> str:
    """``--count, -n <int range>`` with its names as code."""
    names, _, kind = left.partition(" <")
    return f"`{names}`" + (f" {_cell('<' + kind)}" if kind else "")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _list_verbs(nav: Any) -> None:
    from eyebright.cli import VERBS

    for section in nav:
        pages = next(iter(section.values())) if isinstance(section, dict) else []
        if "verbs/index.md" in pages:
            at = pages.index("verbs/index.md") + 1
            pages[at:at] = [f"verbs/{verb.__name__}.md" for verb in VERBS]
