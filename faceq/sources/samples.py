"""Samples of a WebDataset tar: frames together with the sidecars that have the same key.

A sample is what adjacent members of a tar with the same key make up. The key is the name up to the first dot
of its last part. Source: WebDataset's format, https://github.com/webdataset/webdataset.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from faceq.sources.extra import Extra
from faceq.sources.frame import Frame, Sidecars
from faceq.sources.listing import printable
from faceq.sources.reading import Reading

MOST_FRAMES, MOST_BYTES = 16, 64 << 20
"""Maximum number of frames in a sample, and maximum size of several. What is larger is no sample, but a
series: names such as `clip.0001.jpg` give a whole tar the same key."""

MOST_SIDECARS = 256
"""Maximum number of sidecars of a sample that are kept until its frames are complete."""

Frames = Frame | Callable[[], Iterator[Frame]]
"""What a member gives: the frame of an image, or, when it is called, the frames of a video."""


def key_of(name: str) -> str:
    """The key of a member."""
    start = name.rfind("/") + 1
    return name[:start] + name[start:].split(".", 1)[0]


def stem_of(name: str) -> str:
    """The name of a member without its last extension."""
    start = name.rfind("/") + 1
    return name[:start] + name[start:].rsplit(".", 1)[0]


def subkey_of(name: str) -> str:
    """The key of a member and what follows up to the next dot, if that is not its last extension."""
    start = name.rfind("/") + 1
    return name[:start] + ".".join(name[start:].split(".")[:-1][:2] or [name[start:]])


@dataclass
class Samples:
    """Holds back the frames of a tar until the sidecars of their sample are read. A video is held back before
    it is decoded, so that none of its frames is in memory.

    A sidecar whose name begins with that of a frame, up to the frame's last extension, belongs to this frame.
    Any other one belongs to all frames of the sample; in a series, to none. Sidecars of no frame are counted
    as passed over.
    """

    reading: Reading
    _key: str | None = None
    _is_series: bool = False
    _frames: list[tuple[str, Frames]] = field(default_factory=list)
    _sidecars: list[tuple[str, bytes | None]] = field(default_factory=list)
    _beyond: int = 0  # sidecars beyond MOST_SIDECARS

    def before(self, name: str) -> Iterator[Frame]:
        """The frames that are complete before a member of this name."""
        key = key_of(name)
        if key != self._key:
            yield from self.finish()
            self._key, self._is_series = key, False
        elif self._is_series and self._frames and subkey_of(name) != subkey_of(self._frames[-1][0]):
            yield from self.finish()

    def add(self, name: str, frame: Frames) -> Iterator[Frame]:
        """Add what the member `name` gives. Yields the frames that need not wait any more."""
        if not self.reading.most_sidecar_bytes:
            yield from _all_of(frame)
            return
        size = sum(len(waiting.image or b"") for _, waiting in self._frames if isinstance(waiting, Frame))
        if len(self._frames) >= MOST_FRAMES or (self._frames and size >= MOST_BYTES):
            self._is_series = True
            ahead = self._ahead_of(subkey_of(name))
            yield from self.finish()
            self._sidecars = ahead
        self._frames.append((name, frame))

    def _ahead_of(self, subkey: str) -> list[tuple[str, bytes | None]]:
        """Take out the sidecars that came before the next frame and belong to it."""
        if subkey == subkey_of(self._frames[-1][0]):
            return []
        ahead = [sidecar for sidecar in self._sidecars if subkey_of(sidecar[0]) == subkey]
        self._sidecars = [sidecar for sidecar in self._sidecars if subkey_of(sidecar[0]) != subkey]
        return ahead

    def add_sidecar(self, name: str, content: bytes | None) -> None:
        """Add a sidecar; `content` is None if it is left out."""
        if not self.reading.most_sidecar_bytes or len(self._sidecars) >= MOST_SIDECARS:
            self.reading.findings.pass_over(name)
            self._beyond += 1
            return
        size = sum(len(each or b"") for _, each in (*self._sidecars, (name, content)))
        each_frame = 1 if self.reading.keep_sidecars else MOST_FRAMES
        is_kept = size <= each_frame * self.reading.most_sidecar_bytes
        self._sidecars.append((name, content if is_kept else None))

    def finish(self) -> Iterator[Frame]:
        """The frames that are held back, with their sidecars."""
        frames, sidecars, beyond = self._frames, self._sidecars, self._beyond
        self._frames, self._sidecars, self._beyond = [], [], 0
        stems = [stem_of(name) for name, _ in frames]
        owners = [_owner(name, stems) for name, _ in sidecars]
        for (name, content), owner in zip(sidecars, owners, strict=True):
            if content is None or not frames or (owner is None and self._is_series):
                self.reading.findings.pass_over(name)
        for stem, (_, frame) in zip(stems, frames, strict=True):
            own = [
                (_label(name, stem if owner else key_of(name)), content)
                for (name, content), owner in zip(sidecars, owners, strict=True)
                if owner == stem or (owner is None and not self._is_series)
            ]
            came = self._came_with(own, beyond)
            for each in _all_of(frame):
                yield each if each.done else replace(each, **came)

    def _came_with(self, sidecars: list[tuple[str, bytes | None]], beyond: int) -> dict[str, Any]:
        """The fields of a frame for its sidecars. `beyond`: how many more there were."""
        if self.reading.keep_sidecars:
            files = [(label, content) for label, content in sidecars if content is not None]
            return {"sidecars": Sidecars(tuple(files), len(sidecars) - len(files) + beyond)}
        extra = Extra(self.reading.extra_bytes)
        for label, content in sidecars:
            if content is None:
                extra.leave_out(label)
            else:
                extra.add_file(label, content)
        return {"extra": extra.text()}


def _all_of(frames: Frames) -> Iterable[Frame]:
    return (frames,) if isinstance(frames, Frame) else frames()


def _owner(name: str, stems: list[str]) -> str | None:
    """The longest stem of a frame with which the name of a sidecar begins; None if it belongs to the whole
    sample."""
    matching = [stem for stem in stems if name.startswith(f"{stem}.") and stem != key_of(name)]
    return max(matching, key=len, default=None)


def _label(name: str, start: str) -> str:
    """The name of a sidecar's value: what follows the key or the stem; all of the name if nothing does."""
    return printable(name[len(start) + 1 :] or name[name.rfind("/") + 1 :])
