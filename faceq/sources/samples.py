"""Samples of a WebDataset tar: frames together with the sidecars that have the same key.

A sample is what adjacent members of a tar with the same key make up. The key is the name up to the first dot
of its last part. Source: WebDataset's format, https://github.com/webdataset/webdataset.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from faceq.sources.extra import Extra
from faceq.sources.frame import Frame
from faceq.sources.listing import printable
from faceq.sources.reading import Reading

MOST_FRAMES, MOST_BYTES = 16, 8 << 20
"""Frames wait for their sidecars until there are this many of them, or bytes: names such as `clip.0001.jpg`
give a whole tar the same key."""


def key_of(name: str) -> str:
    """The key of a member."""
    folder, last = posixpath.split(name)
    return posixpath.join(folder, last.split(".", 1)[0])


def stem_of(name: str) -> str:
    """The name of a member without its last extension."""
    return posixpath.splitext(name)[0]


@dataclass
class Samples:
    """Holds back the frames of a tar until the sidecars of their sample are read.

    A sidecar whose name is that of a frame except for the last extension belongs to this frame; any other
    one belongs to all frames of the sample. Sidecars of no frame are counted as passed over.
    """

    reading: Reading
    _key: str | None = None
    _frames: list[tuple[str, Frame]] = field(default_factory=list)
    _sidecars: list[tuple[str, bytes | None]] = field(default_factory=list)

    def before(self, name: str) -> Iterator[Frame]:
        """The frames that are complete before a member of this name."""
        key = key_of(name)
        if key != self._key or (self._is_full() and stem_of(name) != stem_of(self._frames[-1][0])):
            yield from self.finish()
            self._key = key

    def _is_full(self) -> bool:
        size = sum(len(frame.image or b"") for _, frame in self._frames)
        return len(self._frames) >= MOST_FRAMES or size >= MOST_BYTES

    def add(self, name: str, frame: Frame) -> None:
        """Add a frame, the content of the member `name`."""
        self._frames.append((name, frame))

    def add_sidecar(self, name: str, content: bytes | None) -> None:
        """Add a sidecar; `content` is None if it is left out."""
        self._sidecars.append((name, content))

    def finish(self) -> Iterator[Frame]:
        """The frames that are held back, with their sidecars."""
        frames, sidecars = self._frames, self._sidecars
        self._frames, self._sidecars = [], []
        for name, content in sidecars:
            if content is None or not frames:
                self.reading.findings.pass_over(name)
        if not (self.reading.extra_bytes and sidecars):
            yield from (frame for _, frame in frames)
            return
        stems = {stem_of(name) for name, _ in frames}
        for name, frame in frames:
            stem, extra = stem_of(name), Extra(self.reading.extra_bytes)
            for other, content in sidecars:
                of = stem_of(other)
                if of != stem and of in stems:
                    continue  # of another frame
                label = printable(other[len(of if of == stem else key_of(other)) + 1 :])
                if content is None:
                    extra.leave_out(label)
                else:
                    extra.add_file(label, content)
            yield frame if frame.done else replace(frame, extra=extra.text())
