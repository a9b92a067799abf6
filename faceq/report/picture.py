"""A look at single pictures: their row, and a picture of what was found and what the networks saw."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceq.config import Config, Region
from faceq.faces import geometry
from faceq.faces.region import FRAME_SIDE, apply_region
from faceq.report.reasons import why_low
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame, to_table
from faceq.stages.find_face import crop_side
from faceq.stages.scorer import stages_of
from faceq.table.runs import new_run_id
from faceq.table.schema import pixels, schema, to_result_rows

BOX_COLOUR = (0, 158, 115)
LANDMARK_COLOUR = (240, 228, 66)
OUTLINE_COLOUR = (86, 180, 233)
"""RGB, of Okabe and Ito's palette."""

SIDE = 720
"""Height of the annotated picture, pixels; width of its panel: half of it."""

WIDEST = 3 * SIDE
"""Most width of the picture beside the panel, pixels: a flatter one is drawn lower. At height SIDE a strip of
100x1 pixels would be 72,000 wide."""

_MARGIN = 16
_INK, _PAPER = (235, 235, 235), (24, 26, 30)
_OUTSIDE = 0.25
"""How bright the pixels are shown that quality leaves out."""


@dataclass(frozen=True)
class Inspected:
    """An image and what faceq found in it.

    row: as in the table, but with the `dbcnn` of a face that is `below_fiq`, too. image: its encoded bytes,
    if it could be read. crop: what quality is scored on, (S, S, 3) uint8 RGB, and outline: that of the face
    in it, (N, 2) pixels, if it has a face of sufficient size. crop_map: (2, 3), from the image to the crop,
    None if the crop is the whole frame.
    """

    row: dict[str, Any]
    image: bytes | None
    crop: np.ndarray | None
    outline: np.ndarray | None
    crop_map: np.ndarray | None

    @property
    def table_row(self) -> dict[str, Any]:
        """The row as a table has it."""
        if self.row["status"] != "below_fiq":
            return self.row
        return {**self.row, "dbcnn": None, "mask_coverage": None}


class Inspector:
    """The stages of the job; every face gets both scores. Loading the models takes most of the time."""

    def __init__(self, config: Config):
        self._config = config
        to_the_end = config.model_copy(update={"fiq_threshold": 0.0})
        self._find_face, *self._score = stages_of(to_the_end)

    def __call__(self, frames: Iterable[Frame]) -> list[Inspected]:
        """Look at some pictures at once."""
        given = list(frames)
        found = batch = self._find_face(to_table(given))
        for stage in self._score:
            batch = stage(batch)
        rows = to_result_rows(batch, schema(self._config.embeddings), new_run_id()).to_pylist()
        for row in rows:
            # The same comparison as in a job, in single precision.
            if row["status"] == "scored" and row["serfiq"] < np.float32(self._config.fiq_threshold):
                row["status"] = "below_fiq"
        side = crop_side(self._config)
        cut = found.select(["crop", "outline", "crop_map"])
        looks = []
        for number, (frame, row) in enumerate(zip(given, rows, strict=True)):
            crop = outline = crop_map = None
            if cut["crop"][number].is_valid:
                here = np.array([number])
                crop = pixels(cut, "crop", here, (side, side, 3))[0]
                outline = np.frombuffer(cut["outline"][number].as_py(), np.float32).reshape(-1, 2)
            if cut["crop_map"][number].is_valid:
                crop_map = np.frombuffer(cut["crop_map"][number].as_py(), np.float64).reshape(2, 3)
            looks.append(Inspected(row, frame.image, crop, outline, crop_map))
        return looks

    def annotated(self, look: Inspected) -> np.ndarray:
        """The picture with box, landmarks and outline, and beside it a panel: the scores, and the face as
        DB-CNN saw it, what it left out being dark.

        Returns:
            (SIDE, W, 3) uint8 RGB.
        """
        panel = _panel(look, self._config)
        if look.image is None or look.row["status"] == "unreadable":
            return panel
        picture = decode(look.image, self._config.max_pixels, self._config.limits)
        return np.hstack([_drawn(picture, look), panel])


