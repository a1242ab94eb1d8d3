"""Change exported folders as one who changes them on purpose would: with the right checksum."""

from __future__ import annotations

import json
from pathlib import Path

from videomem.inference.exported_folder import CONFIG, PREPROCESSOR, checksum_of_json


def sign(folder: Path) -> None:
    """Write the checksum of the JSON files, if they have one."""
    config, preprocessor = (json.loads((folder / name).read_text()) for name in (CONFIG, PREPROCESSOR))
    if isinstance(config, dict) and isinstance(config.get("checksum"), int):
        config["checksum"] = checksum_of_json(config, preprocessor)
        (folder / CONFIG).write_text(json.dumps(config))
