"""Write the large files of `measure_parts`: a sparse tar, and a long video of repeated frames."""

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av

MEMBER_BYTES = 64_000
"""Size of an image in the tar: that of a 384x384 JPEG of high quality."""


def write_tar(path: Path, gigabytes: float) -> int:
    """Write a tar of images that consist of zeros, and take no space on most disks. Returns their number."""
    step = tarfile.BLOCKSIZE * (1 + -(-MEMBER_BYTES // tarfile.BLOCKSIZE))
    count = int(gigabytes * 2**30 / step)
    info = tarfile.TarInfo()
    info.size = MEMBER_BYTES
    with open(path, "wb", buffering=0) as file:
        for index in range(count):
            info.name = f"{index:09}.jpg"
            os.pwrite(file.fileno(), info.tobuf(tarfile.USTAR_FORMAT), index * step)
        os.truncate(path, count * step + 2 * tarfile.BLOCKSIZE)
    return count


def write_video(path: Path, hours: float, clip: Path) -> int:
    """Repeat the coded frames of a clip, which must begin with a key frame, until the video is long enough.
    Returns the number of frames."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        unit = stream.time_base or Fraction(1, 1000)
        kept = [_Coded(packet) for packet in source.demux(stream) if packet.size]
        first = min(each.pts for each in kept)
        length = round(len(kept) / (stream.average_rate or 25) / unit)
        times = round(hours * 3600 / (length * unit))
        for repeat in range(times):
            for each in kept:
                packet = each.packet(repeat * length - first)
                packet.time_base, packet.stream = unit, copied
                target.mux(packet)
    return times * len(kept)


class _Coded:
    """A coded frame, which can be written several times."""

    def __init__(self, packet: av.Packet):
        self._data, self._is_key, self._duration = bytes(packet), packet.is_keyframe, packet.duration
        self.pts, self._dts = packet.pts or 0, packet.dts or 0

    def packet(self, shift: int) -> av.Packet:
        """Its packet, `shift` units later."""
        packet = av.Packet(self._data)
        packet.pts, packet.dts, packet.duration = self.pts + shift, self._dts + shift, self._duration
        packet.is_keyframe = self._is_key
        return packet
