"""The stages that score faces. The first stage of the job, FindFace, is in `faceq.stages.find_face`.

Each stage is a plain class: `__init__` loads a model, `__call__` takes a table of frames and returns the same
rows with more columns. Stages contain no code for distribution. With `faces: all`, a row has a list of faces
instead of these columns (`faceq.stages.frame_faces`).

A frame that is dropped gets its `status`. Its pixels are removed; its row passes through the later stages
unchanged. Models run on padded mini-batches of one fixed shape. With another batch size the last bits of a
result may differ, and a row must not depend on the other frames of its batch.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from faceq.config import Config
from faceq.errors import UsageError
from faceq.faces import detect, geometry, landmarks, region
from faceq.fiq import serfiq
from faceq.fiq.distances import GAP, DropoutDistances
from faceq.fiq.recogniser import Backbone
from faceq.iqa import checkpoint, scorer
from faceq.iqa.checkpoint import Checkpoint
from faceq.runtime.device import check_cuda
from faceq.runtime.minibatch import Model, OomSafeBatcher, in_mini_batches
from faceq.runtime.numerics import Numerics
from faceq.runtime.threads import limit_threads, without_tf32
from faceq.stage_resources import Pool
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.find_face import crop_side
from faceq.stages.frame_faces import per_face, with_main_face, without_values
from faceq.stages.precision import NO_BF16
from faceq.table.schema import pending, pixels, scatter_column

log = logging.getLogger(__name__)

_PROBE_SIDE = 128
"""Side, in pixels, of the test images for a user's quality checkpoint before the job. Small images are enough
to detect its scale."""

_ALIGNED_SHAPE = (geometry.ALIGNED_SIZE, geometry.ALIGNED_SIZE, 3)


NO_FEATURES = (
    "the recogniser gives no usable features for this face (they are zero or not finite): check its model "
    "file, or exclude the frame"
)
NO_QUALITY = (
    "the quality network gives no finite score for this face: check its model file, or exclude the frame"
)


class ScoreFiq:
    """SER-FIQ of the aligned face, in closed form or by Monte Carlo dropout passes.

    In: aligned. Out: serfiq_raw, serfiq, embedding_norm, and embedding if it is kept. Faces below the
    threshold get the status `below_fiq`, and the inputs of the quality stage are removed. A face for which
    the recogniser gives no usable features becomes an unreadable row.

    Args:
        config, models: the settings and their models.
        note: also receives each warning about all scores of this stage, besides the log.
    """

    def __init__(
        self, config: Config, models: ChosenModels, note: Callable[[str], object] = lambda warning: None
    ):
        self._note = note
        pool = config.serfiq
        self._torch = functools.partial(_torch_settings, pool.threads, pool.runs_on)
        path, known = models.path("recogniser"), models.recogniser
        with self._torch():
            self._distances = DropoutDistances(
                path,
                known,
                config.serfiq_passes,
                pool.runs_on,
                pool.mini_batch,
                pool.threads,
                models.numerics.serfiq,
                trusted="recogniser" not in models.replaced,
            )
        self._calibration = models.calibration
        self._embeddings = config.embeddings
        self._threshold = np.float32(config.fiq_threshold)
        self._unmeasured = config.serfiq_passes is None and not known.closed_form_holds
        if pool.runs_on == "cuda":  # warm up: the first batch takes longer, because CUDA loads its kernels
            with self._torch():
                self._distances(np.full((1, *_ALIGNED_SHAPE), 128, np.uint8))

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._torch():
            return per_face(self._score, batch)

    def _score(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        faces = pixels(batch, "aligned", rows, _ALIGNED_SHAPE)
        none = np.empty(0, np.float32), np.empty((0, 1), np.float32)
        distance, embedding = self._distances(faces) if len(faces) else none
        good = serfiq.is_valid(distance, embedding)
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
        # Compare the stored (rounded) value, so that a later query separates the same faces.
        below = rows[score.astype(np.float32) < self._threshold]
        batch = scatter_column(batch, "status", below, ["below_fiq"] * len(below))
        for name in ("crop", "outline", "crop_map", "mask_coverage"):
            batch = scatter_column(batch, name, below, [None] * len(below))
        return batch.drop_columns(["aligned"])

    def _measure_gap(self, faces: np.ndarray) -> None:
        """Warn if the closed form is not valid for this recogniser. No row depends on the result."""
        gap = self._distances.gap(faces)
        if gap is not None and not abs(gap) <= GAP:
            warning = (
                f"serfiq: for this recogniser the closed form's distances differ by about {gap:+.0%} from "
                "those of Monte Carlo dropout: set serfiq_passes: 100 for Monte Carlo dropout, as published"
            )
            log.warning("%s", warning)
            self._note(warning)


class ScoreQuality:
    """DB-CNN of the face, pooled inside the mask (or in another region, see `quality_region`).

    In: crop, outline. Out: dbcnn, and the status `scored`. A face for which the network gives no finite score
    becomes an unreadable row. Of frames with lists of faces, the main one is chosen.
    """

    def __init__(self, config: Config, models: ChosenModels):
        pool = config.dbcnn
        self._torch = functools.partial(_torch_settings, pool.threads, pool.runs_on)
        self._side = crop_side(config)
        device = pool.runs_on
        if device == "cuda":
            check_cuda()
        self._region = config.quality_region
        self._main = config.main
        self._name = models.preset.quality
        self._numerics = models.numerics.dbcnn
        self._checkpoint = checkpoint.identify(models.path("quality"), models.quality_scale)
        with self._torch():
            self._scores_of = self._on_cuda(pool) if device == "cuda" else self._on_cpu(pool)
            probes = checkpoint.probes(self._side)  # also warms up the model, as in ScoreFiq
            self._check(self._rate(probes, np.ones(probes.shape[:3], np.float32)))

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._torch():
            return with_main_face(per_face(self._score, batch), self._main)

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
        checkpoint.check_scale(points, self._checkpoint, self._name, both_sides)

    def _on_cpu(self, pool: Pool) -> Model:
        _check_precision(self._checkpoint, self._name, self._numerics)
        size = pool.mini_batch
        scores_of = scorer.on_cpu(self._checkpoint, size, self._side, pool.threads, self._numerics)
        return functools.partial(in_mini_batches, scores_of, size)

    def _on_cuda(self, pool: Pool) -> Model:
        scores_of = scorer.on_cuda(self._checkpoint, half=self._numerics.precision == "fp16")
        return OomSafeBatcher(scores_of, pool.mini_batch, "dbcnn")


@contextlib.contextmanager
def _torch_settings(threads: int, device: str) -> Iterator[None]:
    """Apply the stage's settings of torch inside a block, then restore the previous ones."""
    with limit_threads(threads), without_tf32() if device == "cuda" else contextlib.nullcontext():
        yield


