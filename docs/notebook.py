"""Makes a notebook of a page: ``docs/lesson.ipynb`` from ``docs/lesson.md``.

    python docs/notebook.py

Python blocks become cells of code, commands too, with the ``!`` by which a notebook calls the
shell; the text between them becomes cells of text. Output and pictures that the page shows are left
out: the notebook makes its own. Format: nbformat 4.5 (Jupyter's JSON), written by plain ``json``.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGES = {"lesson.md": "lesson.ipynb", "lesson.zh-CN.md": "lesson.zh-CN.ipynb"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n\n?", re.MULTILINE)


def cells_of(page: str) -> list[tuple[str, str]]:
    """The cells of a page's notebook: their type, ``markdown`` or ``code``, and their text."""
    cells, end = [], 0
    for block in BLOCK.finditer(page):
        cells.append(("markdown", PICTURE.sub("", page[end : block.start()])))
        language, code = block.groups()
        if language == "bash":
            code = "".join(f"!{line}\n" for line in code.splitlines())
        if language in ("python", "bash"):
            cells.append(("code", code))
        end = block.end()
    cells.append(("markdown", PICTURE.sub("", page[end:])))
    return [(kind, text.strip("\n")) for kind, text in cells if text.strip()]


def notebook_of(page: str) -> dict[str, Any]:
    """The notebook of a page, as Jupyter's JSON."""
    cells: list[dict[str, Any]] = []
    for i, (kind, text) in enumerate(cells_of(page)):
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{i}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write the notebooks."""
    for page, notebook in PAGES.items():
        made = notebook_of((DOCS / page).read_text(encoding="utf-8"))
        text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
        (DOCS / notebook).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
