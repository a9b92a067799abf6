"""Named conditions for what people select faces for, and those of a user's own file."""

from dataclasses import dataclass
from pathlib import Path

from faceq.errors import UsageError
from faceq.storage import settings_file
from faceq.table.recommended import MIN_SCORES

OWN_FILE = "filters.yaml"
"""File in the working directory with conditions of a user's own, `name: condition`."""


@dataclass(frozen=True)
class Filter:
    """A named condition. parts: SQL conditions that must all hold, each with the source of its number, in
    Markdown."""

    purpose: str
    parts: tuple[tuple[str, str], ...]

    @property
    def condition(self) -> str:
        return " and ".join(part for part, _ in self.parts)


_OWN = "a choice of faceq"
_SERFIQ = (f"serfiq >= {MIN_SCORES['serfiq']:g}", "the recommended filter")
_DBCNN = (f"dbcnn >= {MIN_SCORES['dbcnn']:g}", "the recommended filter")
_EFHQ = "[EFHQ](https://github.com/VinAIResearch/EFHQ) calls such a face frontal"
_FRONTAL = (("abs(yaw) < 45", _EFHQ), ("abs(pitch) < 30", _EFHQ))
_OFIQ = "[OFIQ](https://github.com/BSI-OFIQ/OFIQ-Project)"

FILTERS: dict[str, Filter] = {
    "portrait": Filter(
        "Images for avatars and image generators",
        (
            _SERFIQ,
            _DBCNN,
            (
                "eye_distance >= 128",
                "[FFHQ](https://github.com/NVlabs/ffhq-dataset) crops a square of at least four times the "
                "distance of the eyes: 512 pixels",
            ),
            *_FRONTAL,
            ("single_face >= 0.75", f"{_OFIQ} gives half of its points at this ratio of areas"),
            ("face_inside >= 0.99", _OWN),
            ("sharpness >= 0.2", f"{_OWN}: fewer than 1% of CelebA's faces are below"),
        ),
    ),
    "talking-head": Filter(
        "Frames of videos for talking heads. Closed eyes and open mouths pass: people blink and speak",
        (
            _SERFIQ,
            _DBCNN,
            (
                "n_faces = 1",
                "[LatentSync](https://github.com/bytedance/LatentSync) drops a clip if any frame has "
                "another number",
            ),
            ("least(face_w, face_h) >= 256", "LatentSync, in every frame"),
            *_FRONTAL,
            (
                "face_inside >= 0.99",
                "[TalkVid](https://github.com/FreedomIntelligence/TalkVid) requires both eyes, the nose and "
                "the mouth in every frame",
            ),
        ),
    ),
    "recognition": Filter(
        "Images for recognisers",
        (
            _SERFIQ,
            (
                "eye_distance >= 35",
                "the distance of the eyes in the 112 x 112 input of recognisers: a smaller face is enlarged",
            ),
            *_FRONTAL,
            ("face_inside >= 0.95", _OWN),
            ("single_face >= 0.75", f"{_OFIQ} gives half of its points at this ratio of areas"),
        ),
    ),
}


def condition_of(name: str) -> str:
    """The SQL condition of a filter: of OWN_FILE, if it is there and has this name, or of FILTERS.

    Raises:
        UsageError: there is no filter of this name, or the file is not valid.
        StorageError: the file cannot be read.
    """
    own = settings_file.read(OWN_FILE) if Path(OWN_FILE).exists() else {}
    if name in own:
        if not isinstance(own[name], str) or not own[name].strip():
            raise UsageError(f"{OWN_FILE}: {name}: expected an SQL condition, got {own[name]!r}")
        return own[name].strip()
    if name in FILTERS:
        return FILTERS[name].condition
    where = f", or add it to {OWN_FILE} in the working directory as a line `{name}: CONDITION`"
    known = ", ".join(dict.fromkeys([*FILTERS, *map(str, own)]))
    raise UsageError(f"--filter {name}: choose from {known}{where}")
