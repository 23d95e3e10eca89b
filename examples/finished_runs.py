"""Results of finished runs on disk: what was run once is not run again.

Each run is a small JSON file, named by what determines the run and holding it, so that no result
is ever taken for that of another run. Files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = dict[str, Any]


@dataclass(frozen=True)
class FinishedRuns:
    """The finished runs in one folder."""

    folder: Path

    def load(self, name: str, key: Key) -> dict[str, Any] | None:
        """Return the result of a run, or None if it is not there or not whole."""
        try:
            content = json.loads(self._file(name, key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(content, dict) and content.get("key") == _plain(key)
        return content["result"] if whole and "result" in content else None

    def save(self, name: str, key: Key, result: dict[str, Any]) -> None:
        """Keep the result of a run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "result": result}, indent=1)
        # Moved when complete: whoever is interrupted here leaves no half file under the name.
        descriptor, half = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".json")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        Path(half).replace(self._file(name, key))

    def _file(self, name: str, key: Key) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{name}-{digest[:12]}.json"


def _plain(key: Key) -> Key:
    """The key as it comes back from JSON, tuples as lists."""
    plain: Key = json.loads(json.dumps(key))
    return plain
