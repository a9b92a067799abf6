"""The component measures of a face in a frame, by column of the result table."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from faceq.faces import artefacts, geometry, measures
from faceq.faces.finder import Found

MOST_NATIVE = 128
"""Longest side, in frame pixels, of the part of a face in which noise and block artefacts are measured: more
pixels would hardly change them, and cost time."""

INNER_CROP, INNER_FRAME = np.ones((7, 7), np.uint8), np.ones((5, 5), np.uint8)
"""The mask shrinks by half of this before artefacts are measured, so that the edge of the face has no part in
them."""


@dataclass(frozen=True)
class Upright:
    """An upright face. crop: (256, 256, 3) uint8 RGB. matrix: (2, 3), the map from the frame to the crop.
    outline: (N, 2) in crop pixels, the part of the face's outline inside the frame; N may be 0."""

    crop: np.ndarray
    matrix: np.ndarray
    outline: np.ndarray


def component_measures(
    picture: np.ndarray, found: Found, outline: np.ndarray, upright: Upright, yaw: float
) -> dict[str, float | None]:
    """All measures of a face; those that cannot be computed for this face are None or missing.

    Args:
        picture: the frame, (H, W, 3) uint8 RGB.
        found: its face.
        outline: (N, 2), the outline of the face in frame pixels.
        upright: the same face.
        yaw: of the head, degrees.
    """
    height, width = picture.shape[:2]
    landmarks = found.face.landmarks
    values = {
        "single_face": measures.single_face(found.areas),
        "eye_distance": measures.eye_distance(landmarks, yaw),
        "face_inside": measures.face_inside(outline, width, height),
        **_relative_to_head(found, outline, width, height),
    }
    mask = geometry.polygon_mask(upright.outline, len(upright.crop)).astype(np.uint8)
    if not mask.any():
        return values
    left, top, mask_width, mask_height = cv2.boundingRect(mask)
    inside = np.s_[top : top + mask_height, left : left + mask_width]  # the rest would only cost time
    crop, mask = np.ascontiguousarray(upright.crop[inside]), np.ascontiguousarray(mask[inside])
    light = _of_light(crop, mask, geometry.from_frame(landmarks, upright.matrix) - (left, top))
    return values | light | _of_artefacts(picture, outline, crop, mask)


def _relative_to_head(found: Found, outline: np.ndarray, width: int, height: int) -> dict[str, float | None]:
    dense = found.dense
    length = measures.head_length(found.face.landmarks, dense.chin)
    if length < 1:
        return {}
    names = ("margin_left", "margin_right", "margin_above", "margin_below")
    lids, lips = dense.lids, dense.lips
    return {
        "head_size": length / height,
        **dict(zip(names, measures.margins(outline, width, height, length), strict=True)),
        "eyes_open": None if lids is None else min(measures.gap(dense.points, eye, length) for eye in lids),
        "mouth_open": None if lips is None else measures.gap(dense.points, lips, length),
    }


def _of_light(crop: np.ndarray, mask: np.ndarray, landmarks: np.ndarray) -> dict[str, float | None]:
    light = measures.luminance(crop)
    shares = measures.histogram(light, mask)
    mean, variance = measures.luminance_moments(shares)
    dark, bright = measures.exposure(shares)
    return {
        **{"luminance_mean": mean, "luminance_variance": variance},
        **{"under_exposed": dark, "over_exposed": bright},
        "dynamic_range": measures.dynamic_range(shares),
        "illumination_uniformity": measures.illumination_uniformity(light, mask, landmarks),
        "natural_colour": measures.natural_colour(np.array(cv2.mean(crop, mask)[:3])),
    }


def _of_artefacts(
    picture: np.ndarray, outline: np.ndarray, crop: np.ndarray, mask: np.ndarray
) -> dict[str, float | None]:
    inner = cv2.erode(mask, INNER_CROP, borderValue=0) > 0
    part, inside = native_part(picture, outline)
    return {
        "sharpness": artefacts.sharpness(grey_of(crop), inner),
        "noise": artefacts.noise(part, inside),
        "compression": artefacts.compression(part, inside),
    }


def native_part(picture: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a face in frame pixels, grey; and where it is inside the outline."""
    (left, right), (top, bottom) = (
        _middle(float(along.min()), float(along.max()), size)
        for along, size in zip(outline.T, picture.shape[1::-1], strict=True)
    )
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    canvas = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(outline - (left, top)).astype(np.int32)], 1)
    return grey_of(part), cv2.erode(canvas, INNER_FRAME, borderValue=0) > 0


def _middle(low: float, high: float, size: int) -> tuple[int, int]:
    """The middle MOST_NATIVE pixels of the pixels between two coordinates that are in a frame of a size."""
    start, end = (min(max(math.floor(edge), 0), size) for edge in (low, high + 1))
    start += math.floor(max(end - start - MOST_NATIVE, 0) / 2)
    return start, min(end, start + MOST_NATIVE)


def grey_of(image: np.ndarray) -> np.ndarray:
    """Luma of an RGB uint8 image (H, W, 3): (H, W) float32, 0..255."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
