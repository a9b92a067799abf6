"""The first stage of the job: find the face and crop it. The other stages are in `faceq.stages.scores`.

It runs on every CPU of a cluster, in short-lived processes. It does not use torch, whose import takes longer
than loading all of its models.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from faceq.config import FRAME_REGIONS, Config
from faceq.faces import detect, geometry, landmarks, region
from faceq.faces.aligned import AlignedPictures, check_square
from faceq.faces.all_faces import all_faces
from faceq.faces.batched_search import BatchedSearch
from faceq.faces.dhash import dhash
from faceq.faces.finder import Finder, Found, face_confidence, is_face
from faceq.faces.landmarks import Dense
from faceq.faces.search import Steps, finished, run
from faceq.runtime.device import check_cuda
from faceq.sources.decode.image import UnreadableError, decode
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.component_measures import Upright, component_measures
from faceq.stages.frame_faces import IS_MAIN, with_faces
from faceq.table.measure_columns import MEASURES
from faceq.table.schema import pending, scatter_column

AT_ONCE = 2
"""Number of frames that are in work at the same time on a GPU, in mini-batches: enough to fill one while the
frames of another are cropped."""

BOX_ENLARGEMENT = 1.5
MESH_ENLARGEMENT = 1.68
"""Side of the quality crop, relative to the side of the detector's box, and relative to the square around
FaceMesh's points. Both give the same crop size for the median CelebA face."""


class FindFace:
    """Decode a frame, find the face that is scored, compute its landmarks, pose and outline, and crop it.
    With `faces: all`, all of this for each face; the columns from `face_x` on are then fields of `faces`.
    With `faces: aligned`, the frame is the face, and no detector is loaded.

    In: image (encoded bytes). Out: status, error, width … roll, mask_coverage, dhash. Frames with a face also
    get `aligned` (112x112 RGB, for the recogniser), and for the quality stage `crop` (RGB, `crop_side` wide
    and high: the upright face or, for FRAME_REGIONS, the whole frame, blacked out) and `outline` (the part of
    the face's outline inside the frame, (N, 2) float32 in crop pixels). All of this is one stage, so that
    only crops, and never a frame's pixels, leave the process.

    On CPUs, frames are processed one by one. On a GPU, many are in work at the same time:
    `find_face.num_cpus` threads decode and crop, and the networks get their images in mini-batches.

    Args:
        config, models: the settings of the job, and its models.
        batched: whether to process many frames at the same time. Default: only on CUDA. The rows are the same
            except for the last bits of values.
    """

    def __init__(self, config: Config, models: ChosenModels, batched: bool | None = None):
        pool = config.find_face
        device, threads = pool.runs_on, pool.threads
        if device == "cuda":
            check_cuda()
        batched = device == "cuda" if batched is None else batched
        mini_batch = pool.mini_batch if batched else None
        landmarker = landmarks.load(models.path("landmarks"), device, threads, mini_batch)
        self._batched = BatchedSearch(threads, AT_ONCE * pool.mini_batch) if batched else None
        self._aligned = config.faces == "aligned"
        self._find: Finder | AlignedPictures
        self._max_faces = config.max_faces if config.all_faces else None
        if self._aligned:
            self._find = AlignedPictures(landmarker)
        else:
            detector = detect.load(models.path("detector"), config.det_threshold, device, threads, mini_batch)
            self._find = Finder(detector, landmarker, config.min_face)
        self._preset = models.preset
        self._region = config.quality_region
        self._measures = config.measures == "all"
        self._min_face = config.min_face
        self._max_pixels = config.max_pixels
        self._limits = config.limits

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        images = [batch["image"][int(row)] for row in rows]
        if self._batched is None:
            found = [run(self._begin(image)[0]) for image in images]
        else:
            found = self._batched(self._begin, images)
        names = (*_FRAME_COLUMNS, *_FACE_COLUMNS) if self._max_faces is None else _FRAME_COLUMNS
        for name in names:
            batch = scatter_column(batch, name, rows, [values.get(name) for values in found])
        if self._max_faces is not None:
            of_rows = dict(zip(rows.tolist(), found, strict=True))
            faces = [of_rows.get(row, {}).get("faces", []) for row in range(len(batch))]
            batch = with_faces(batch, faces, ("status", "error", *_FACE_COLUMNS))
        return batch.drop_columns(["image"])

    def _begin(self, image: pa.BinaryScalar) -> tuple[Steps[dict[str, Any]], int]:
        """The search for the values of an encoded frame, and the memory that its pixels take, bytes."""
        try:
            picture = decode(image.as_py(), self._max_pixels, self._limits)
            if self._aligned:
                check_square(picture)
        except UnreadableError as error:
            return finished({"status": "unreadable", "error": str(error)}), 0
        return self._measure(picture), picture.nbytes

    def _measure(self, picture: np.ndarray) -> Steps[dict[str, Any]]:
        height, width = picture.shape[:2]
        found = yield from self._find.steps(picture)
        values: dict[str, Any] = {
            "width": width,
            "height": height,
            "n_faces": len(found.areas) if found else 0,
        }
        if found is None or not (self._aligned or is_face(found)):
            return values | {"status": "no_face"}
        if self._max_faces is None or isinstance(self._find, AlignedPictures):
            return values | self._of_face(picture, found)
        faces = yield from all_faces(self._find, picture, found, self._min_face, self._max_faces)
        of_faces = [{**self._of_face(picture, face), IS_MAIN: face is found} for face in faces]
        return values | {"faces": of_faces}

    def _of_face(self, picture: np.ndarray, found: Found) -> dict[str, Any]:
        """The values of a face of a frame, and its crops."""
        height, width = picture.shape[:2]
        face, dense = found.face, found.dense
        if face.box[2:].min() < self._min_face:
            return _face_columns(found, width, height) | {"status": "face_too_small"}
        outline = dense.outline(self._preset.outline)
        upright = upright_face(picture, found, outline)
        crop, edge, is_frame = upright.crop, upright.outline, self._region in FRAME_REGIONS
        if is_frame:
            crop = region.blacked_out(picture, outline, as_jpeg=self._region == "frame_jpeg")
            edge = outline * (np.array(crop.shape[1::-1]) / (width, height))
        aligned = geometry.align(picture, face.landmarks if found.given is None else found.given)
        columns = _face_columns(found, width, height) | self._pose(dense, width, height)
        measured = self._measured(picture, found, outline, upright, columns["yaw"])
        return {
            **columns,
            **measured,
            "face_confidence": face_confidence(found),
            "align_error": _align_error(found, width, height),
            "mask_coverage": geometry.coverage(outline, width, height),
            "dhash": dhash(aligned),
            "aligned": aligned.tobytes(),
            "crop": crop.tobytes(),
            "outline": edge.astype(np.float32).tobytes(),
            "crop_map": None if is_frame else upright.matrix.tobytes(),
        }

    def _measured(
        self, picture: np.ndarray, found: Found, outline: np.ndarray, upright: Upright, yaw: float
    ) -> dict[str, float | None]:
        if not self._measures:
            return {}
        values = component_measures(picture, found, outline, upright, yaw)
        return values if _shows_landmarks(found) else {**values, "eye_distance": None}

    def _pose(self, dense: Dense, width: int, height: int) -> dict[str, float]:
        if self._preset.pose == "five":
            return {}
        pose = geometry.head_pose_pnp(dense.points[list(dense.pose)], width, height)
        # Without a fit, keep the pose from the five landmarks, so that every face has a pose.
        return dict(zip(("yaw", "pitch", "roll"), pose, strict=True)) if pose else {}


