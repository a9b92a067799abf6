"""Paths of this clone, of images in installed packages, and of data next to the clone."""

import importlib.metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The clone."""

PHOTOS = Path(str(importlib.metadata.distribution("insightface").locate_file("insightface/data/images")))
"""insightface's sample pictures."""

SHARED = ROOT.parent / "shared" / "data"
"""Images and weights next to the clone that are too large for it, or whose licence does not permit adding
them."""
