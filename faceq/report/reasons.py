"""Reasons for a low score that a row's columns tell."""

from collections.abc import Iterator, Mapping
from typing import Any

from faceq.table.recommended import MIN_SCORES

SMALL_FACE = 80
"""Shorter side of the box, pixels. The recogniser sees a face at 112x112 pixels with a margin around it: a
smaller face is enlarged for it."""

STRONG_YAW, STRONG_PITCH = 40, 30
"""Degrees from which on a large part of the face is hidden, or seen at a flat angle."""

ON_ITS_SIDE, UPSIDE_DOWN = 60, 135
"""`roll`, degrees."""

LOW_CONFIDENCE = 0.7
"""`det_score` below which a detection is often a blurred, covered or strongly turned face."""

_UNEXPLAINED = "not size, position or pose: look for blur, noise, bad light or something that covers the face"
_NOT_SURE = "something was found, but neither the detector nor the landmark model is sure that it is a face"


def why_low(row: Mapping[str, Any]) -> str | None:
    """Why a face has low scores, or was rejected, in one line; None if both scores reach the recommended
    minimum, or nothing was found.

    Args:
        row: of the result table.
    """
    if row["face_w"] is None:
        return _NOT_SURE if row["n_faces"] else None
    if all(_reaches(row[name], least) for name, least in MIN_SCORES.items()):
        return None
    return ", ".join(_reasons(row)) or _UNEXPLAINED


def _reaches(score: float | None, least: float) -> bool:
    return score is not None and score >= least


def _reasons(row: Mapping[str, Any]) -> Iterator[str]:
    side = min(row["face_w"], row["face_h"])
    if side < SMALL_FACE:
        yield f"small face ({side:.0f} pixels)"
    edges = _cut_edges(row)
    if edges:
        yield f"cut by the frame ({', '.join(edges)})"
    if abs(row["yaw"]) > STRONG_YAW:
        yield f"turned sideways (yaw {row['yaw']:.0f})"
    if abs(row["pitch"]) > STRONG_PITCH:
        yield f"turned {'up' if row['pitch'] > 0 else 'down'} (pitch {row['pitch']:.0f})"
    if abs(row["roll"]) > ON_ITS_SIDE:
        how = "upside down" if abs(row["roll"]) > UPSIDE_DOWN else "on its side"
        yield f"{how} (roll {row['roll']:.0f})"
    if row["det_score"] < LOW_CONFIDENCE:
        yield f"low detector confidence ({row['det_score']:.2f})"


def _cut_edges(row: Mapping[str, Any]) -> list[str]:
    """Edges of the frame that the face's box, which is clipped to the frame, touches."""
    distances = {
        "left": row["face_x"],
        "top": row["face_y"],
        "right": row["width"] - row["face_x"] - row["face_w"],
        "bottom": row["height"] - row["face_y"] - row["face_h"],
    }
    return [edge for edge, distance in distances.items() if distance < 1]