def check_own_models(config: Config, models: ChosenModels) -> None:
    """Load the models that replace those of the preset, so that a wrong file is reported before the job
    starts.

    Raises:
        ModelFileError: a file is not the model it should be.
    """
    if "detector" in models.replaced:
        detect.load(models.path("detector"), config.det_threshold)
    if "landmarks" in models.replaced:
        landmarks.load(models.path("landmarks"))
    if "recogniser" in models.replaced:
        known = models.recogniser
        Backbone(models.path("recogniser"), known.dropout, known.mean, known.std)
    if "quality" in models.replaced or config.quality_scale:
        found = checkpoint.identify(models.path("quality"), models.quality_scale)
        _check_precision(found, models.preset.quality, models.numerics.dbcnn)
        probes = checkpoint.probes(_PROBE_SIDE)
        scores_of = scorer.on_cpu(found, len(probes), _PROBE_SIDE, threads=1)
        (points,) = scores_of(probes, np.ones(probes.shape[:3], np.float32))
        checkpoint.check_scale(points, found, models.preset.quality)


def _check_precision(found: Checkpoint, name: str, numerics: Numerics) -> None:
    """UsageError if a network should compute in bf16 and cannot. `precision.resolve` does not know which
    network a file of the user contains."""
    if numerics.precision == "bf16" and found.published:
        raise UsageError(NO_BF16.format(name))


def masks_of(batch: pa.Table, rows: np.ndarray, side: int = geometry.CROP_SIZE) -> np.ndarray:
    """(len(rows), side, side) float32: 1 inside the outlines from FindFace, 0 outside."""
    column = batch["outline"]
    outlines = [np.frombuffer(column[int(row)].as_buffer(), np.float32).reshape(-1, 2) for row in rows]
    return np.stack([geometry.polygon_mask(outline, side) for outline in outlines])
