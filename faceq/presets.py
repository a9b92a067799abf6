"""The presets: which model does what, and the defaults that belong to that set of models."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Outline = Literal["oval", "hull"]
"""The mask's edge: the face oval of the landmark model, where it has one; the convex hull of the
landmarks."""

Pose = Literal["five", "pnp"]
"""Head pose from the five landmarks, or by a perspective fit to six dense ones."""


@dataclass(frozen=True)
class Preset:
    """Which model does what, each a name in the zoo or a file, and what else belongs to the set.

    settings: of `Config`, where they differ from its defaults.
    """

    detector: str
    recogniser: str
    landmarks: str
    quality: str
    outline: Outline = "oval"
    pose: Pose = "five"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def models(self) -> tuple[str, ...]:
        """The four models: detector, recogniser, landmarks, quality."""
        return (self.detector, self.recogniser, self.landmarks, self.quality)


_INSIGHTFACE = Preset(
    detector="scrfd-10g",
    recogniser="arcface-r50",
    landmarks="landmarks-106",
    quality="dbcnn-koniq",
    outline="hull",
    settings={"det_threshold": 0.5},
)

PRESETS = {
    "embedded": Preset(detector="yunet", recogniser="sface", landmarks="facemesh", quality="dbcnn-lite"),
    "insightface": _INSIGHTFACE,
    "cafi": replace(
        _INSIGHTFACE,
        pose="pnp",
        settings={
            "det_threshold": 0.5,
            "fiq_threshold": 0.5,
            "serfiq_passes": 100,
            "calibration": {"slope": 130.0, "threshold": 0.88},
            "quality_region": "frame_jpeg",
        },
    ),
}
