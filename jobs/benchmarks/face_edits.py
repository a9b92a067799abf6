"""Edits of a photo of a face in steps from 0 to STEPS, each of which changes one component measure.

Expressions and head poses are made by moving FaceMesh's points and interpolating the photo between them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator

from faceq.evaluation import distortions
from faceq.evaluation.distortions import Image, as_image
from faceq.faces.cut_face import MEAN_FACE

STEPS = 5

# fmt: off
UPPER_LIDS = (246, 161, 160, 159, 158, 157, 173, 466, 388, 387, 386, 385, 384, 398)
LOWER_LIDS = (7, 163, 144, 145, 153, 154, 155, 249, 390, 373, 374, 380, 381, 382)
UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
# fmt: on
EYE_CORNERS = (33, 133, 362, 263)
CHIN = 152
"""Indices of FaceMesh's points. Source: MediaPipe's face mesh topology."""

MARGIN = 0.6  # of the size of the face: at this distance around it, an edited head joins the photo
PINS = 24  # points along each side of this frame that stay where they are

CLOSED = (0.0, 0.25, 0.45, 0.65, 0.85, 1.0)  # share of the gap between the lids
OPENED = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15)  # in T
TURNED = (0.0, 6.0, 12.0, 18.0, 24.0, 30.0)  # degrees
TILTED = (0.0, 8.0, 16.0, 24.0, 32.0, 40.0)
CUT = (-0.1, 0.06, 0.12, 0.18, 0.24, 0.3)  # share of the face that is outside the frame
SCALES = (1.0, 0.85, 0.7, 0.58, 0.48, 0.4)
WIDENED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the height of the photo
SECOND_FACE = (0.0, 0.35, 0.5, 0.65, 0.8, 0.95)  # its size relative to the first
STOPS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)  # factor of two in linear light
SHADED = (0.0, 0.2, 0.4, 0.6, 0.75, 0.88)  # share of the light that one side loses
TINTED = (0.0, 0.12, 0.24, 0.36, 0.48, 0.6)
FLATTENED = (0.0, 0.15, 0.3, 0.45, 0.6, 0.72)
NOISE_SIGMA = (2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class Posed:
    """A photo (H, W, 3) uint8 RGB, FaceMesh's points (468, 2) of its face, and a photo of another face with
    its points."""

    photo: Image
    points: np.ndarray
    other: tuple[Image, np.ndarray]

    @property
    def down(self) -> np.ndarray:
        """From the middle of the eyes to the chin, (2,)."""
        return self.points[CHIN] - self.points[list(EYE_CORNERS)].mean(axis=0)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the box around the points, (2,) each."""
        return self.points.min(axis=0), self.points.max(axis=0)


Edit = Callable[[Posed, int], Image]
"""Takes a face and a step from 0 to STEPS."""


