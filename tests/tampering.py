"""What an enemy, or a broken disk, does to the files of a run."""

import json
from pathlib import Path
from typing import Any

from eyebright.checkpoint import CARD, digest_of


def change_card(run: Path, **changes: Any) -> None:
    """Change entries of ``model.json`` (KeyError: remove them), and give it the sum that suits."""
    content = json.loads((run / CARD).read_text()) | changes
    content = {k: v for k, v in content.items() if v is not KeyError and k != "sha256"}
    (run / CARD).write_text(json.dumps(content | {"sha256": digest_of(content)}))
