"""The stages of the job; the first one, FindFace, has a module of its own. Each is a plain class: `__init__`
loads a model, `__call__` takes a table of frames and returns the same rows with more columns. None knows that
it is distributed.

A frame that falls out gets its `status`; its pixels go, the row flows on, and later stages leave it be.
Models run on mini-batches of one fixed shape, padded, because a network may give other last bits for
another batch size, and a row must not depend on the frames that came with it.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from faceq.config import Config, Pool
from faceq.faces import detect, geometry, landmarks, region
from faceq.fiq import serfiq
from faceq.fiq.distances import GAP, DropoutDistances
from faceq.fiq.recogniser import Backbone
from faceq.iqa import scorer
from faceq.iqa.dbcnn_lite import DBCNNLite
from faceq.iqa.scorer import OnnxQuality, TorchQuality
from faceq.runtime.device import check_cuda
from faceq.runtime.minibatch import Model, OomSafeBatcher, in_mini_batches
from faceq.runtime.threads import limit_threads, without_tf32
from faceq.sources.frame import READ_SCHEMA
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.find_face import crop_side
from faceq.table.schema import pending, pixels, scatter_column

_PROBE_SIDE = 128
"""Pixels of the pictures on which a checkpoint of one's own is tried before the job: it shows its scale on
small ones, too."""

_ALIGNED_SHAPE = (geometry.ALIGNED_SIZE, geometry.ALIGNED_SIZE, 3)


NO_FEATURES = (
    "the recogniser gives no usable features for this face (they are zero or not finite): check its file, or "
    "leave the frame out"
)
NO_QUALITY = "the quality network gives no finite score for this face: check its file, or leave the frame out"


class ScoreFiq:
    """SER-FIQ of the aligned face: in closed form, or by dropout passes.

    In: aligned. Out: serfiq_raw, serfiq, embedding_norm, and embedding if it is kept; the faces below
    the threshold get their `status` and lose what the quality stage would need. A face for which the
    recogniser gives no usable features becomes an unreadable row.
    """

    def __init__(self, config: Config, models: ChosenModels):
        pool = config.serfiq
        self._torch = functools.partial(_torch_settings, pool.threads, pool.runs_on)
        path, known = models.path("recogniser"), models.recogniser
        with self._torch():
            self._distances = DropoutDistances(
                path, known, config.serfiq_passes, pool.runs_on, pool.mini_batch, pool.threads
            )
        self._calibration = models.calibration
        self._embeddings = config.embeddings
        self._threshold = np.float32(config.fiq_threshold)
        self._unmeasured = config.serfiq_passes is None and not known.closed_form_holds
        # The first batch costs more than others (CUDA loads its kernels): an actor is ready after it.
        with self._torch():
            self._distances(np.full((1, *_ALIGNED_SHAPE), 128, np.uint8))

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._torch():
            return self._score(batch)

    def _score(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        faces = pixels(batch, "aligned", rows, _ALIGNED_SHAPE)
        none = np.empty(0, np.float32), np.empty((0, 1), np.float32)
        distance, embedding = self._distances(faces) if len(faces) else none
        good = serfiq.has_size(distance, embedding)
        batch = without_values(batch, rows[~good], NO_FEATURES)
        rows, faces, distance, embedding = rows[good], faces[good], distance[good], embedding[good]
        if self._unmeasured and len(faces):
            self._unmeasured = False
            self._measure_gap(faces)
        raw = serfiq.score(distance.astype(np.float64))
        score = serfiq.calibrated(raw, self._calibration.slope, self._calibration.threshold)
        norm = np.linalg.norm(embedding, axis=1)
        batch = scatter_column(batch, "serfiq_raw", rows, raw)
        batch = scatter_column(batch, "serfiq", rows, score)
        batch = scatter_column(batch, "embedding_norm", rows, norm)
        if self._embeddings:
            batch = scatter_column(batch, "embedding", rows, embedding / norm[:, None])
        # The stored value decides, so that a later query draws the line at the same faces.
        below = rows[score.astype(np.float32) < self._threshold]
        batch = scatter_column(batch, "status", below, ["below_fiq"] * len(below))
        for name in ("crop", "outline", "crop_map", "mask_coverage"):
            batch = scatter_column(batch, name, below, [None] * len(below))
        return batch.drop_columns(["aligned"])

    def _measure_gap(self, faces: np.ndarray) -> None:
        """Warn where the closed form does not hold for this recogniser; no row depends on it."""
        gap = self._distances.gap(faces)
        if gap is not None and not abs(gap) <= GAP:
            self.warn(
                f"serfiq: for this recogniser the closed form's distances are about {gap:+.0%} off those of "
                "dropout passes: set serfiq_passes: 100 to draw passes, as published"
            )

    def warn(self, note: str) -> None:
        """Tell the user what holds for all scores of this stage."""
        logging.getLogger(__name__).warning("%s", note)


class ScoreQuality:
    """DB-CNN of the face, pooled inside the mask (or what `quality_region` says).

    In: crop, outline. Out: dbcnn, and `status` scored. A face for which the network gives no finite score
    becomes an unreadable row.
    """

    def __init__(self, config: Config, models: ChosenModels):
        pool = config.dbcnn
        self._torch = functools.partial(_torch_settings, pool.threads, pool.runs_on)
        self._side = crop_side(config)
        device = pool.runs_on
        if device == "cuda":
            check_cuda()
        self._region = config.quality_region
        self._name = models.preset.quality
        # Making a network draws its first weights, by the host's random numbers.
        with self._torch(), torch.random.fork_rng(devices=[]):
            self._network = scorer.load(models.path("quality"), device, models.quality_scale)
            self._scores_of = self._on_cuda(pool) if device == "cuda" else self._on_cpu(pool)
            probes = scorer.probes(self._side)  # an actor is ready after them, as ScoreFiq's
            self._check(self._rate(probes, np.ones(probes.shape[:3], np.float32)))

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._torch():
            return self._score(batch)

    def _score(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        points = self._quality(batch, rows) if len(rows) else np.empty(0, np.float32)
        self._check(points, both_sides=False)
        good = np.isfinite(points)
        batch = without_values(batch, rows[~good], NO_QUALITY)
        rows, points = rows[good], points[good]
        batch = scatter_column(batch, "dbcnn", rows, np.clip(points, 0, 100))
        batch = scatter_column(batch, "status", rows, ["scored"] * len(rows))
        return batch.drop_columns(["crop", "outline", "crop_map"])

    def _quality(self, batch: pa.Table, rows: np.ndarray) -> np.ndarray:
        crops = pixels(batch, "crop", rows, (self._side, self._side, 3))
        masks = masks_of(batch, rows, self._side)
        return self._rate(*region.apply_region(self._region, crops, masks))

    def _rate(self, crops: np.ndarray, masks: np.ndarray) -> np.ndarray:
        (points,) = self._scores_of(crops, masks)
        return points

    def _check(self, points: np.ndarray, both_sides: bool = True) -> None:
        scorer.check_scale(points, self._network, self._name, both_sides)

    def _on_cpu(self, pool: Pool) -> Model:
        network = self._network
        scores_of: Model = (
            OnnxQuality(network, pool.mini_batch, pool.threads, self._side)
            if isinstance(network, DBCNNLite)
            else TorchQuality(network, "cpu", half=False)
        )
        return functools.partial(in_mini_batches, scores_of, pool.mini_batch)

    def _on_cuda(self, pool: Pool) -> Model:
        return OomSafeBatcher(TorchQuality(self._network, "cuda", half=True), pool.mini_batch, "dbcnn")


@contextlib.contextmanager
def _torch_settings(threads: int, device: str) -> Iterator[None]:
    """What a stage asks of torch while it loads or runs a model; torch is as it was after the block."""
    with limit_threads(threads), without_tf32() if device == "cuda" else contextlib.nullcontext():
        yield


def without_values(batch: pa.Table, rows: np.ndarray, error: str) -> pa.Table:
    """The batch with the frames at `rows` (int64) unreadable: of a frame that has no scores nothing is kept
    but which one it is, and why."""
    if not len(rows):
        return batch
    for name in batch.column_names:
        if name not in READ_SCHEMA.names:
            batch = scatter_column(batch, name, rows, [None] * len(rows))
    batch = scatter_column(batch, "status", rows, ["unreadable"] * len(rows))
    return scatter_column(batch, "error", rows, [error] * len(rows))


def check_own_models(config: Config, models: ChosenModels) -> None:
    """Load what stands in the preset's models' places, so that a job with a wrong file stops before it
    starts.

    Raises ModelFileError.
    """
    if "detector" in models.replaced:
        detect.load(models.path("detector"), config.det_threshold)
    if "landmarks" in models.replaced:
        landmarks.load(models.path("landmarks"))
    if "recogniser" in models.replaced:
        known = models.recogniser
        Backbone(models.path("recogniser"), known.dropout, known.mean, known.std)
    if "quality" in models.replaced or config.quality_scale:
        network = scorer.load(models.path("quality"), best=models.quality_scale)
        probes = scorer.probes(_PROBE_SIDE)
        scores_of = TorchQuality(network, "cpu", half=False)
        (points,) = scores_of(probes, np.ones(probes.shape[:3], np.float32))
        scorer.check_scale(points, network, models.preset.quality)


def masks_of(batch: pa.Table, rows: np.ndarray, side: int = geometry.CROP_SIZE) -> np.ndarray:
    """(len(rows), side, side) float32, 1 inside the outlines that FindFace found."""
    column = batch["outline"]
    outlines = [np.frombuffer(column[int(row)].as_buffer(), np.float32).reshape(-1, 2) for row in rows]
    return np.stack([geometry.polygon_mask(outline, side) for outline in outlines])
