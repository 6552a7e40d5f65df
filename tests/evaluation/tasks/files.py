"""Files of hand-made rows."""

import json
from collections.abc import Sequence
from pathlib import Path


def write_rows(folder: Path, rows: Sequence[dict], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
