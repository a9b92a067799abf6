"""Videos made by tests, and their frames as the readers return them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from faceq.config import Video
from faceq.sources import read_shards
from faceq.sources.decode import packed
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.sources.video.picture import png
from faceq.storage.settings import S3Settings

BLOCK = 16


def numbered(index: int) -> np.ndarray:
    """A frame that encodes its number in eight black and white blocks of 16x16 pixels, one per bit."""
    bits = (index >> np.arange(8).reshape(2, 4) & 1).astype(np.uint8) * 255
    return bits.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None].repeat(3, 2)


def number_in(pixels: np.ndarray) -> int:
    centres = pixels[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK, 0] > 127
    return int((centres.ravel() << np.arange(8)).sum())


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: int = 25,
    times: Sequence[int] | None = None,
    rotation: tuple = (0,),
    muxer: dict[str, str] | None = None,
    form: str | None = None,
    pixels: str | None = None,
    context: dict[str, Any] | None = None,
    **options: str,
) -> Path:
    """Write a video of RGB frames. `times`: milliseconds, if the frames are not evenly spaced. `options`: of
    the encoder. `context`: attributes of the encoder. `form`: the container, if the ending does not give it.
    `pixels`: the pixel format."""
    with av.open(str(path), "w", form, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate, options=options)
        for name, value in (context or {}).items():
            setattr(stream.codec_context, name, value)
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.thread_count = 1
        stream.pix_fmt = pixels or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation != (0,):
            stream.set_display_rotation(*rotation)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, rate if times is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def only_sound(path: Path) -> bytes:
    """A file with sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux([*stream.encode(silence), *stream.encode()])
    return path.read_bytes()


def write_numbered(path: Path, count: int = 50, **options) -> Path:
    return write_video(path, [numbered(index) for index in range(count)], **options)


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def read(*inputs: Path, done=(), **sampling) -> list[Frame]:
    shards = list_shards([str(path) for path in inputs], S3Settings())
    return list(read_shards(shards, S3Settings(), done, Video(**sampling)))


def pixels_of(frame: Frame) -> np.ndarray:
    assert frame.image is not None, frame.error
    return decode(frame.image, 10_000_000)


def numbers(frames: list[Frame]) -> list[int]:
    return [number_in(pixels_of(frame)) for frame in frames]


def noise(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8) for seed in range(count)]


def as_file(image: bytes) -> bytes:
    """The bytes of a frame as an export writes them: a packed frame of a video becomes a PNG."""
    return png(packed.unpack(image)) if packed.is_packed(image) else image
