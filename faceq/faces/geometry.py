"""Face geometry: alignment, upright crops and head pose. Pure functions on arrays.

Frame coordinates are pixels, x to the right and y down. Five landmarks are a (5, 2) array in the order eye,
eye (left in the image first), nose tip, mouth corner, mouth corner (left in the image first).
"""

import cv2
import numpy as np

ALIGNED_SIZE = 112
"""Side of the aligned face, the input of recognisers, in pixels."""

ALIGNED_LANDMARKS = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Positions of the landmarks in an aligned face. Source: the ArcFace template (insightface, face_align)."""

CROP_SIZE = 256
"""Side of the upright face crop, the input of the quality stage, in pixels."""

SPACING = 1.25
"""Maximum distance, in image pixels, of the points at which a crop samples an image that it reduces to half
the size or less.

On portraits that are reduced 4 to 5 times, `dbcnn` is 0.06 points higher on average, and 0.5 at most, than
with a distance of 1, and sampling takes 0.6 of the time. Between full and half size the distance is at most
1: there, 1.25 would raise it by up to 2 points."""

HALVED_FROM = 8.0
"""An image that a crop reduces by at least this factor is halved first, so that sampling does not cost more
for larger faces. Halving blurs slightly: from 4 on, `dbcnn` would be 0.6 points lower."""

HEAD_MODEL = np.array(
    [
        [-0.500, -0.525, 0.079],
        [0.500, -0.525, 0.079],
        [0.0, 0.046, -0.462],
        [-0.431, 0.505, 0.155],
        [0.431, 0.505, 0.155],
    ]
)
"""The landmarks of an average frontal head: x right, y down, z away from the camera. The unit is the distance
between the eyes. x and y are medians over 1,170 CelebA faces rotated upright, z is the median over 655 of
FaceMesh's depths; made symmetric. Therefore the median CelebA face has a pitch of 0."""

_FIT_TO_HEAD = np.linalg.pinv(HEAD_MODEL - HEAD_MODEL.mean(axis=0))
"""(3, 5): the least-squares fit of an affine map from the head to centred landmarks."""

PNP_MODEL = np.array(
    [
        [0.0, 0.0, 0.0],
        [0.0, 330.0, 65.0],
        [-225.0, -170.0, 135.0],
        [225.0, -170.0, 135.0],
        [-150.0, 150.0, 125.0],
        [150.0, 150.0, 125.0],
    ]
)
"""Nose tip, chin, outer eye corners and mouth corners of a generic head, with the axes of HEAD_MODEL, in
arbitrary units. Source: S. Mallick (see `head_pose_pnp`), with the signs of y and z inverted."""


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity transform (rotation, uniform scale, shift) that best maps points `source` (N, 2) to
    `target` (N, 2).

    Returns:
        (2, 3) float64 affine matrix for cv2.warpAffine.

    Source: least squares over complex numbers, which is Umeyama's solution (1991) in the plane.
    """
    origin, goal = source.mean(axis=0), target.mean(axis=0)
    a = (source - origin) @ [1, 1j]
    b = (target - goal) @ [1, 1j]
    turn = np.vdot(a, b) / max(np.vdot(a, a).real, 1e-12)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, goal - linear @ origin])


def align(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Rotate and scale the face to the recogniser's template, like insightface's `norm_crop`, except that a
    larger face is averaged down (see `warp`).

    Args:
        image: (H, W, 3) uint8.
        landmarks: (5, 2).

    Returns:
        (112, 112, 3) uint8, same colour order; the area outside the frame is black.
    """
    return warp(image, align_map(landmarks), ALIGNED_SIZE)


def align_map(landmarks: np.ndarray) -> np.ndarray:
    """The map (2, 3) from the frame to the aligned face of five landmarks (5, 2)."""
    return similarity(landmarks.astype(np.float64), ALIGNED_LANDMARKS)


