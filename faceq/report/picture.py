"""Inspect single images: compute their rows, and draw what was found and what the networks got as input."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from faceq.config import Config, Region
from faceq.faces import geometry
from faceq.faces.region import FRAME_SIDE, apply_region
from faceq.report.comparison import Reference, standings
from faceq.report.panels import NAME_COLOUR, PAPER, SIDE, measure_panel, value_panel
from faceq.report.reasons import advice, why_low
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame, to_table
from faceq.stages.find_face import crop_side
from faceq.stages.scorer import stages_of
from faceq.table.recommended import FILTER
from faceq.table.runs import new_run_id
from faceq.table.schema import DECIMALS, schema, to_result_rows

MAIN_FACES = {
    "largest": "the largest one among those with nearly the best confidence",
    "centre": "the one nearest to the centre",
    "best": "the one with the highest serfiq",
}

BOX_COLOUR = (0, 158, 115)
LANDMARK_COLOUR = (240, 228, 66)
OUTLINE_COLOUR = NAME_COLOUR
"""RGB colours from the palette of Okabe and Ito."""

LABEL_SIZES = (10, 18)
"""Smallest and largest size of the number of a face, in pixels."""

WIDEST = 3 * SIDE
"""Maximum width in pixels of the image next to the panels. A wider image is drawn with less height: with
height SIDE, an image of 100x1 pixels would be 72,000 pixels wide."""

_CUT = ["crop", "outline", "crop_map"]
"""Columns of FindFace that only stages read."""

_OUTSIDE = 0.25
"""Brightness factor of the pixels that are not part of the quality score."""


@dataclass(frozen=True)
class Inspected:
    """An inspected image.

    row: its row, as in the table, but with the `dbcnn` of a `below_fiq` face, too. image: its encoded bytes,
    if it could be read. crop: the crop of the main face for the quality score, (S, S, 3) uint8 RGB, from
    FindFace. outline: the outline of the face in the crop, (N, 2) pixels. crop_map: the affine map (2, 3)
    from the image to the crop; None if the crop is the whole frame. crop and outline are None if no face is
    large enough.
    """

    row: dict[str, Any]
    image: bytes | None
    crop: np.ndarray | None
    outline: np.ndarray | None
    crop_map: np.ndarray | None

    @property
    def table_row(self) -> dict[str, Any]:
        """The row as a table has it."""
        row = _without_quality(self.row)
        if row.get("faces") is not None:
            row = {**row, "faces": [_without_quality(face) for face in row["faces"]]}
        return row


def _without_quality(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a face as a table has them: a `below_fiq` face has no `dbcnn`."""
    return values if values["status"] != "below_fiq" else {**values, "dbcnn": None, "mask_coverage": None}


class Inspector:
    """The stages of the job; every face gets both scores. Loading the models takes most of the time."""

    def __init__(self, config: Config):
        self._config = config
        without_threshold = config.model_copy(update={"fiq_threshold": 0.0})
        self._find_face, *self._score = stages_of(without_threshold)

    def __call__(self, frames: Iterable[Frame]) -> list[Inspected]:
        """Inspect several images in one batch."""
        given = list(frames)
        found = batch = self._find_face(to_table(given))
        for stage in self._score:
            batch = stage(batch)
        rows = to_result_rows(
            batch, schema(self._config.embeddings, self._config.all_faces), new_run_id()
        ).to_pylist()
        for row in rows:
            for face in (row, *(row.get("faces") or ())):
                # The same comparison as in a job, in single precision.
                if face["status"] == "scored" and face["serfiq"] < np.float32(self._config.fiq_threshold):
                    face["status"] = "below_fiq"
        side = crop_side(self._config)
        inspected = []
        for number, (frame, row) in enumerate(zip(given, rows, strict=True)):
            crop = outline = crop_map = None
            cut = _of_main_face(found, number, row)
            if cut.get("crop") is not None:
                crop = np.frombuffer(cut["crop"], np.uint8).reshape(side, side, 3)
                outline = np.frombuffer(cut["outline"], np.float32).reshape(-1, 2)
            if cut.get("crop_map") is not None:
                crop_map = np.frombuffer(cut["crop_map"], np.float64).reshape(2, 3)
            inspected.append(Inspected(row, frame.image, crop, outline, crop_map))
        return inspected

    def drawn(self, look: Inspected) -> np.ndarray | None:
        """The image with box, landmarks and outline, (SIDE, W, 3) uint8 RGB; None if it cannot be read."""
        if look.image is None or look.row["status"] == "unreadable":
            return None
        return _drawn(decode(look.image, self._config.max_pixels, self._config.limits), look)

    def annotated(self, look: Inspected, reference: Reference) -> np.ndarray:
        """The drawn image, next to a panel with the scores and the input of DB-CNN, in which pixels that are
        not part of the score are darkened, and a panel that compares the measures with those of other faces.

        Returns:
            (SIDE, W, 3) uint8 RGB.
        """
        scored = None
        if look.crop is not None and look.outline is not None:
            scored = scored_pixels(look.crop, look.outline, self._config.quality_region)
        parts = [self.drawn(look), value_panel(lines_of(look, self._config), scored)]
        found = standings(look.row, reference)
        if found:
            parts.append(measure_panel(found, reference))
        return np.hstack([part for part in parts if part is not None])


