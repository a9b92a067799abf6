"""Video frames that are packed in memory."""

import io

import numpy as np
import pytest
from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.decode import packed
from faceq.sources.decode.image import decode
from faceq.sources.video.picture import png

LIMIT = 10**7


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 1), (48, 64)])
def test_pixels_stay_the_same_in_memory_and_as_a_png(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for view in (pixels, pixels[::-1, ::-1], pixels.transpose(1, 0, 2)):
        assert np.array_equal(decode(packed.pack(view), LIMIT), view)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(view)))), view)


def test_smooth_frames_take_little_memory():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 300, 3))
    assert len(packed.pack(ramp)) < ramp.size / 100


def test_files_that_only_begin_like_a_packed_frame_are_unreadable():
    whole = packed.pack(np.zeros((8, 8, 3), np.uint8))
    huge = packed.MAGIC + np.array([1 << 30, 1 << 30], "<u4").tobytes()
    for data in (packed.MAGIC, whole[:20], whole[:-3], whole[:16] + b"\0" * 40):
        with pytest.raises(UnreadableError):
            decode(data, LIMIT)
    with pytest.raises(UnreadableError, match="more than max_pixels"):
        decode(huge, LIMIT)