def aligned_landmarks(width: int, height: int) -> np.ndarray:
    """The template's landmarks (5, 2) in an aligned face that was resized to `width` x `height` pixels.

    Resizing keeps the edges of the picture, so the centre c of a pixel moves to (c + 1/2) * scale - 1/2.
    """
    scale = np.array([width, height]) / ALIGNED_SIZE
    return (ALIGNED_LANDMARKS + 0.5) * scale - 0.5


def align_error(landmarks: np.ndarray) -> float:
    """How badly five landmarks (5, 2) fit the recogniser's template: the root mean square distance after the
    fit of `align`, in pixels of the aligned face. It is also larger for faces turned to the side."""
    matrix = align_map(landmarks)
    return _root_mean_square(from_frame(landmarks.astype(np.float64), matrix) - ALIGNED_LANDMARKS)


def misalignment(landmarks: np.ndarray, width: int, height: int) -> float:
    """How far the landmarks (5, 2) of a face are from the template's, in a picture of this size that is an
    aligned face: root mean square, pixels of the aligned face. Unlike in `align_error`, nothing is fitted, so
    it is also larger if the picture is badly aligned."""
    away = landmarks.astype(np.float64) - aligned_landmarks(width, height)
    return _root_mean_square(away * ALIGNED_SIZE / (width, height))


def _root_mean_square(away: np.ndarray) -> float:
    return float(np.sqrt((away**2).sum(axis=1).mean()))


def crop_matrix(centre: np.ndarray, side: float, angle: float, size: int = CROP_SIZE) -> np.ndarray:
    """The map from the frame to an upright crop of a square region.

    Args:
        centre: centre of the square (2,), frame pixels.
        side: side of the square, frame pixels.
        angle: angle of the line through the eyes, radians, clockwise as seen; the line is level in the crop.
        size: side of the crop, pixels.

    Returns:
        (2, 3) float64: frame pixels to crop pixels.
    """
    scale = size / max(side, 1.0)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([linear, size / 2 - linear @ centre])


def eye_angle(landmarks: np.ndarray) -> float:
    """Angle of the line through the eyes of five landmarks (5, 2), radians, clockwise as seen, 0 upright."""
    across = landmarks[1].astype(np.float64) - landmarks[0].astype(np.float64)
    return float(np.arctan2(across[1], across[0]))


def upright_extent(points: np.ndarray, angle: float) -> tuple[np.ndarray, float]:
    """Centre (2,) and side of the square around points (N, 2) whose sides are tilted by `angle`, radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    level = points @ turn.T
    low, high = level.min(axis=0), level.max(axis=0)
    return turn.T @ ((low + high) / 2), float((high - low).max())


def crop(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright face crop, (256, 256, 3) uint8, same colour order.

    The area outside the frame is filled with mirrored pixels, because a black edge would affect the quality
    score.
    """
    return warp(image, matrix, CROP_SIZE, cv2.BORDER_REFLECT_101)


def warp(image: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Map an image (H, W, 3) uint8 by `matrix` (2, 3) to a square of `size` pixels.

    If the map reduces the image, it is sampled at an integer multiple of the size and averaged down, because
    a plain warp would skip pixels and cause aliasing. See SPACING and HALVED_FROM.
    `border`: OpenCV's border mode for the area outside the image.
    """
    shrink = 1 / max(np.hypot(matrix[0, 0], matrix[0, 1]), 1e-6)
    if shrink >= HALVED_FROM:
        image, matrix = part(image, matrix, size)
    while shrink >= HALVED_FROM and min(image.shape[:2]) > 1:
        image, matrix, shrink = *averaged(image, matrix, 2), shrink / 2
    factor = max(min(2, int(np.ceil(shrink))), int(np.ceil(shrink / SPACING)))
    if factor == 1:
        return cv2.warpAffine(image, matrix, (size, size), borderMode=border)
    # Pixel centres have integer coordinates: scaling by k maps centre c to k*c + (k-1)/2.
    scaled = matrix * factor
    scaled[:, 2] += (factor - 1) / 2
    large = cv2.warpAffine(image, scaled, (factor * size, factor * size), borderMode=border)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


def part(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image that a square crop shows, with a margin of one crop pixel and at least three image
    pixels, and the map from it to the crop."""
    margin = max(1.0, 3 * np.hypot(matrix[0, 0], matrix[0, 1]))
    corners = crop_corners(matrix, size, margin)
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low + 1, (width, height))
    moved = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
    return image[low[1] : high[1], low[0] : high[0]], moved