def warped(face: Posed, moved: np.ndarray) -> Image:
    """The photo with the face's points moved to (468, 2)."""
    low, high = face.bounds
    border = MARGIN * (high - low).max()
    low, high = np.floor(low - border), np.ceil(high + border)
    along = np.linspace(0, 1, PINS)
    edge = np.concatenate([[[t, 0], [t, 1], [0, t], [1, t]] for t in along])
    pins = low + edge * (high - low)
    back = LinearNDInterpolator(np.concatenate([moved, pins]), np.concatenate([face.points, pins]))
    height, width = face.photo.shape[:2]
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.minimum(high, (width, height)).astype(int)
    rows, columns = np.mgrid[top:bottom, left:right]
    source = back(columns, rows).astype(np.float32)
    edited = face.photo.copy()
    edited[top:bottom, left:right] = cv2.remap(
        face.photo, source[..., 0], source[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return edited


def eyes_closed(face: Posed, step: int) -> Image:
    """Move the upper lids towards the lower ones, and paint skin and lashes where they were."""
    if not step:
        return face.photo
    moved = face.points.copy()
    gap = face.points[list(LOWER_LIDS)] - face.points[list(UPPER_LIDS)]
    moved[list(UPPER_LIDS)] += 0.95 * CLOSED[step] * gap
    edited = warped(face, moved).astype(np.float32)
    half = len(UPPER_LIDS) // 2
    for lid in (list(UPPER_LIDS[:half]), list(UPPER_LIDS[half:])):
        above = np.concatenate(
            [face.points[lid] - 0.02 * face.down, face.points[lid[::-1]] - 0.06 * face.down]
        )
        skin = np.median(face.photo[_filled(face.photo, above) > 0], axis=0)
        closed = np.concatenate([face.points[lid] - 0.01 * face.down, moved[lid[::-1]]])
        share = cv2.GaussianBlur(_filled(face.photo, closed), (0, 0), 0.7)[..., None]
        edited += share * (skin - edited)
        lashes = [np.round(8 * moved[lid]).astype(np.int32)]
        cv2.polylines(edited, lashes, False, (0.45 * skin).tolist(), 1, cv2.LINE_AA, 3)
    return as_image(edited)


def _filled(photo: Image, polygon: np.ndarray) -> np.ndarray:
    """1 inside a polygon (N, 2) and 0 outside, (H, W) float32."""
    canvas = np.zeros(photo.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(8 * polygon).astype(np.int32)], 255, cv2.LINE_AA, 3)
    return canvas.astype(np.float32) / 255


def mouth_opened(face: Posed, step: int) -> Image:
    """Move the lower lip down, and fill the gap with dark red."""
    if not step:
        return face.photo
    moved, lower = face.points.copy(), list(LOWER_LIP)
    drop = OPENED[step] * face.down
    arch = np.sin(np.linspace(0, np.pi, len(lower)))[:, None]
    moved[lower] += arch * drop
    lips = face.points[list(UPPER_LIP + LOWER_LIP)].mean(axis=0)
    length = np.linalg.norm(face.down)
    depth = (face.points - lips) @ face.down / length**2  # of the points below the mouth, in T
    across = (face.points - lips) @ np.array([face.down[1], -face.down[0]]) / length**2
    near = np.abs(across) < 0.35
    below = (depth > 0.04) & near
    below[lower] = False
    moved[below] += np.clip(1.2 - depth[below] / 0.6, 0, 1)[:, None] * drop
    edited = warped(face, moved)
    inner = np.concatenate([moved[list(UPPER_LIP)], moved[lower][::-1]])
    cv2.fillPoly(edited, [np.round(inner).astype(np.int32)], (52, 22, 20), cv2.LINE_AA)
    return edited


def rotated(face: Posed, yaw: float, pitch: float) -> Image:
    """Rotate the head about its vertical and its horizontal axis, degrees, to the image's right and up."""
    centre = face.points.mean(axis=0)
    down = face.down / np.linalg.norm(face.down)
    axes = np.stack([[down[1], -down[0]], down])
    flat = (face.points - centre) @ axes.T
    size = np.linalg.norm(flat) / np.linalg.norm(MEAN_FACE[:, :2])
    depth = size * MEAN_FACE[:, 2]
    for axis, degrees in ((0, -yaw), (1, pitch)):
        angle = np.radians(degrees)
        turned = np.cos(angle) * flat[:, axis] + np.sin(angle) * depth
        depth = np.cos(angle) * depth - np.sin(angle) * flat[:, axis]
        flat[:, axis] = turned
    return warped(face, flat @ axes + centre)


def rolled(face: Posed, step: int) -> Image:
    """Rotate the photo clockwise around the face."""
    height, width = face.photo.shape[:2]
    x, y = face.points.mean(axis=0)
    turn = cv2.getRotationMatrix2D((float(x), float(y)), -TILTED[step], 1)
    return np.asarray(
        cv2.warpAffine(
            face.photo, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        ),
        np.uint8,
    )


def cut_off(face: Posed, side: str, step: int) -> Image:
    """Crop the photo so that a part of the face is outside. `side`: left, right, above or below."""
    low, high = face.bounds
    height, width = face.photo.shape[:2]
    axis = int(side in ("above", "below"))
    size = (high - low)[axis]
    if side in ("left", "above"):
        start, end = max(0, round(float(low[axis] + CUT[step] * size))), (width, height)[axis]
    else:
        start, end = 0, min((width, height)[axis], round(float(high[axis] - CUT[step] * size)))
    return np.ascontiguousarray(face.photo[start:end] if axis else face.photo[:, start:end])


def scaled(face: Posed, step: int) -> Image:
    """Shrink the photo."""
    size = SCALES[step]
    return np.asarray(cv2.resize(face.photo, None, fx=size, fy=size, interpolation=cv2.INTER_AREA), np.uint8)


def widened(face: Posed, step: int) -> Image:
    """Show more around the photo, on all sides: its mirror image, blurred."""
    height, width = face.photo.shape[:2]
    pad = round(WIDENED[step] * height / 2)
    if not pad:
        return face.photo
    around = cv2.copyMakeBorder(face.photo, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    around = cv2.GaussianBlur(around, (0, 0), 8)
    around[pad : pad + height, pad : pad + width] = face.photo
    return np.asarray(around, np.uint8)


def second_face(face: Posed, step: int) -> Image:
    """Put another face beside the photo, on grey."""
    photo, points = face.other
    low, high = np.maximum(points.min(axis=0) - 8, 0).astype(int), points.max(axis=0).astype(int) + 8
    part = photo[low[1] : high[1], low[0] : high[0]]
    mine = face.bounds[1] - face.bounds[0]
    height = face.photo.shape[0]
    beside = np.full((height, height, 3), 128, np.uint8)
    if step:
        scale = SECOND_FACE[step] * min(mine.max() / max(part.shape[:2]), 0.95 * height / max(part.shape[:2]))
        part = np.asarray(cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        top, left = (height - part.shape[0]) // 2, (height - part.shape[1]) // 2
        beside[top : top + part.shape[0], left : left + part.shape[1]] = part
    return np.hstack([face.photo, beside])


def exposed(face: Posed, stops: float) -> Image:
    """Brighten (above 0) or darken in linear light."""
    linear = (face.photo.astype(np.float32) / 255) ** 2.2 * 2**stops
    return as_image(255 * np.clip(linear, 0, 1) ** (1 / 2.2))


def shaded(face: Posed, step: int) -> Image:
    """Take light from the darker side of the face."""
    across = np.array([face.down[1], -face.down[0]]) / np.linalg.norm(face.down) ** 2
    rows, columns = np.mgrid[: face.photo.shape[0], : face.photo.shape[1]].astype(np.float32)
    x, y = face.points.mean(axis=0)
    position = (columns - x) * across[0] + (rows - y) * across[1]  # in T, from the middle of the face
    linear = (face.photo.astype(np.float32) / 255) ** 2.2
    (left, top), (right, bottom) = (np.maximum(corner, 0).astype(int) for corner in face.bounds)
    inside = np.s_[top : bottom + 1, left : right + 1]
    one, other = (linear[inside][side].mean() for side in (position[inside] < 0, position[inside] > 0))
    share = 1 - SHADED[step] * np.clip(0.5 + (position if other < one else -position) / 0.5, 0, 1)
    return as_image(255 * (linear * share[..., None]) ** (1 / 2.2))


def tinted(face: Posed, step: int) -> Image:
    """Make the photo bluish green."""
    gain = np.array([1 - TINTED[step], 1, 1 + TINTED[step] / 2])
    return as_image(face.photo * gain)


def flattened(face: Posed, step: int) -> Image:
    """Reduce the contrast around the mean of the face."""
    low, high = (corner.astype(int) for corner in face.bounds)
    mean = face.photo[max(low[1], 0) : high[1], max(low[0], 0) : high[0]].mean()
    return as_image(mean + (1 - FLATTENED[step]) * (face.photo.astype(np.float32) - mean))


def _ladder(kind: str) -> Edit:
    degrade = distortions.LADDERS[kind]
    return lambda face, step: degrade(face.photo, step, 0) if step else face.photo


EDITS: dict[str, Edit] = {
    "eyes closed": eyes_closed,
    "mouth opened": mouth_opened,
    "yaw": lambda face, step: rotated(face, TURNED[step], 0) if step else face.photo,
    "pitch": lambda face, step: rotated(face, 0, TURNED[step]) if step else face.photo,
    "roll": rolled,
    **{
        f"cut off, {side}": lambda face, step, side=side: cut_off(face, side, step)  # type: ignore[misc]
        for side in ("left", "right", "above", "below")
    },
    "scaled down": scaled,
    "more around": widened,
    "second face": second_face,
    "darker": lambda face, step: exposed(face, -STOPS[step]),
    "brighter": lambda face, step: exposed(face, STOPS[step]),
    "one side dark": shaded,
    "tinted": tinted,
    "less contrast": flattened,
    "blur": _ladder("blur"),
    "enlarged": _ladder("low_resolution"),
    "noise": lambda face, step: (
        distortions.white_noise(face.photo, NOISE_SIGMA[step - 1], 0) if step else face.photo
    ),
    "JPEG": _ladder("jpeg"),
}
