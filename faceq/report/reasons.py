"""Reasons for a low score that a row's columns tell."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from faceq.table.recommended import MIN_SCORES
from faceq.table.schema import DECIMALS

SMALL_FACE = 80
"""Shorter side of the box, pixels. Below it, `dbcnn` falls with the size of the face."""

STRONG_YAW, STRONG_PITCH = 40, 30
"""Degrees from which on a large part of the face is hidden, or seen at a flat angle."""

ON_ITS_SIDE, UPSIDE_DOWN = 60, 135
"""`roll`, degrees."""

LOW_CONFIDENCE = 0.7
"""`det_score` below which a detection is often a blurred, covered or strongly turned face."""

UNLIKE_A_FACE, MISALIGNED = 0.9, 9.0
"""The same for pictures of `faces: aligned`, which have no `det_score`: `face_confidence` below which, and
`align_error` above which the picture is probably not an aligned face. About one in a hundred aligned CelebA
faces is beyond each of them; of 120 pieces of photos without a face, 117 are below the first."""

BLURRED, NOISY, BLOCKS, DARK, WHITE = 0.2, 4.0, 0.8, 0.07, 0.1
"""`sharpness` and `luminance_mean` below which, and `noise`, `compression` and `over_exposed` above which a
face looks bad. About one in a hundred CelebA faces is beyond each of them."""

_UNMEASURED = {
    ("dbcnn",): "look for blur, noise, compression or bad light",
    ("serfiq",): "look for something that covers the face",
    ("serfiq", "dbcnn"): "look for blur, noise, compression, bad light or something that covers the face",
}
"""Which low scores the columns do not explain if there are no measures: what to look for in the image."""

_UNEXPLAINED = "look for something that covers the face, or another fault that has no column"

_NOT_SURE = (
    "something was found, but neither the detector nor the landmark model is sure that it is a face: it may "
    "be cut by the frame, covered, blurred or too dark"
)


def why_low(row: Mapping[str, Any]) -> str | None:
    """Which scores of a face are below the recommended minimum, and why, in one line; None if none is, or if
    the row has no scores.

    Only reasons that lower these scores are named.

    Args:
        row: of the result table.
    """
    if row["serfiq"] is None:
        return None
    low = tuple(name for name, least in MIN_SCORES.items() if not _reaches(row[name], least))
    if not low:
        return None
    return f"{', '.join(_below(name, row[name]) for name in low)}: {_explained(row, low)}"


def advice(row: Mapping[str, Any], min_face: int) -> str | None:
    """What to do about an image without a face that is large enough, in one line; None for other rows.

    Args:
        row: of the result table.
        min_face: the setting, pixels.
    """
    if row["status"] == "face_too_small":
        side = min(row["face_w"], row["face_h"])
        return (
            f"the face is {side:.0f} pixels wide or high, less than min_face ({min_face}): use a larger "
            "image, or lower it with --set min_face=N"
        )
    if row["status"] != "no_face":
        return None
    if row["n_faces"]:
        return _NOT_SURE
    return (
        f"no face was found: it may be much smaller than min_face ({min_face} pixels), cut by the frame, "
        "turned away, covered or too dark"
    )


def _reaches(score: float | None, least: float) -> bool:
    return score is not None and score >= least


def _below(name: str, score: float | None) -> str:
    if score is None:
        return f"no {name}"
    digits, least = DECIMALS[name], MIN_SCORES[name]
    shown = round(score, digits)
    if shown >= least:  # a score just below the minimum must not look like the minimum
        shown = math.floor(score * 10**digits) / 10**digits
    return f"{name} {shown:.{digits}f} is below {least:g}"


def _explained(row: Mapping[str, Any], low: tuple[str, ...]) -> str:
    looks, small = (list(_looks(row)), list(_size(row))) if "dbcnn" in low else ([], [])
    turned = list(_position_and_pose(row)) if "serfiq" in low else []
    said = ", ".join([*looks, *small, *turned])
    # The size of a face hardly changes its serfiq.
    if looks or (turned if "serfiq" in low else small):
        return said
    measured = "dbcnn" in low and row.get("luminance_mean") is not None
    rest = _UNEXPLAINED if measured else _UNMEASURED[low]
    return f"{said}; also {rest}" if said else rest


def _looks(row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the image of the face, by its measures; nothing if the row has none."""
    if row.get("luminance_mean") is None:
        return
    if row["sharpness"] is not None and row["sharpness"] < BLURRED:
        yield f"blurred (sharpness {row['sharpness']:.2f})"
    if row["noise"] is not None and row["noise"] > NOISY:
        yield f"noisy (noise {row['noise']:.0f})"
    if row["compression"] is not None and row["compression"] > BLOCKS:
        yield f"block artefacts (compression {row['compression']:.1f})"
    if row["luminance_mean"] < DARK:
        yield f"dark (luminance_mean {row['luminance_mean']:.2f})"
    if row["over_exposed"] > WHITE:
        yield f"overexposed ({row['over_exposed']:.0%})"


def _size(row: Mapping[str, Any]) -> Iterator[str]:
    side = min(row["face_w"], row["face_h"])
    if side < SMALL_FACE:
        yield f"small face ({side:.0f} pixels)"


def _position_and_pose(row: Mapping[str, Any]) -> Iterator[str]:
    detected = row["det_score"] is not None
    edges = _cut_edges(row) if detected else []  # the box of an aligned face is the whole picture
    if edges:
        yield f"cut by the frame ({', '.join(edges)})"
    if abs(row["yaw"]) > STRONG_YAW:
        yield f"turned sideways (yaw {row['yaw']:.0f})"
    if abs(row["pitch"]) > STRONG_PITCH:
        yield f"turned {'up' if row['pitch'] > 0 else 'down'} (pitch {row['pitch']:.0f})"
    if abs(row["roll"]) > ON_ITS_SIDE:
        how = "upside down" if abs(row["roll"]) > UPSIDE_DOWN else "on its side"
        yield f"{how} (roll {row['roll']:.0f})"
    if not detected:
        yield from _alignment(row)
    elif row["det_score"] < LOW_CONFIDENCE:
        yield f"low detector confidence ({row['det_score']:.2f})"


def _alignment(row: Mapping[str, Any]) -> Iterator[str]:
    if row["face_confidence"] is not None and row["face_confidence"] < UNLIKE_A_FACE:
        yield f"little like a face (face_confidence {row['face_confidence']:.2f})"
    if row["align_error"] is not None and row["align_error"] > MISALIGNED:
        yield f"badly aligned (align_error {row['align_error']:.0f})"


def _cut_edges(row: Mapping[str, Any]) -> list[str]:
    """Edges of the frame that the face's box, which is clipped to the frame, touches."""
    distances = {
        "left": row["face_x"],
        "top": row["face_y"],
        "right": row["width"] - row["face_x"] - row["face_w"],
        "bottom": row["height"] - row["face_y"] - row["face_h"],
    }
    return [edge for edge, distance in distances.items() if distance < 1]
