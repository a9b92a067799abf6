"""WebDataset tars, plain or gzipped, as streams of frames: no shard is ever held whole in memory."""

import contextlib
import gzip
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, cast

from faceq.frames import Frame
from faceq.listing import Shard, kind_of, printable
from faceq.sources.reading import Reading, break_of, open_shard, too_long, unique_name
from faceq.table import frame_id

_GZIP = b"\x1f\x8b"
_MAX_HEADER_BYTES = 1 << 20
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


def read_tar(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """The frames of one shard, in its order."""
    names: Counter[str] = Counter()
    offset = 0
    packed = False
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_shard(shard, reading.s3))
            # Its content decides, not its ending: people rename, and download tools unpack or do not.
            packed = stream.read(len(_GZIP)) == _GZIP
            stream.seek(0)
            if packed:
                stream = cast(BinaryIO, stack.enter_context(_Unpacked(fileobj=stream)))
            tar = stack.enter_context(_tar_of(stream))
            for info in tar:
                offset = info.offset
                hidden = posixpath.basename(info.name).startswith(".")
                if not info.isdir() and kind_of(info.name) == "picture" and not hidden:
                    name = unique_name(printable(info.name), names)
                    yield _tar_frame(shard, tar, info, name, reading)
                # tarfile remembers all that it has seen: a leak on large shards.
                tar.members.clear()  # type: ignore[attr-defined]
            offset = tar.offset
            fault = getattr(tar, "fault", None)
            if fault is not None:
                raise tarfile.ReadError(fault)
    except Exception as error:
        yield break_of(shard, error, f"at byte {offset}{' (unpacked)' if packed else ''}", reading)


class _Unpacked(gzip.GzipFile):
    """gzip that gives all that comes before a break: its `read` would lose what it has gathered so far."""

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(-1 if size is None else size)


def _tar_of(stream: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r|", tarinfo=_WatchedTarInfo)
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"it does not open as a tar ({error})") from None


def _tar_frame(
    shard: Shard, tar: tarfile.TarFile, info: tarfile.TarInfo, name: str, reading: Reading
) -> Frame:
    if frame_id(shard.source, name, 0) in reading.done:
        return Frame(shard.source, name, 0, None, done=True)
    if not info.isfile():
        what = f"a link to {printable(info.linkname)}" if info.islnk() or info.issym() else "a device or pipe"
        reason = f"{what}, not a picture: pack the shard with its content"
        return Frame(shard.source, name, 0, None, error=reason)
    if info.size > reading.limits.frame_bytes:
        return Frame(shard.source, name, 0, None, error=too_long(info.size, reading))
    member = tar.extractfile(info)
    assert member is not None  # only links, folders and devices have no content
    return Frame(shard.source, name, 0, member.read())


class _WatchedTarInfo(tarfile.TarInfo):
    """tarfile ends quietly at a header that it cannot read; this notes on the archive that it did. It also
    ends at the first end-of-archive mark; this reads on, for archives that were put together by `cat`,
    and so that gzip comes to its checksum."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_WatchedTarInfo":
        ended = False
        while True:
            try:
                return super().fromtarfile(tar)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                ended = True
            except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
                if ended:
                    raise tarfile.EOFHeaderError("end of file") from None  # type: ignore[attr-defined]
                tar.fault = "no end-of-archive mark: cut off, or its writer was stopped"  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError as error:
                tar.fault = "no tar follows the end-of-archive mark" if ended else str(error)  # type: ignore[attr-defined]
                raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_WatchedTarInfo":
        if buf and not buf.strip(b"\0"):
            raise tarfile.EOFHeaderError("end of file header")  # type: ignore[attr-defined]
        info = super().frombuf(buf, encoding, errors)
        # tarfile reads such a header whole, and a gzipped one of any size takes no room in a shard.
        if info.type in _LONG_HEADERS and info.size > _MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {info.size} bytes")
        return info
