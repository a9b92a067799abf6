"""The samples in an export of frames."""

import json
import tarfile
from pathlib import Path


def samples(folder: Path) -> tuple[dict[int, bytes], dict[int, dict]]:
    """Images and rows of all tars by id, without captions. Checks that no id occurs twice."""
    pictures: dict[int, bytes] = {}
    rows: dict[int, dict] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                key, ending = info.name.split(".", 1)
                if ending == "txt":
                    continue
                number = int(key, 16)
                signed = number - 2**64 if number >= 2**63 else number
                target = rows if ending == "faceq.json" else pictures
                assert signed not in target
                content = tar.extractfile(info).read()
                target[signed] = json.loads(content) if ending == "faceq.json" else content
    return pictures, rows