def lines_of(look: Inspected, threshold: float) -> list[tuple[str, str]]:
    """What faceq found in an image, as names and values for people."""
    row = look.row
    said = [("status", row["status"])]
    if row["error"]:
        said.append(("error", row["error"]))
    if row["width"]:
        said.append(("image", f"{row['width']} x {row['height']}, faces: {row['n_faces']}"))
    if row["face_w"] is not None:
        x, y, width, height = (round(row[f"face_{side}"]) for side in "xywh")
        why = ", the largest of those with the highest confidence" if row["n_faces"] > 1 else ""
        said.append(("face", f"{width} x {height} at {x}, {y}, confidence {row['det_score']:.2f}{why}"))
        if row["face_confidence"] is not None:
            away = f"{row['align_error']:.1f} pixels from the template"
            said.append(("landmarks", f"confidence {row['face_confidence']:.2f}, {away}"))
        said.append(
            ("pose", f"yaw {row['yaw']:.0f}, pitch {row['pitch']:.0f}, roll {row['roll']:.0f} degrees")
        )
    if row["serfiq"] is not None:
        verdict = "" if row["serfiq"] >= np.float32(threshold) else f" (below fiq_threshold {threshold:g})"
        said.append(("serfiq", f"{row['serfiq']:.3f}, raw {row['serfiq_raw']:.3f}{verdict}"))
    if row["dbcnn"] is not None:
        shown = " (null in a table)" if row["status"] == "below_fiq" else ""
        said.append(("dbcnn", f"{row['dbcnn']:.1f}, mask {row['mask_coverage']:.1%} of the image{shown}"))
    reason = why_low(row)
    if reason is not None:
        said.append(("why low", reason))
    return said


def _drawn(picture: np.ndarray, look: Inspected) -> np.ndarray:
    """The picture with what was found in it, (SIDE, W, 3) uint8 RGB, W up to WIDEST."""
    height, width = picture.shape[:2]
    scale = min(SIDE / height, WIDEST / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    drawn = np.ascontiguousarray(cv2.resize(picture, size, interpolation=how))
    if look.row["face_w"] is not None:
        _draw_face(drawn, scale, (width, height), look)
    return cv2.copyMakeBorder(drawn, 0, SIDE - size[1], 0, 0, cv2.BORDER_CONSTANT, value=_PAPER)


def _draw_face(drawn: np.ndarray, scale: float, size: tuple[int, int], look: Inspected) -> None:
    """Box, landmarks and outline on a picture of some size (width, height) that is drawn at `scale`."""
    row = look.row
    box = np.array([row[f"face_{side}"] for side in "xywh"])
    landmarks = np.array(row["landmarks"]).reshape(5, 2)
    if look.outline is not None:
        if look.crop_map is None:
            outline = look.outline * (np.array(size) / FRAME_SIDE)
        else:
            outline = geometry.to_frame(look.outline, look.crop_map)
        cv2.polylines(
            drawn, [np.round(outline * scale).astype(np.int32)], True, OUTLINE_COLOUR, 2, cv2.LINE_AA
        )
    low, high = box[:2] * scale, (box[:2] + box[2:]) * scale
    cv2.rectangle(drawn, _point(low), _point(high), BOX_COLOUR, 2, cv2.LINE_AA)
    for landmark in landmarks * scale:
        cv2.circle(drawn, _point(landmark), 4, LANDMARK_COLOUR, -1, cv2.LINE_AA)
        cv2.circle(drawn, _point(landmark), 4, _PAPER, 1, cv2.LINE_AA)


def _point(place: np.ndarray) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))


def _panel(look: Inspected, config: Config) -> np.ndarray:
    """(SIDE, SIDE / 2, 3) uint8 RGB: what DB-CNN saw, and the values."""
    width = SIDE // 2
    panel = Image.new("RGB", (width, SIDE), _PAPER)
    draw = ImageDraw.Draw(panel)
    top = _MARGIN
    if look.crop is not None and look.outline is not None:
        side = width - 2 * _MARGIN
        shown = Image.fromarray(seen(look.crop, look.outline, config.quality_region))
        panel.paste(shown.resize((side, side)), (_MARGIN, top))
        top += side + _MARGIN // 2
        draw.text((_MARGIN, top), "what DB-CNN saw", _INK, ImageFont.load_default(15))
        top += 2 * _MARGIN
    for name, value in lines_of(look, config.fiq_threshold):
        draw.text((_MARGIN, top), name, OUTLINE_COLOUR, ImageFont.load_default(13))
        top += 17
        for line in _wrapped(value, width - 2 * _MARGIN, ImageFont.load_default(16)):
            draw.text((_MARGIN, top), line, _INK, ImageFont.load_default(16))
            top += 20
        top += 6
    return np.asarray(panel)


def seen(crop: np.ndarray, outline: np.ndarray, region: Region) -> np.ndarray:
    """The crop as quality is judged on it, the pixels darkened that have no part in the score.

    Args:
        crop: (S, S, 3) uint8 RGB.
        outline: (N, 2), the outline in crop pixels.
        region: what of the crop is judged.
    """
    inside = geometry.polygon_mask(outline, crop.shape[0])
    (shown,), (counts,) = apply_region(region, crop[None], inside[None])
    return (shown * (_OUTSIDE + (1 - _OUTSIDE) * counts[..., None])).astype(np.uint8)


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """The text in lines of some width in pixels; a word that is longer stands alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