def crop_side(config: Config) -> int:
    """Side of the crops made by FindFace, in pixels."""
    return region.FRAME_SIDE if config.quality_region in FRAME_REGIONS else geometry.CROP_SIZE


_FRAME_COLUMNS = ("status", "error", "width", "height", "n_faces")
_FACE_COLUMNS = (
    *("face_x", "face_y", "face_w", "face_h"),
    *("det_score", "landmarks", "yaw", "pitch", "roll", "mask_coverage", "dhash"),
    *("face_confidence", "align_error", "aligned", "crop", "outline", "crop_map"),
    *(measure.name for measure in MEASURES),
)


def quality_matrix(found: Found) -> np.ndarray:
    """The map (2, 3) from the frame to the upright crop for the quality score.

    The crop is based on FaceMesh's points, so that it does not depend on the background; if the landmark
    model does not give the five landmarks, it is based on the detector's box.
    """
    face = found.face
    angle = geometry.eye_angle(face.landmarks)
    if found.dense.five is None:
        return geometry.crop_matrix(face.centre, BOX_ENLARGEMENT * face.side, angle)
    centre, side = geometry.upright_extent(found.dense.points, angle)
    return geometry.crop_matrix(centre, MESH_ENLARGEMENT * side, angle)


def upright_face(picture: np.ndarray, found: Found, outline: np.ndarray) -> Upright:
    """The crop of a face for the quality score, with its outline (N, 2), which is in frame pixels."""
    height, width = picture.shape[:2]
    matrix = quality_matrix(found)
    # Outside the frame the crop contains mirrored pixels: exclude them from the outline.
    corners = geometry.from_frame(geometry.frame_corners(width, height), matrix)
    inside = geometry.clipped(geometry.from_frame(outline, matrix), corners)
    return Upright(geometry.crop(picture, matrix), matrix, inside)


def _face_columns(found: Found, width: int, height: int) -> dict[str, Any]:
    """The columns of the face, from `face_x` to `roll`."""
    x, y, face_width, face_height = found.face.box
    landmarks, dense, pose = found.face.landmarks, found.dense, None
    if not _shows_landmarks(found):
        pose = geometry.head_pose_pnp(dense.points[list(dense.pose)], width, height)
    yaw, pitch, roll = pose or geometry.head_pose(landmarks)
    return {
        **{"face_x": x, "face_y": y, "face_w": face_width, "face_h": face_height},
        "det_score": found.face.score if found.given is None else None,
        "landmarks": (landmarks if found.given is None else found.given).ravel(),
        **{"yaw": yaw, "pitch": pitch, "roll": roll},
    }


def _shows_landmarks(found: Found) -> bool:
    """Whether the five landmarks are those of this face, and not the template's."""
    return found.given is None or found.dense.five is not None


def _align_error(found: Found, width: int, height: int) -> float | None:
    if found.given is None:
        return geometry.align_error(found.face.landmarks)
    return geometry.misalignment(found.face.landmarks, width, height) if _shows_landmarks(found) else None
