"""Reader for WebDataset tars, plain or compressed. It streams: a shard is never loaded as a whole."""

import contextlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from faceq.sources import member_files
from faceq.sources.clip import read_member
from faceq.sources.compressed import DAMAGE, MAGIC_BYTES, Compression, compression_of, unpacked
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, printable
from faceq.sources.local import ChangedError
from faceq.sources.magic import foreign
from faceq.sources.names import Names
from faceq.sources.parts import TarPart
from faceq.sources.reading import (
    Expansion,
    Reading,
    UnsupportedError,
    break_of,
    open_shard,
    too_long,
    unread_video,
)
from faceq.sources.samples import Frames, Samples
from faceq.sources.sniff import ENOUGH, is_video
from faceq.sources.tar_archive import Archive, Member
from faceq.sources.tar_members import is_hidden, kind_of_member
from faceq.storage.filesystem import is_storage_error
from faceq.table.schema import frame_id


def read_tar(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one tar, or of a part of it, in its order."""
    tar = _Tar(shard, reading)
    try:
        yield from tar.frames()
    except Exception as error:
        yield break_of(shard, error, tar.place, reading)


def compression_in(stream: BinaryIO) -> Compression | None:
    """How a tar is compressed, None if it is not; `stream` is at its start."""
    return compression_of(stream.read(MAGIC_BYTES))


class _Tar:
    """Reads a tar, or a part of it."""

    def __init__(self, shard: Shard, reading: Reading):
        self._shard, self._reading = shard, reading
        self._names, self._samples = Names(shard.source), Samples(reading)
        self._spool = member_files.Spool(reading.limits.temporary_bytes)
        self._offset, self._end = (shard.begin, shard.end) if isinstance(shard, TarPart) else (0, None)
        self._compression: Compression | None = None

    @property
    def place(self) -> str:
        """Where the reader is, for messages."""
        return f"at byte {self._offset}{' (unpacked)' if self._compression else ''}"

    def frames(self) -> Iterator[Frame]:
        """Yield the frames. Raises the error that ends the tar early, after all frames before it."""
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_shard(self._shard, self._reading))
            expansion = Expansion(stream, self._reading.limits)
            # The content decides, not the extension: files get renamed, and some download tools unpack them.
            self._compression = compression_in(stream)
            stream.seek(self._offset)
            if self._compression:
                memory = self._reading.limits.source_memory
                stream = stack.enter_context(unpacked(stream, self._compression, memory, expansion.add))
            archive = stack.enter_context(_archive_in(stream, self._reading))
            stack.callback(self._spool.close_all)
            fault = None
            try:
                yield from self._members(archive, stream, expansion)
            except Exception as error:
                fault = error
            yield from self._samples.finish()
            if fault is not None:
                raise fault

    def _members(self, archive: Archive, stream: BinaryIO, expansion: Expansion) -> Iterator[Frame]:
        samples = self._samples
        while (member := archive.next_member()) is not None:
            if self._end is not None and member.offset >= self._end:
                return
            self._offset = member.offset
            if is_hidden(member):
                continue
            yield from samples.before(member.name)
            kind = kind_of_member(archive, member, self._reading)
            if kind is None:
                samples.add_sidecar(member.name, _sidecar(archive, member, self._reading))
                continue
            name = self._names.unique(printable(member.name))
            if kind == "picture":
                frame = self._picture(archive, member, name, expansion)
                if frame is not None:
                    yield from samples.add(member.name, frame)
                    continue
            frames, fault = self._video(archive, member, name, stream, expansion)
            if frames is not None:
                yield from samples.add(member.name, frames)
            if fault is not None:
                raise fault
        self._offset = archive.offset
        if archive.fault is not None:
            raise tarfile.ReadError(archive.fault)
        if self._end is not None:
            raise ChangedError  # there was a member at `end`

    def _picture(self, archive: Archive, member: Member, name: str, expansion: Expansion) -> Frame | None:
        """The frame in a member that should be an image; None if it is a video."""
        source, reading = self._shard.source, self._reading
        if frame_id(source, name, 0) in reading.done:
            # A video may have further frames.
            is_done = not _begins_video(archive, member)
            return Frame(source, name, 0, None, done=True) if is_done else None
        if member.no_file:
            return Frame(source, name, 0, None, error=_no_file(member, "an image"))
        if member.size > reading.limits.frame_bytes:
            is_long = not _begins_video(archive, member)
            error = too_long(member.size, reading)
            return Frame(source, name, 0, None, error=error) if is_long else None
        if member.size > member.stored:
            expansion.add(member.size)
        image = member.read(archive)
        if is_video(image):
            member.keep(image)
            return None
        return Frame(source, name, 0, image)

    def _video(
        self, archive: Archive, member: Member, name: str, stream: BinaryIO, expansion: Expansion
    ) -> tuple[Frames | None, Exception | None]:
        """The frames in a member that is a video, None if none is wanted; and the error that ends the tar
        inside the video."""
        shard, reading = self._shard, self._reading
        if reading.last_of(shard.source, name) < 0:
            return None, None
        if member.no_file:
            return unread_video(shard, name, _no_file(member, "a video"), reading), None
        if not self._compression and member.stretches is None and member.size > member_files.SMALL:
            return self._in_place(member, name, stream), None
        try:
            file = self._spool.new(member.size)
            if member.size > member.stored:
                expansion.add(member.size)
            fault = self._spool.fill(file, member.pieces(archive))
        except member_files.SpoolError as error:
            return unread_video(shard, name, str(error), reading, refused=error.temporary), None
        if fault is not None and (is_storage_error(fault) or isinstance(fault, MemoryError)):
            raise fault  # the video is not damaged
        return self._from_file(file, name), fault

    def _in_place(self, member: Member, name: str, stream: BinaryIO) -> Frames:
        """The frames of a video that is read where it is in the tar."""

        def frames() -> Iterator[Frame]:
            here = stream.tell()
            window = cast(BinaryIO, member_files.Window(stream, member.offset_data, member.size))
            yield from read_member(self._shard, name, window, self._reading)
            stream.seek(here)  # the archive is read on from there

        return frames

    def _from_file(self, file: BinaryIO, name: str) -> Frames:
        """The frames of a video that was copied."""

        def frames() -> Iterator[Frame]:
            yield from read_member(self._shard, name, file, self._reading)
            self._spool.close(file)

        return frames


def _begins_video(archive: Archive, member: Member) -> bool:
    """Whether the content of a member is that of a video; not if the tar ends before it."""
    try:
        return is_video(member.start(archive, ENOUGH))
    except (tarfile.ReadError, *DAMAGE):
        return False  # the archive reports it when the next member is wanted


def _archive_in(stream: BinaryIO, reading: Reading) -> Archive:
    try:
        return Archive(stream, reading)
    except tarfile.ReadError as error:
        with contextlib.suppress(*DAMAGE):  # `error` is about the same damage
            stream.seek(0)
            what = foreign(stream.read(ENOUGH), "a tar")
            if what:
                raise UnsupportedError(f"this is {what}") from None
        raise tarfile.ReadError(f"it is not a valid tar ({error})") from None


def _sidecar(archive: Archive, member: Member, reading: Reading) -> bytes | None:
    """The content of a member that is neither an image nor a video; None if it is left out."""
    most = min(member.stored, reading.most_sidecar_bytes)
    is_sparse = member.stretches is not None
    if member.no_file or is_sparse or member.size > most or not reading.most_sidecar_bytes:
        return None
    return member.read(archive)


def _no_file(member: Member, kind: str) -> str:
    what = member.no_file
    if what == "a link":
        what = f"a link to {printable(member.linkname)}"
    return f"{what}, not {kind}: store the {kind.split()[1]} itself in the tar"
