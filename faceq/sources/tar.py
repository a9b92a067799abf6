"""Reader for WebDataset tars, plain or compressed. It streams: a shard is never loaded as a whole."""

import contextlib
import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from faceq.sources.compressed import DAMAGE, MAGIC_BYTES, Compression, compression_of, unpacked
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, kind_of, printable
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
)
from faceq.sources.samples import Samples
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.sources.tar_archive import Archive, Member
from faceq.table.schema import frame_id


def read_tar(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one tar, or of a part of it, in its order."""
    names, samples = Names(shard.source), Samples(reading)
    offset, end = (shard.begin, shard.end) if isinstance(shard, TarPart) else (0, None)
    compression = broken = None
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_shard(shard, reading))
            expansion = Expansion(stream, reading.limits)
            # The content decides, not the extension: files get renamed, and some download tools unpack them.
            compression = compression_in(stream)
            stream.seek(offset)
            if compression:
                memory = reading.limits.source_memory
                stream = stack.enter_context(unpacked(stream, compression, memory, expansion.add))
            archive = stack.enter_context(_archive_in(stream, reading))
            while (member := archive.next_member()) is not None:
                if end is not None and member.offset >= end:
                    break
                offset = member.offset
                if is_hidden(member):
                    continue
                yield from samples.before(member.name)
                if _is_picture(archive, member, reading):
                    frame = _tar_frame(shard, archive, member, names, expansion, reading)
                    yield from samples.add(member.name, frame)
                else:
                    samples.add_sidecar(member.name, _sidecar(archive, member, reading))
            else:
                offset = archive.offset
                if archive.fault is not None:
                    raise tarfile.ReadError(archive.fault)
                if end is not None:
                    raise ChangedError  # there was a member at `end`
    except Exception as error:
        broken = break_of(shard, error, f"at byte {offset}{' (unpacked)' if compression else ''}", reading)
    yield from samples.finish()
    if broken is not None:
        yield broken


def compression_in(stream: BinaryIO) -> Compression | None:
    """How a tar is compressed, None if it is not; `stream` is at its start."""
    return compression_of(stream.read(MAGIC_BYTES))


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


def _tar_frame(
    shard: Shard,
    archive: Archive,
    member: Member,
    names: Names,
    expansion: Expansion,
    reading: Reading,
) -> Frame:
    """The frame in a member that is an image."""
    name = names.unique(printable(member.name))
    if frame_id(shard.source, name, 0) in reading.done:
        return Frame(shard.source, name, 0, None, done=True)
    if member.no_file:
        return Frame(shard.source, name, 0, None, error=_no_file(member))
    if member.size > reading.limits.frame_bytes:
        return Frame(shard.source, name, 0, None, error=too_long(member.size, reading))
    if member.size > member.stored:
        expansion.add(member.size)
    return Frame(shard.source, name, 0, member.read(archive))


def _sidecar(archive: Archive, member: Member, reading: Reading) -> bytes | None:
    """The content of a member that is not an image; None if it is left out."""
    most = min(member.stored, reading.most_sidecar_bytes)
    is_sparse = member.stretches is not None
    if member.no_file or is_sparse or member.size > most or not reading.most_sidecar_bytes:
        return None
    return member.read(archive)


def holds_frame(archive: Archive, member: Member, reading: Reading) -> bool:
    """Whether a member becomes a frame, readable or not. Call it before `member.read`."""
    return not is_hidden(member) and _is_picture(archive, member, reading)


def is_hidden(member: Member) -> bool:
    """Whether a member is left out because of its name, such as macOS's `._0001.jpg`."""
    return posixpath.basename(member.name).startswith(".")


def _is_picture(archive: Archive, member: Member, reading: Reading) -> bool:
    kind = kind_of(member.name)
    if kind is None and reading.any_name and not member.no_file:
        return kind_of_bytes(member.start(archive, ENOUGH)) == "picture"
    return kind == "picture"


def _no_file(member: Member) -> str:
    what = member.no_file
    if what == "a link":
        what = f"a link to {printable(member.linkname)}"
    return f"{what}, not an image: store the image itself in the tar"
