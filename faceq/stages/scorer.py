"""Score images in one process, without Ray, by the same stages as the job."""

import io
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from faceq.config import Config, build
from faceq.errors import UsageError
from faceq.messages.one_line import one_line
from faceq.runtime import device
from faceq.sources.frame import Frame, in_batches, to_table
from faceq.sources.listing import source_of
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.stages.placement import frames_at_once, on_gpus
from faceq.stages.scores import ScoreFiq, ScoreQuality
from faceq.storage.faults import fault_of
from faceq.storage.filesystem import absolute, filesystem, path_of, storage_errors
from faceq.storage.settings import S3Settings
from faceq.table.runs import new_run_id
from faceq.table.schema import schema, to_result_rows

AT_ONCE = 256
"""Maximum number of frames that go through the stages together: enough to fill the mini-batches of a GPU."""


Picture = str | os.PathLike[str] | bytes | np.ndarray
"""A path or a URI, encoded bytes (JPEG, PNG, …), or an RGB uint8 array (H, W, 3)."""


class Scorer:
    """Scores images in this process. It loads the models once and can then be called many times.

    Several threads may share one Scorer. Their calls run one at a time, because the models already use all
    the CPUs assigned to them (`serfiq.num_cpus`, `dbcnn.num_cpus`). torch's thread count and TensorFloat-32
    switches are changed only during a call; other settings of the process are never changed.

    Args:
        preset: the set of models.
        settings: other settings of `faceq.Config`, e.g. `fiq_threshold=0` to score every face.

    Raises:
        UsageError: an unknown preset or setting.
        LicenceError: the licence of a model was not accepted.
        ModelError: a model cannot be downloaded.

    Examples:
        >>> import faceq, skimage
        >>> scorer = faceq.Scorer(fiq_threshold=0)
        >>> scorer.score([skimage.data.astronaut()])["status"][0].as_py()
        'scored'
    """

    def __init__(self, preset: str = "embedded", **settings: Any):
        config = build({**settings, "preset": preset})
        self._s3 = config.s3
        self._at_once = frames_at_once(config, AT_ONCE)
        self._columns = schema(config.embeddings, config.all_faces)
        self._stages = stages_of(config)
        self._at_work = threading.Lock()

    def score(self, images: Iterable[Picture]) -> pa.Table:
        """Score images.

        Args:
            images: paths or URIs, encoded bytes (JPEG, PNG, …), or RGB uint8 arrays (H, W, 3),
                in any mixture.

        Returns:
            One row per image, in the given order, with the result table's columns. `source` is the absolute
            path, the URI, or `image:<position>`. An image that cannot be read has the status `unreadable`.

        Raises:
            UsageError: `images` is a single image, or an element of it is of another type.
        """
        _check_list(images)
        run_id = new_run_id()
        parts = [self._columns.empty_table()]
        frames = (_frame(position, image, self._s3) for position, image in enumerate(images))
        for batch in in_batches(frames, self._at_once):
            with self._at_work:
                parts.append(run_stages(batch, self._stages, self._columns, run_id))
        return pa.concat_tables(parts)

    __call__ = score


def score_images(images: Iterable[Picture], preset: str = "embedded", **config: Any) -> pa.Table:
    """Score images in this process.

    Each call loads the models. Pass all images in one call, or create a `Scorer` and reuse it.

    Args:
        images: paths or URIs, encoded bytes (JPEG, PNG, …), or RGB uint8 arrays (H, W, 3),
            in any mixture.
        preset: the set of models.
        config: other settings of `faceq.config.Config`, e.g. `fiq_threshold=0` to score every face.

    Returns:
        One row per image, in the given order, with the result table's columns. `source` is the absolute path,
        the URI, or `image:<position>`. An image that cannot be read has the status `unreadable`.

    Raises:
        UsageError: an unknown preset or setting, a single image instead of a list, or an element of `images`
            of another type.
        LicenceError: the licence of a model was not accepted.
        ModelError: a model cannot be downloaded.

    Examples:
        >>> import faceq, skimage
        >>> table = faceq.score_images([skimage.data.astronaut()])
        >>> table["status"][0].as_py()
        'scored'
    """
    _check_list(images)
    return Scorer(preset, **config).score(images)


def stages_of(config: Config) -> list[Callable[[pa.Table], pa.Table]]:
    """Load the stages of the job into this process, in order. They use its GPU if it has one."""
    config = in_this_process(config)
    models = choose(config)
    return [FindFace(config, models), ScoreFiq(config, models), ScoreQuality(config, models)]


def in_this_process(config: Config) -> Config:
    """The settings for one process: pools whose device is `auto` use the GPU of this machine, if any."""
    if device.usable_gpus():
        return on_gpus(config, 1)
    device.warn_if_unused()
    return config


def run_stages(
    frames: list[Frame], stages: Iterable[Callable[[pa.Table], pa.Table]], columns: pa.Schema, run_id: str
) -> pa.Table:
    """Run frames through the stages. Returns their result rows, in order, with the given columns."""
    table = to_table(frames)
    for stage in stages:
        table = stage(table)
    return to_result_rows(table, columns, run_id)


def _check_list(images: Any) -> None:
    """UsageError if `images` is a single image. Text and bytes can be iterated, too, and so can the rows of
    an array; an array of several images (N, H, W, 3) or of paths is as good as a list."""
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview)
    if isinstance(images, np.ndarray):
        one = images.ndim <= 3 and images.dtype.kind not in "OSU"
    if one or not isinstance(images, Iterable):
        raise UsageError("images must be a list; put the single image into a list: [image]")


def _frame(position: int, image: Any, s3: S3Settings) -> Frame:
    if isinstance(image, str | os.PathLike):
        return _read(os.fspath(image), s3)
    name = f"image:{position}"
    if isinstance(image, bytes | bytearray | memoryview):
        return Frame(name, None, 0, bytes(image))
    if (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size
    ):
        # Encode it losslessly, so that it goes through the same stages as every other frame.
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG", compress_level=1)
        return Frame(name, None, 0, encoded.getvalue())
    kind = f"array {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UsageError(f"{name}: expected a path, encoded bytes or an RGB uint8 array (H, W, 3), got {kind}")


def _read(path: str, s3: S3Settings) -> Frame:
    place = absolute(path)
    source = source_of(place)
    try:
        return Frame(source, None, 0, filesystem(place, s3).cat_file(path_of(place)))
    except FileNotFoundError:
        return Frame(source, None, 0, None, error="could not be read: there is no such file")
    except (OSError, ValueError, *storage_errors()) as error:
        if isinstance(error, UsageError):
            raise
        fault = fault_of(error)
        reason = fault.text if fault else f"could not be read: {one_line(error)}"
        return Frame(source, None, 0, None, error=reason)
