"""Videos with sound for tests: a click sounds at the moment at which each white flash begins."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from videos import numbered

FLASHES = 7
"""Every so many frames there is a flash."""


def flashing(index: int) -> np.ndarray:
    """A frame that encodes its number in the upper half; the lower half is white in a flash."""
    light = 255 if index % FLASHES == 3 else 0
    return np.concatenate([numbered(index), np.full((32, 64, 3), light, np.uint8)])


def write_clicking(
    path: Path,
    frames: int = 100,
    rate: Fraction = Fraction(25),
    sound_rate: int = 48000,
    delay: Fraction = Fraction(0),
    codec: str = "aac",
    form: str | None = None,
    **options: str,
) -> Path:
    """`delay`: seconds after which the video begins; the sound begins at 0."""
    length = int((frames / rate + delay) * sound_rate)
    sound = np.zeros(length, np.float32)
    for index in range(3, frames, FLASHES):
        at = round((index / rate + delay) * sound_rate)
        sound[at : at + sound_rate // 200] = 0.9 * np.sin(np.arange(len(sound[at : at + sound_rate // 200])))
    with av.open(str(path), "w", form) as container:
        video = container.add_stream("libx264", rate, options={"crf": "10", **options})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream(codec, sound_rate)
        audio.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = sound_rate, 0, Fraction(1, sound_rate)
        heard = list(audio.encode(frame)) + list(audio.encode(None))
        unit = Fraction(1, 90000)
        video.codec_context.time_base = unit
        for index in range(frames):
            shown = av.VideoFrame.from_ndarray(flashing(index))
            shown.pts, shown.time_base = round((index / rate + delay) / unit), unit
            container.mux(video.encode(shown))
        container.mux(video.encode(None))
        for packet in heard:
            container.mux(packet)
    return path


def flashes_and_clicks(path: Path) -> tuple[list[float], list[float]]:
    """The times at which flashes and clicks begin, in seconds on the file's clock."""
    with av.open(str(path)) as container:
        lights = [
            (f.time, f.to_ndarray(format="gray")[40:56, 8:56].mean() > 127) for f in container.decode(video=0)
        ]
    pieces = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            pieces.append((frame.time, frame.sample_rate, frame.to_ndarray().reshape(-1, frame.samples)[0]))
    rate = pieces[0][1]
    values = np.concatenate([piece for _, _, piece in pieces])
    values = values / 32768 if values.dtype == np.int16 else values
    loud = np.flatnonzero(np.abs(values) > 0.3)
    begins = [loud[0], *loud[1:][np.diff(loud) > rate // 20]] if len(loud) else []
    return [time for time, light in lights if light], [pieces[0][0] + at / rate for at in begins]