def _of_main_face(found: pa.Table, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """What FindFace computed for the main face of a frame, at a position in its table; empty if there is no
    face. `row`: of the frame."""
    if "faces" not in found.column_names:
        return found.select(_CUT).slice(number, 1).to_pylist()[0]
    faces = found["faces"][number].as_py() or []
    return next((face for face in faces if is_main(face, row)), {})


def is_main(face: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a face of a frame is the one that its row describes."""
    return all(face[f"face_{side}"] == row[f"face_{side}"] for side in "xywh")


def lines_of(look: Inspected, config: Config) -> list[tuple[str, str]]:
    """A readable summary of an inspected image: names and values."""
    row = look.row
    lines = [("status", row["status"])]
    if row["error"]:
        lines.append(("error", row["error"]))
    if row["width"]:
        lines.append(("image", f"{row['width']} x {row['height']}, faces: {row['n_faces']}"))
    if row["face_w"] is not None:
        x, y, width, height = (round(row[f"face_{side}"]) for side in "xywh")
        score = row["det_score"]
        how = "the whole image, taken as aligned" if score is None else f"confidence {score:.2f}"
        why = f", {MAIN_FACES[config.main]}" if row["n_faces"] > 1 else ""
        lines.append(("face", f"{width} x {height} at {x}, {y}, {how}{why}"))
        if row["face_confidence"] is not None:
            error = f"alignment error {row['align_error']:.1f} pixels"
            lines.append(("landmarks", f"confidence {row['face_confidence']:.2f}, {error}"))
        angles = ", ".join(f"{angle} {round(row[angle])}" for angle in ("yaw", "pitch", "roll"))
        lines.append(("pose", f"{angles} degrees"))
    if row["serfiq"] is not None:
        threshold = config.fiq_threshold
        verdict = "" if row["serfiq"] >= np.float32(threshold) else f" (below fiq_threshold {threshold:g})"
        lines.append(
            ("serfiq", f"{row['serfiq']:.{DECIMALS['serfiq']}f}, raw {row['serfiq_raw']:.3f}{verdict}")
        )
    if row["dbcnn"] is not None:
        shown = " (null in a table)" if row["status"] == "below_fiq" else ""
        lines.append(
            (
                "dbcnn",
                f"{row['dbcnn']:.{DECIMALS['dbcnn']}f}, mask {row['mask_coverage']:.1%} of the image{shown}",
            )
        )
    reason, todo = why_low(row), advice(row, config.min_face)
    if reason is not None:
        lines.append(("why low", reason))
    elif row["serfiq"] is not None:
        lines.append(("passes", FILTER))
    if todo is not None:
        lines.append(("advice", todo))
    return lines


def face_lines(look: Inspected) -> list[tuple[str, str]]:
    """A line for each of several faces, with the number that `Inspector.drawn` gives it."""
    faces = look.row.get("faces") or ()
    if len(faces) < 2:
        return []
    return [(f"face {number}", _face_line(face, look.row)) for number, face in enumerate(faces)]


def _face_line(face: dict[str, Any], row: dict[str, Any]) -> str:
    """One of several faces in words."""
    if face["face_w"] is None:
        return str(face["status"])
    x, y, width, height = (round(face[f"face_{side}"]) for side in "xywh")
    scores = [
        f"{name} {face[name]:.{places}f}" for name, places in DECIMALS.items() if face[name] is not None
    ]
    if face["status"] == "below_fiq" and face["dbcnn"] is not None:
        scores[-1] += " (null in a table)"
    main = ["the main face"] if is_main(face, row) else []
    return ", ".join([f"{width} x {height} at {x}, {y}", face["status"], *scores, *main])


def _drawn(picture: np.ndarray, look: Inspected) -> np.ndarray:
    """The image with box, landmarks and outline, (SIDE, W, 3) uint8 RGB, W up to WIDEST."""
    height, width = picture.shape[:2]
    scale = min(SIDE / height, WIDEST / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    drawn = np.ascontiguousarray(cv2.resize(picture, size, interpolation=how))
    if look.row["face_w"] is not None:
        _draw_face(drawn, scale, (width, height), look)
    return cv2.copyMakeBorder(drawn, 0, SIDE - size[1], 0, 0, cv2.BORDER_CONSTANT, value=PAPER)


def _draw_face(drawn: np.ndarray, scale: float, size: tuple[int, int], look: Inspected) -> None:
    """Draw box, landmarks and outline on an image of size (width, height) that was resized by `scale`."""
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
    if len(row.get("faces") or ()) > 1:
        _draw_numbers(drawn, scale, row["faces"])
    for landmark in landmarks * scale:
        cv2.circle(drawn, _point(landmark), 4, LANDMARK_COLOUR, -1, cv2.LINE_AA)
        cv2.circle(drawn, _point(landmark), 4, PAPER, 1, cv2.LINE_AA)


def _draw_numbers(drawn: np.ndarray, scale: float, faces: list[dict[str, Any]]) -> None:
    """Draw the boxes of all faces, and above each its position in the list. Small boxes have small numbers,
    so that those of neighbours stay apart."""
    corners = {}
    for place, face in enumerate(faces):
        if face["face_w"] is None:
            continue
        low = np.array([face["face_x"], face["face_y"]]) * scale
        high = low + np.array([face["face_w"], face["face_h"]]) * scale
        cv2.rectangle(drawn, _point(low), _point(high), BOX_COLOUR, 1, cv2.LINE_AA)
        corners[place] = (_point(low), float(high[0] - low[0]))
    labelled = Image.fromarray(drawn)
    draw = ImageDraw.Draw(labelled)
    for place, ((x, y), width) in corners.items():
        font = ImageFont.load_default(float(np.clip(width / 2, *LABEL_SIZES)))
        _, top, right, bottom = draw.textbbox((x + 2, y), str(place), font, anchor="ls")
        # The number of a face at the upper or right edge is moved into the image.
        down, aside = max(0, 2 - round(top)), max(0, round(right) + 2 - labelled.width)
        draw.rectangle((x - aside, top + down - 2, right - aside + 1, bottom + down + 1), BOX_COLOUR)
        draw.text((x - aside + 2, y + down), str(place), PAPER, font, anchor="ls")
    drawn[:] = np.asarray(labelled)


def _point(place: np.ndarray) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))


def scored_pixels(crop: np.ndarray, outline: np.ndarray, region: Region) -> np.ndarray:
    """The crop as input of DB-CNN. Pixels that are not part of the score are darkened.

    Args:
        crop: (S, S, 3) uint8 RGB.
        outline: (N, 2), the outline in crop pixels.
        region: the part of the crop that is scored.
    """
    inside = geometry.polygon_mask(outline, crop.shape[0])
    (shown,), (weights,) = apply_region(region, crop[None], inside[None])
    return (shown * (_OUTSIDE + (1 - _OUTSIDE) * weights[..., None])).astype(np.uint8)
