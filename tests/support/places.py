"""Where things are: this clone, the pictures of installed packages, and what lies beside the clone."""

import importlib.metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The clone."""

PHOTOS = Path(str(importlib.metadata.distribution("insightface").locate_file("insightface/data/images")))
"""insightface's sample pictures."""

SHARED = ROOT.parent / "shared" / "data"
"""Pictures and weights beside the project, too large or too restricted to be part of it."""