def averaged(image: np.ndarray, matrix: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) averaged over `factor` x `factor` pixels, and the map (2, 3) from it to the crop.
    Rows and columns at the end that do not fill a pixel are left out."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: factor * height, : factor * width]
    reduced = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    # The centre of a pixel c of the result is at k*c + (k-1)/2 in the image.
    moved = matrix[:, 2] + (factor - 1) / 2 * matrix[:, :2].sum(axis=1)
    return reduced, np.column_stack([factor * matrix[:, :2], moved])


def shrunk(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) scaled down by averaging, for a detector.

    It is averaged over whole pixels first and then brought to the exact size: cv2.INTER_AREA takes ten times
    as long with a fractional factor as with an integer.

    Args:
        scale: at most 1.

    Returns:
        The scaled image, and the size of its pixels in pixels of the original, x and y, (2,). Pixels at the
        right and lower edge that do not fill an averaged pixel are left out.
    """
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    factor = min(int(1 / scale + 1e-6), height, width)
    if factor > 1:
        height, width = height // factor, width // factor
        image = cv2.resize(
            image[: factor * height, : factor * width], (width, height), interpolation=cv2.INTER_AREA
        )
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image, np.array([factor * width / size[0], factor * height / size[1]])


def to_frame(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Convert points (N, 2) from crop to frame coordinates; `matrix` is the crop's frame-to-crop map."""
    return (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def from_frame(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Convert points (N, 2) from frame to crop coordinates; `matrix` is the crop's frame-to-crop map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def crop_corners(matrix: np.ndarray, size: int, beyond: float = 0.5) -> np.ndarray:
    """Corners of a square crop of `size` pixels in frame coordinates, (4, 2), clockwise as seen in the crop.
    They are `beyond` crop pixels outside the centres of its corner pixels: by default, at their edges."""
    outwards = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return to_frame(frame_corners(size, size) + beyond * outwards, matrix)


def inside_share(polygon: np.ndarray, width: int, height: int) -> float:
    """Share of the area of a convex polygon (N, 2) in frame coordinates that is inside the frame, 0...1."""
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    return _area(clipped(polygon, edges)) / max(_area(polygon), 1e-12)


def _area(polygon: np.ndarray) -> float:
    """Area of a polygon (N, 2); N may be 0."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def frame_corners(width: int, height: int) -> np.ndarray:
    """Centres of a frame's corner pixels, (4, 2), clockwise as seen."""
    right, low = width - 1, height - 1
    return np.array([[0, 0], [right, 0], [right, low], [0, low]], np.float64)


def clipped(polygon: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Clip a polygon (N, 2) of any shape to a convex quadrilateral (4, 2) whose corners are in clockwise
    order as seen.

    Returns:
        (M, 2) of the polygon's type. Points inside are unchanged. M is 0 if no part is inside.

    Source: Sutherland and Hodgman, "Reentrant Polygon Clipping", 1974.
    """
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along, away = end - start, polygon - start
        depth = along[0] * away[:, 1] - along[1] * away[:, 0]  # 0 or more on the inner side of this edge
        if (depth >= 0).all():
            continue
        kept = []
        for index in range(len(polygon)):
            here, before = polygon[index], polygon[index - 1]
            if (depth[index] >= 0) != (depth[index - 1] >= 0):
                kept.append(before + (here - before) * depth[index - 1] / (depth[index - 1] - depth[index]))
            if depth[index] >= 0:
                kept.append(here)
        polygon = np.array(kept, polygon.dtype).reshape(-1, 2)
    return polygon


def coverage(polygon: np.ndarray, width: int, height: int) -> float:
    """Share of a width x height frame inside a polygon (N, 2) in frame coordinates, 0...1."""
    corners = np.round(polygon).astype(np.int32)
    low = np.clip(corners.min(axis=0), 0, (width, height))
    high = np.clip(corners.max(axis=0) + 1, low, (width, height))
    canvas = np.zeros((high - low)[::-1], np.uint8)  # only as large as the polygon: a frame can be huge
    if canvas.size:
        cv2.fillPoly(canvas, [corners - low], 1)
    return float(np.count_nonzero(canvas)) / (width * height)


def polygon_mask(polygon: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32, 1 inside the polygon (N, 2) and 0 outside; N may be 0."""
    canvas = np.zeros((size, size), np.uint8)
    if len(polygon):
        cv2.fillPoly(canvas, [np.round(polygon).astype(np.int32)], 1)
    return canvas.astype(np.float32)


def head_pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a head in degrees, from five landmarks (5, 2).

    Positive yaw: the face is turned to the right in the image. Positive pitch: up. Positive roll: tilted
    clockwise as seen in the image. An average frontal portrait gives about 0, 0, 0.

    Source: pose from orthography and scaling (DeMenthon and Davis, 1995), first iteration: the best affine
    map from HEAD_MODEL to the image, with its rows made orthonormal.
    """
    image = landmarks.astype(np.float64)
    rows = (_FIT_TO_HEAD @ (image - image.mean(axis=0))).T
    u, _, vt = np.linalg.svd(rows, full_matrices=False)
    right, down = u @ vt
    depth = np.cross(right, down)
    return _angles(np.stack([right, down, depth]))


def head_pose_pnp(landmarks: np.ndarray, width: int, height: int) -> tuple[float, float, float] | None:
    """Yaw, pitch and roll of a head in degrees, with the signs of `head_pose`, by a perspective fit to six
    landmarks; None if no head in front of the camera fits them.

    Args:
        landmarks: (6, 2) in frame pixels: nose tip, chin, outer eye corners and mouth corners, left in the
            image first.
        width, height: size of the frame. The camera is assumed to have its optical centre in the middle of
            the frame and a focal length of the frame's width.

    Source: the recipe used by CAFI and many others (S. Mallick, "Head Pose Estimation using OpenCV and dlib",
    2016): cv2.solvePnP with PNP_MODEL. Its iterative solver sometimes puts small faces behind the camera,
    upside down (144 of 400 faces of 100 pixels with landmarks that are off by one pixel). SQPNP (Terzakis and
    Lourakis, ECCV 2020) never does this and is the fallback for these faces.
    """
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
    points = np.ascontiguousarray(landmarks, np.float64)
    for method in (cv2.SOLVEPNP_ITERATIVE, cv2.SOLVEPNP_SQPNP):
        try:
            solved, turn, shift = cv2.solvePnP(PNP_MODEL, points, camera, None, flags=method)
        except cv2.error:  # the points may coincide, lie on a line or not be finite
            return None
        if solved and shift[2, 0] > 0:
            return _angles(cv2.Rodrigues(turn)[0])
    return None


def _angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees from the rotation (3, 3) from head to camera coordinates."""
    # The nose points along -z of the head; `forward` is its direction in camera coordinates.
    forward = -rotation[:, 2]
    yaw = np.degrees(np.arctan2(forward[0], -forward[2]))
    pitch = np.degrees(np.arcsin(np.clip(-forward[1], -1, 1)))
    # Roll is the tilt of the line through the eyes once yaw and pitch are undone.
    level = np.array([np.cos(np.radians(yaw)), 0.0, np.sin(np.radians(yaw))])
    below = np.cross(-forward, level)
    eye_axis = rotation[:, 0]
    roll = np.degrees(np.arctan2(eye_axis @ below, eye_axis @ level))
    return float(yaw), float(pitch), float(roll)
