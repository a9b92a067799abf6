"""Presets: sets of models, with the defaults that belong to each set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Outline = Literal["oval", "hull"]
"""Outline of the mask: the face oval of the landmark model ("oval", only if the model has one) or the convex
hull of the landmarks ("hull")."""

Pose = Literal["five", "pnp"]
"""How to estimate the head pose: from the five landmarks ("five"), or by a perspective fit to six dense
landmarks ("pnp")."""


@dataclass(frozen=True)
class Preset:
    """A set of models and their settings. Each model is a name in the model zoo or the path of a file.

    settings: settings of `Config` that differ from its defaults.
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
