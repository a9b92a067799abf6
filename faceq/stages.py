"""The stages of the job. Each is a plain class: `__init__` loads a model, `__call__` takes a table of
frames and returns the same rows with more columns. None knows that it is distributed.

A frame that falls out gets its `status`; its pixels go, the row flows on, and later stages leave it be.
Models run on mini-batches of one fixed shape, padded, because a network may give other last bits for
another batch size, and a row must not depend on the frames that came with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import torch

from faceq import dbcnn, geometry, mask, models, recognise, serfiq
from faceq.config import Config
from faceq.dbcnn_onnx import OnnxMaps
from faceq.decode import UnreadableError, decode
from faceq.detect import Face, YuNet
from faceq.dhash import dhash
from faceq.mask import FaceMesh
from faceq.table import pending, pixels, with_values

HEAD_BATCH = 32
"""Faces that the closed form takes at once: reading the last layer from memory is most of its time."""

HALF_TOLERANCE = 0.5
"""Points of `dbcnn` by which half precision may move a score."""

_ALIGNED_SHAPE = (geometry.ALIGNED_SIZE, geometry.ALIGNED_SIZE, 3)
_CROP_SHAPE = (geometry.CROP_SIZE, geometry.CROP_SIZE, 3)


class FindFace:
    """Decode a frame, find its largest face, measure its landmarks, pose and outline, cut it out.

    In: image (encoded bytes). Out: status, error, width … roll, mask_coverage, dhash, and for the frames that
    go on `aligned` (112x112 RGB, for the recogniser), `crop` (256x256 RGB) and `oval` (the outline of the
    face, (36, 2) float32 in crop pixels), for the quality stage. One stage for all of it, so that a
    frame's pixels never leave the process: only crops do.
    """

    def __init__(self, config: Config):
        preset = config.models
        self._detector = YuNet(models.fetch(preset.detector, report=print), config.det_threshold)
        self._mesh = FaceMesh(models.fetch(preset.mesh, report=print))
        cv2.setNumThreads(config.find_face.threads)
        self._min_face = config.min_face
        self._max_pixels = config.max_pixels

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        images = batch["image"]
        found = [self._measure(images[int(row)].as_py()) for row in rows]
        for name in _FACE_COLUMNS:
            batch = with_values(batch, name, rows, [values.get(name) for values in found])
        return batch.drop_columns(["image"])

    def _measure(self, image: bytes) -> dict[str, object]:
        try:
            picture = decode(image, self._max_pixels)
        except UnreadableError as error:
            return {"status": "unreadable", "error": str(error)}
        height, width = picture.shape[:2]
        faces = self._detector(picture)
        values: dict[str, object] = {"width": width, "height": height, "n_faces": len(faces)}
        if not faces:
            return values | {"status": "no_face"}
        face = faces[0]
        if face.box[2:].min() < self._min_face:
            return values | _face_columns(face) | {"status": "face_too_small"}
        matrix = geometry.crop_matrix(face.box, face.landmarks)
        crop = geometry.crop(picture, matrix)
        points = self._mesh(crop)
        face = _refined(face, geometry.to_frame(mask.five(points), matrix))
        oval = mask.oval(points)
        outline = geometry.to_frame(oval, matrix)
        aligned = geometry.align(picture, face.landmarks)
        return {
            **values,
            **_face_columns(face),
            "mask_coverage": geometry.coverage(outline, width, height),
            "dhash": dhash(aligned),
            "aligned": aligned.tobytes(),
            "crop": crop.tobytes(),
            "oval": oval.astype(np.float32).tobytes(),
        }


_FACE_COLUMNS = (
    *("status", "error", "width", "height", "n_faces", "face_x", "face_y", "face_w", "face_h"),
    *("det_score", "landmarks", "yaw", "pitch", "roll", "mask_coverage", "dhash"),
    *("aligned", "crop", "oval"),
)


def _refined(face: Face, dense: np.ndarray) -> Face:
    """The face with its landmarks half way between the detector's and the mesh's (5, 2).

    Measured on 1,170 CelebA faces with SFace: false non-matches at FMR 1e-3 are 12.3% with the
    detector's landmarks, 8.5% with the mesh's and 10.0% half way; the area under SER-FIQ's
    error-versus-discard curve to 0.3, relative to no discard, is 0.539, 0.590 and 0.563.
    """
    return replace(face, landmarks=((face.landmarks + dense) / 2).astype(np.float32))


def _face_columns(face: Face) -> dict[str, object]:
    x, y, width, height = face.box
    yaw, pitch, roll = geometry.head_pose(face.landmarks)
    return {
        **{"face_x": x, "face_y": y, "face_w": width, "face_h": height, "det_score": face.score},
        **{"landmarks": face.landmarks.ravel(), "yaw": yaw, "pitch": pitch, "roll": roll},
    }


class ScoreFiq:
    """SER-FIQ of the aligned face: in closed form, or by dropout passes.

    In: aligned. Out: serfiq_raw, serfiq, embedding_norm, and embedding if it is kept; the faces below
    the threshold get their `status` and lose what the quality stage would need.
    """

    def __init__(self, config: Config):
        pool = config.serfiq
        torch.set_num_threads(pool.threads)
        self._backbone = recognise.from_zoo(config.models.recogniser, pool.device, pool.threads)
        head, passes = self._backbone.head, config.serfiq_passes
        self._closed_form = serfiq.ClosedForm(head, pool.device) if passes is None else None
        self._monte_carlo = serfiq.MonteCarlo(head, passes, pool.device) if passes is not None else None
        self._calibration = config.calibrated()
        self._embeddings = config.embeddings
        self._threshold = np.float32(config.fiq_threshold)
        self._mini_batch = pool.mini_batch
        self._device = pool.device
        # The first batch costs more than others (CUDA loads its kernels): an actor is ready after it.
        self._distances(np.full((1, *_ALIGNED_SHAPE), 128, np.uint8))

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        faces = pixels(batch, "aligned", rows, _ALIGNED_SHAPE)
        distance, embedding = self._distances(faces)
        serfiq.check_distances(distance)
        raw = serfiq.score(distance.astype(np.float64))
        score = serfiq.calibrated(raw, self._calibration.slope, self._calibration.threshold)
        norm = np.linalg.norm(embedding, axis=1)
        batch = with_values(batch, "serfiq_raw", rows, raw)
        batch = with_values(batch, "serfiq", rows, score)
        batch = with_values(batch, "embedding_norm", rows, norm)
        if self._embeddings:
            batch = with_values(batch, "embedding", rows, embedding / norm[:, None])
        # The stored value decides, so that a later query draws the line at the same faces.
        below = rows[score.astype(np.float32) < self._threshold]
        batch = with_values(batch, "status", below, ["below_fiq"] * len(below))
        for name in ("crop", "oval", "mask_coverage"):
            batch = with_values(batch, name, below, [None] * len(below))
        return batch.drop_columns(["aligned"])

    def _distances(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(faces):
            return np.empty(0, np.float32), np.empty((0, 1), np.float32)
        (features,) = in_mini_batches(lambda part: (self._backbone(part),), self._mini_batch, faces)
        if self._closed_form is not None:
            distance, embedding = in_mini_batches(self._head, HEAD_BATCH, features)
            return distance, embedding
        assert self._monte_carlo is not None
        seeds = [serfiq.seed_of(face) for face in faces]
        return self._monte_carlo(torch.from_numpy(features).to(self._device), seeds)

    def _head(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._closed_form is not None
        return self._closed_form(torch.from_numpy(features).to(self._device))


class ScoreQuality:
    """DB-CNN of the face, pooled inside the mask (or what `quality_region` says).

    In: crop, oval. Out: dbcnn, and `status` scored.
    """

    def __init__(self, config: Config):
        pool = config.dbcnn
        torch.set_num_threads(pool.threads)
        network = dbcnn.load_dbcnn_lite(models.fetch(config.models.quality, report=print), pool.device)
        self._quality_of = (
            OnnxQuality(network, pool.mini_batch, pool.threads)
            if pool.device == "cpu"
            else HalfQuality(network, pool.device)
        )
        self._region = config.quality_region
        self._mini_batch = pool.mini_batch
        grey = np.full((1, *_CROP_SHAPE), 128, np.uint8)
        self._rate(grey, np.ones(grey.shape[:3], np.float32))  # an actor is ready after it, as ScoreFiq's

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        quality = self._quality(batch, rows) if len(rows) else np.empty(0, np.float32)
        batch = with_values(batch, "dbcnn", rows, np.clip(quality, 0, 100))
        batch = with_values(batch, "status", rows, ["scored"] * len(rows))
        return batch.drop_columns(["crop", "oval"])

    def _quality(self, batch: pa.Table, rows: np.ndarray) -> np.ndarray:
        crops = pixels(batch, "crop", rows, _CROP_SHAPE)
        masks = masks_of(batch, rows)
        return self._rate(*mask.shown(self._region, crops, masks))

    def _rate(self, crops: np.ndarray, masks: np.ndarray) -> np.ndarray:
        (quality,) = in_mini_batches(self._quality_of, self._mini_batch, crops, masks)
        return quality


def masks_of(batch: pa.Table, rows: np.ndarray) -> np.ndarray:
    """(len(rows), 256, 256) float32, 1 inside the ovals that FindFace found."""
    ovals = pixels(batch, "oval", rows, (36 * 2 * 4,)).view(np.float32).reshape(-1, 36, 2)
    return np.stack([geometry.polygon_mask(oval, geometry.CROP_SIZE) for oval in ovals])


class OnnxQuality:
    """DB-CNN-Lite's scores of mini-batches of one shape; its networks run in ONNX Runtime.

    Takes crops (mini_batch, S, S, 3) uint8 RGB and masks (mini_batch, S, S) float32, gives (mini_batch,)
    float32.
    """

    def __init__(self, network: dbcnn.DBCNNLite, mini_batch: int, threads: int):
        self._network = network
        self._maps = OnnxMaps(network, mini_batch, geometry.CROP_SIZE, threads)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        maps = self._maps(crops)
        return (self._network.rate(maps, torch.from_numpy(masks)[:, None]).numpy(),)


class HalfQuality:
    """The same for GPUs: the networks in half precision, what is pooled and all after it in single.

    Scores differ from OnnxQuality's by HALF_TOLERANCE points at most.
    """

    def __init__(self, network: dbcnn.DBCNNLite, device: str):
        self._device = device
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        # (N, S, S, 3) seen as (N, 3, S, S) is channels_last already.
        images = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2).float() / 255
        with torch.autocast(self._device, torch.float16):
            maps = self._network.maps(images)
        inside = torch.from_numpy(masks).to(self._device)[:, None]
        return (self._network.rate(maps, inside).cpu().numpy(),)


def in_mini_batches(
    model: Callable[..., tuple[np.ndarray, ...]], size: int, *arrays: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Run a model over arrays of N items in mini-batches of exactly `size`, the last one padded by zeros.

    Args:
        model: takes one array per argument, each with `size` items, and returns arrays with as many.
        arrays: N items each, N at least 1.

    Returns:
        One array of N items for each that the model returns.
    """
    count = len(arrays[0])
    parts = [model(*mini) for mini in _padded(size, arrays)]
    return tuple(np.concatenate(part)[:count] for part in zip(*parts, strict=True))


def _padded(size: int, arrays: tuple[np.ndarray, ...]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(arrays[0]), size):
        parts = [array[start : start + size] for array in arrays]
        fill = size - len(parts[0])
        yield [np.concatenate([part, np.zeros((fill, *part.shape[1:]), part.dtype)]) for part in parts]
