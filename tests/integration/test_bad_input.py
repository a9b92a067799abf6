"""A corpus of damaged and unusual input: every frame has a row, and an error says what to do."""

import gzip
import io
import lzma
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage
from compressors import FORMS, pack
from pictures import encoded
from PIL import Image, TiffImagePlugin

from faceq import config
from faceq.errors import UsageError
from faceq.job import pipeline
from faceq.sources import read_shards
from faceq.sources.frame import Frame, in_batches, to_table
from faceq.sources.listing import list_shards
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

MAX_PIXELS = 1_000_000
S3Settings = S3Settings()


@dataclass(frozen=True)
class Case:
    """One shard of the corpus.

    file: its name. content: its bytes, or a function that creates it at a path. good: number of readable
    frames. bad: regular expressions for the errors of the unreadable frames, in the order of the rows.
    """

    file: str | bytes
    content: bytes | Callable[[str], object]
    good: int
    bad: tuple[str, ...] = ()


# --- images ---

PHOTO = Image.fromarray(np.ascontiguousarray(skimage.data.astronaut()[60:188, 160:288]))


JPEG = encoded(PHOTO, "JPEG", quality=90)
DARK = Image.new("RGB", PHOTO.size)


def png(width: int, height: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG whose header has this size, independent of its rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def cut_off() -> dict[str, Case]:
    """Each format, truncated in its first bytes, in its header, in its pixels and near its end."""
    cases = {}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encoded(PHOTO, kind)
        for place, length in {
            "start": 6,
            "header": 24,
            "middle": len(data) // 2,
            "end": len(data) - 60,
        }.items():
            name = f"{kind.lower()}-cut-{place}"
            cases[name] = Case(f"{name}.{kind.lower()}", data[:length], 0, ("damaged or cut off .*again",))
    return cases


def tiff_of_page(tags: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF with these additional tags of bytes."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in tags.items():
        info[tag] = bytes(values)
        info.tagtype[tag] = 1
    return encoded(PHOTO, "TIFF", tiffinfo=info)


def foreign() -> dict[str, Case]:
    """Files that are called .jpg but are not JPEGs."""
    unsupported = {
        "photoshop": (b"8BPS\0\1" + bytes(60), "Photoshop .PSD."),
        "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        "raw-canon": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), "Camera raw"),
        "raw-fuji": (b"FUJIFILMCCD-RAW 0201" + bytes(60), "Camera raw"),
        "raw-dng": (tiff_of_page({50706: (1, 4, 0, 0)}), "Camera raw"),
        "postscript": (encoded(PHOTO, "EPS"), "PostScript .EPS."),
        "jpeg-xr": (b"II\xbc\x01" + bytes(40), "JPEG XR"),
        "gimp": (b"gimp xcf v011\0" + bytes(40), "GIMP"),
        "openexr": (b"\x76\x2f\x31\x01" + bytes(40), "High dynamic range"),
        "icon": (encoded(PHOTO, "ICO", sizes=[(32, 32)]), "Icon .ICO."),
        "dicom": (bytes(128) + b"DICM" + bytes(40), "DICOM"),
    }
    others = {
        "html": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page .*failed download"),
        "xml": (
            b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
            "XML, such as an error response",
        ),
        "json": (b'{"error": "not found"}', "JSON"),
        "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\n", "git lfs pull"),
        "mp3": (b"ID3\x04" + bytes(60), "audio"),
        "mp3-bare": (b"\xff\xfb\x90\x64" + bytes(60), "audio"),
        "flac": (b"fLaC" + bytes(60), "audio"),
        "wave": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(60), "audio"),
        "apple-double": (b"\0\x05\x16\x07" + bytes(60), "macOS"),
        "thumbs-db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "Windows"),
        "zip": (b"PK\x03\x04" + bytes(60), "unpack it"),
        "zeros": (bytes(5000), "5000 zero bytes"),
    }
    cases = {
        name: Case(f"{name}.jpg", data, 0, (f"{words}.* are not supported: (convert|develop)",))
        for name, (data, words) in unsupported.items()
    }
    cases |= {
        name: Case(f"{name}.jpg", data, 0, (f"not an image but .*{words}",))
        for name, (data, words) in others.items()
    }
    cases["video"] = Case("video.jpg", b"\0\0\0\x18ftypisom" + bytes(60), 0, ("without its index",))
    cases["noise"] = Case(
        "noise.jpg", b"\x93\x01\x02", 0, ("not an image .first bytes: 93 01 02.*JPEG, PNG",)
    )
    cases["empty"] = Case("empty.jpg", b"", 0, (r"empty \(0 bytes\)",))
    return cases


def with_scans(count: int) -> bytes:
    data = encoded(PHOTO, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at : at + 10] * count + b"\xff\xd9"


def damaged() -> dict[str, Case]:
    """Complete files with damage inside."""
    tables = JPEG.index(b"\xff\xc4")
    size = JPEG.index(b"\xff\xc0") + 5
    again = ("damaged or cut off .*copy or export it again",)
    return {
        # The decoder continues after a damaged section, as image viewers do.
        "jpeg-scan-damaged": Case("scan.jpg", changed(JPEG, len(JPEG) // 2, bytes(range(200))), 1),
        "jpeg-huffman-tables": Case("huffman.jpg", changed(JPEG, tables + 5, b"\xff" * 16), 0, again),
        "jpeg-no-size": Case("nosize.jpg", changed(JPEG, size, bytes(4)), 0, again),
        "png-no-size": Case("nosize.png", png(0, 0), 0, again),
        "png-no-pixels": Case("nopixels.png", png(50, 50), 0, again),
        "png-crc": Case("crc.png", changed(encoded(PHOTO, "PNG"), 3000, bytes(50)), 0, again),
        "bmp-no-size": Case("nosize.bmp", changed(encoded(PHOTO, "BMP"), 18, bytes(8)), 0, again),
        "tiff-lzw": Case(
            "lzw.tif", changed(encoded(PHOTO, "TIFF", compression="tiff_lzw"), 200, bytes(99)), 0, again
        ),
        "jpeg-part-missing": Case("part.jpg", JPEG[: len(JPEG) // 2] + b"\xff\xd9", 0, again),
        "jpeg-scans": Case("scans.jpg", with_scans(5000), 0, (r"limits\.jpeg_scans=100: save .*raise",)),
        "jpeg-12-bit": Case("12.jpg", changed(JPEG, size - 1, b"\x0c"), 0, ("JPEG with 12 bits .*convert",)),
        "tiff-signed": Case(
            "signed.tif", encoded(Image.new("I", (9, 9)), "TIFF"), 0, ("grey, 1 x 32-bit signed.*convert",)
        ),
        "tiff-float": Case(
            "float.tif", encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), 0, ("convert",)
        ),
        "png-bomb": Case("bomb.png", png(60_000, 60_000), 0, ("3600000000 pixels.*scale the image down",)),
        "png-bomb-of-bits": Case(
            "bits.png", encoded(Image.new("1", (9000, 9000)), "PNG"), 0, ("9000x9000.*max_pixels",)
        ),
        "over-max-pixels": Case(
            "large.jpg", encoded(Image.new("L", (1200, 1000)), "JPEG"), 0, ("1200x1000.*raise",)
        ),
    }


def png_with_text(body: bytes, checksum: int) -> bytes:
    kind = b"zTXt" if checksum == 0 else b"tEXt"
    chunk = struct.pack(">I", len(body)) + kind + body
    chunk += struct.pack(">I", checksum or zlib.crc32(kind + body))
    data = encoded(PHOTO, "PNG")
    return data[:33] + chunk + data[33:]


def odd() -> dict[str, Case]:
    """Unusual but readable files."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    paletted = PHOTO.quantize(16)
    wide = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
    # Its byte order mark is that of BigTIFF, on which Pillow's EXIF reader fails.
    bad_exif = b"Exif\0\0II+\0\x08\0\0\0"
    pictures = {
        "png-called-jpg": ("p.jpg", encoded(PHOTO, "PNG")),
        "jpeg-called-png": ("j.png", JPEG),
        "one-pixel": ("1x1.png", encoded(Image.new("RGB", (1, 1)), "PNG")),
        "one-row": ("4000x1.png", encoded(Image.new("RGB", (4000, 1)), "PNG")),
        "one-column": ("1x4000.png", encoded(Image.new("RGB", (1, 4000)), "PNG")),
        "cmyk": ("cmyk.jpg", encoded(PHOTO.convert("CMYK"), "JPEG")),
        "sixteen-bit": ("wide.png", encoded(wide, "PNG")),
        "palette-transparent": ("palette.png", encoded(paletted, "PNG", transparency=3)),
        "grey-alpha": ("grey.png", encoded(PHOTO.convert("LA"), "PNG")),
        "one-bit": ("bits.tif", encoded(PHOTO.convert("1"), "TIFF", compression="group4")),
        "animated-gif": ("a.gif", encoded(PHOTO, "GIF", save_all=True, append_images=[DARK])),
        "animated-webp": ("a.webp", encoded(PHOTO, "WEBP", save_all=True, append_images=[DARK])),
        "animated-png": ("a.png", encoded(PHOTO, "PNG", save_all=True, append_images=[DARK])),
        "pages-of-tiff": ("a.tiff", encoded(PHOTO, "TIFF", save_all=True, append_images=[DARK])),
        "rotated": ("rotated.jpg", encoded(PHOTO, "JPEG", exif=rotated)),
        "exif-damaged-webp": ("exif.webp", encoded(PHOTO, "WEBP", exif=bad_exif)),
        "exif-damaged-png": ("exif.png", encoded(PHOTO, "PNG", exif=bad_exif)),
        "exif-noise": ("exif.jpg", encoded(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 60)),
        "bytes-after-the-end": ("trailing.jpg", JPEG + os.urandom(999)),
        "png-without-its-end": ("noend.png", encoded(PHOTO, "PNG")[:-12]),
        "jpeg-without-its-end": ("noend.jpg", JPEG[:-2]),
        "webp-without-its-end": ("noend.webp", encoded(PHOTO, "WEBP", exif=rotated)[:-9]),
        "gif-without-its-end": ("noend.gif", encoded(PHOTO, "GIF")[:-1]),
        "png-text-damaged": ("text.png", png_with_text(b"k\0v", 1)),
        "png-text-long": ("text.png", png_with_text(b"k\0\0" + zlib.compress(bytes(1 << 22)), 0)),
        "profile-damaged": ("profile.jpg", encoded(PHOTO, "JPEG", icc_profile=b"\x93" * 200)),
    }
    return {name: Case(file, data, 1) for name, (file, data) in pictures.items()}


def names_and_places() -> dict[str, Case]:
    photo = {
        "name-newline": "line\nfeed.jpg",
        "name-percent": "50% #1 ?x=*[a].jpg",
        "name-quotes": '"it\'s" \\ `x` $HOME.jpg',
        "name-unicode": "人脸 é e\u0301 🙂.jpg",
        "name-long": "x" * 251 + ".jpg",
        "name-not-utf8": b"caf\xe9.jpg",
        "name-capitals": "PHOTO.JPEG",
        "name-two-endings": "a.tar.jpg",
    }
    cases = {name: Case(file, JPEG, 1) for name, file in photo.items()}

    def link(target: str) -> Callable[[str], object]:
        return lambda path: os.symlink(target, path)

    (gone,) = ("gone: .*a broken symbolic link",)
    cases["link-to-a-picture"] = Case("link.jpg", link("../animated-gif/a.gif"), 1)
    cases["link-to-nothing"] = Case("nowhere.jpg", link("nothing-here"), 0, (gone,))
    cases["link-in-a-circle"] = Case(
        "circle.jpg", link("circle.jpg"), 0, ("could not be read: .*symbolic links",)
    )
    return cases


# --- tars ---


def info_of(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], layout: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Only the header of a member."""
    info, _ = info_of(name, type=kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """A file in the old GNU sparse format that consists of a hole of `size` bytes."""
    head = bytearray(header(name, 0, tarfile.GNUTYPE_SPARSE))
    head[386:410] = b"%011o\0%011o\0" % (size, 0)
    head[483:495] = b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


NO_TARS = {
    "lz4": (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it, or repack its files as .tar or .tar.gz"),
    "bz2": (b"BZh91AY", "a bzip2 file", "unpack it"),
    "zip": (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    "rar": (b"Rar!\x1a\x07\0", "a RAR archive", "unpack it"),
    "html": (b"<!DOCTYPE html><html>", "a web page .HTML.", "download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\n", "a Git LFS pointer", "fetch"),
}
"""Other formats that are called .tar: first bytes, and their name in the error."""


THREE = tuple(info_of(f"{i}.jpg", JPEG) for i in range(3))
MEMBER = 512 + -(-len(JPEG) // 512) * 512
TAR = tar(*THREE)
END = bytes(1024)


def tars() -> dict[str, Case]:
    link = tarfile.LNKTYPE
    middle = changed(TAR, MEMBER + 148, b"77777777")
    twice = [info_of("same.jpg", data) for data in (JPEG, JPEG, JPEG + b"3")]
    unsafe = [info_of(name, JPEG) for name in ("/abs.jpg", "../../up.jpg", "a/../../b.jpg", "C:\\c.jpg")]
    stored = {
        "tar-header-cut": Case(
            "t.tar", TAR[: 2 * MEMBER + 300], 2, (f"at byte {2 * MEMBER}: truncated header",)
        ),
        "tar-data-cut": Case("t.tar", TAR[: 2 * MEMBER + 900], 2, (f"at byte {2 * MEMBER}: unexpected end",)),
        "tar-without-its-end": Case(
            "t.tar", TAR[: 3 * MEMBER], 3, (f"at byte {3 * MEMBER}: no end-of-archive",)
        ),
        "tar-cut-in-its-end": Case("t.tar", TAR[: 3 * MEMBER + 700], 3),
        "tar-checksum": Case(
            "t.tar", middle, 1, (f"broken at byte {MEMBER}: bad checksum: the rest is not",)
        ),
        "tar-zeroed-in-the-middle": Case("t.tar", changed(TAR, MEMBER, bytes(MEMBER)), 2),
        "tar-long-names-gnu": Case("t.tar", tar(info_of("d/" * 200 + "é.jpg", JPEG)), 1),
        "tar-long-names-pax": Case(
            "t.tar", tar(info_of("d/" * 200 + "é.jpg", JPEG), layout=tarfile.PAX_FORMAT), 1
        ),
        "tar-name-not-utf8": Case("t.tar", tar(info_of("caf\udce9.jpg", JPEG)), 1),
        "tar-unsafe-names": Case("t.tar", tar(*unsafe), 4),
        "tar-same-name": Case("t.tar", tar(*twice), 3),
        "tar-without-members": Case("t.tar", tar(), 0),
        "tar-of-no-bytes": Case("t.tar", b"", 0, (r"not a valid tar \(empty file\)",)),
        "tar-that-is-a-picture": Case("t.tar", JPEG, 1),
        **{
            f"tar-that-is-{name}": Case(
                "t.tar", start + os.urandom(600), 0, (f"^this is {what}, not a tar: {advice}",)
            )
            for name, (start, what, advice) in NO_TARS.items()
        },
        "tar-sparse": Case("t.tar", sparse("hole.jpg", 5000) + TAR, 3, ("5000 zero bytes",)),
        "tar-sparse-terabyte": Case(
            "t.tar", sparse("h.jpg", 1 << 32) + TAR, 3, (r"4294967296 bytes are more than",)
        ),
        "tar-huge-member": Case(
            "t.tar", TAR[:MEMBER] + header("h.jpg", 1 << 32), 1, ("are more than", "broken at")
        ),
        "tar-huge-header": Case(
            "t.tar", TAR[:MEMBER] + header("h", 1 << 30, b"x") + TAR, 1, ("a header of 1073741824",)
        ),
        "tar-links": Case(
            "t.tar",
            tar(
                *THREE,
                info_of("h.jpg", type=link, linkname="0.jpg"),
                info_of("s.jpg", type=b"2", linkname="/x"),
            ),
            3,
            ("a link to 0.jpg.*store the image itself", "a link to /x"),
        ),
        "tar-pipe": Case("t.tar", tar(info_of("p.jpg", type=tarfile.FIFOTYPE)), 0, ("a device or pipe",)),
        "tar-folder-like-a-picture": Case("t.tar", tar(info_of("d.jpg", type=tarfile.DIRTYPE), *THREE), 3),
        "tar-bad-pictures": Case(
            "t.tar",
            tar(info_of("0.jpg"), info_of("1.jpg", JPEG[:99]), *THREE),
            3,
            ("0 bytes", "damaged or cut off"),
        ),
        "tar-twice": Case("t.tar", TAR + tar(info_of("more.jpg", JPEG)), 4),
        "tar-then-noise": Case(
            "t.tar", TAR + b"noise" * 300, 3, ("no tar follows the end-of-archive marker",)
        ),
        "tar-negative-size": Case("t.tar", changed(TAR, MEMBER + 124, b"\xff" * 12), 1, ("broken at",)),
    }
    return {**stored, **{name: case for form in FORMS for name, case in compressed_tars(form).items()}}


def compressed_tars(form: str) -> dict[str, Case]:
    """The tars that are compressed in one format; `form` is its ending."""

    def packed(data: bytes) -> bytes:
        return pack(data, form)

    whole, start, more = packed(TAR), packed(TAR[: 2 * MEMBER]), packed(tar(info_of("more.jpg", JPEG)))
    name, checksum = f"t.tar.{form}", {"gz": "Incorrect length"}.get(form, f"damaged {FORMS[form]}")
    cases = {
        "called-tar": Case("t.tar", whole, 3),
        "without": Case(name, TAR, 3),
        "cut": Case(name, start + packed(TAR[2 * MEMBER :])[:99], 2, (r"\(unpacked\): .*end-of-stream",)),
        "of-no-bytes": Case(name, b"", 0, (r"not a valid tar \(empty file\)",)),
        "of-empty": Case(name, packed(b""), 0, (r"not a valid tar \(empty file\)",)),
        "of-a-picture": Case(name, packed(JPEG), 0, ("an image, not a tar: unpack it",)),
        "checksum": Case(name, changed(whole, len(whole) - 4, b"\0\0\0\0"), 3, (checksum,)),
        "damaged": Case(name, changed(whole, 30, b"\xff" * 40), 0, (r"byte 0 \(unpacked\): ",)),
        "then-noise": Case(name, whole + b"noise", 3, (f"the next bytes are not {FORMS[form]} data",)),
        "twice": Case(name, whole + more, 4),
        "in-members": Case(name, packed(TAR[:3000]) + packed(TAR[3000:]), 3),
    }
    return {f"{form}-{name}": case for name, case in cases.items()}


# --- Parquet ---


def parquet(columns: dict[str, object], **options) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


def pages_damaged(data: bytes, group: int) -> bytes:
    """The file with overwritten image pages in one row group."""
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(group).column(0)
    return changed(data, chunk.data_page_offset, b"\xff" * chunk.total_compressed_size)


def not_utf8(values: list[bytes]) -> pa.Array:
    binary = pa.array(values)
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def parquets() -> dict[str, Case]:
    four = [JPEG + bytes([i]) for i in range(4)]
    whole = parquet({"image": four})
    flat = {"row_group_size": 10, "compression": "NONE", "use_dictionary": False}
    groups = parquet({"image": [JPEG + bytes([i]) for i in range(40)]}, **flat)
    feature = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    structs = pa.array([{"bytes": JPEG, "path": "p"}, None, {"bytes": None, "path": "q"}], feature)
    nested = pa.array([{"in": {"bytes": JPEG}}])
    null = "the image column is null"
    contents: dict[str, tuple[bytes, int, tuple[str, ...]]] = {
        "no-image": (
            parquet({"text": ["a"], "n": [1]}),
            0,
            (r"no binary column with images: the columns are text \(string\), n \(int64\): .*`image`",),
        ),
        "two-images": (
            parquet({"a": [JPEG], "b": [JPEG]}),
            0,
            (r"several columns contain images \(a, b\).*rename",),
        ),
        "list-of-images": (
            parquet({"image": pa.array([[JPEG, JPEG], [JPEG], [], None])}),
            3,
            (null, null),
        ),
        "nested-struct": (
            parquet({"image": nested}),
            1,
            (),
        ),
        "struct": (
            parquet({"image": structs}),
            1,
            (null, "no bytes in this row, only the path q, and there is"),
        ),
        "null": (parquet({"image": [JPEG, None, JPEG]}), 2, (null,)),
        "empty-values": (parquet({"image": [b"", JPEG]}), 1, (r"empty \(0 bytes\)",)),
        "dictionary": (parquet({"image": pa.array([JPEG, JPEG, JPEG]).dictionary_encode()}), 3, ()),
        "same-keys": (parquet({"key": ["a", "a", None, "2"], "image": four}), 4, ()),
        "keys-not-utf8": (parquet({"key": not_utf8([b"a\xff", b"b"]), "image": four[:2]}), 2, ()),
        "keys-dictionary": (
            parquet({"key": pa.array(["a", "b"]).dictionary_encode(), "image": four[:2]}),
            2,
            (),
        ),
        "keys-lists": (parquet({"key": pa.array([["a"], ["b"]]), "image": four[:2]}), 2, ()),
        "no-rows": (parquet({"image": pa.array([], pa.binary())}), 0, ()),
        "of-no-bytes": (b"", 0, ("broken at row 0: .*0 bytes",)),
        "cut-off": (whole[: len(whole) // 2], 0, ("broken at row 0: .*not a parquet file",)),
        "wrong-magic": (whole[:-4] + b"PAR9", 0, ("broken at row 0: .*not a parquet file",)),
        "encrypted": (whole[:-4] + b"PARE", 0, ("^this is an encrypted Parquet file: decrypt",)),
        "footer-damaged": (changed(whole, len(whole) - 60, b"\xff" * 40), 0, ("broken at row 0",)),
        "footer-length": (changed(whole, len(whole) - 8, b"\xff\xff\xff\x7f"), 0, ("broken at row 0",)),
        "that-is-a-picture": (JPEG, 1, ()),
        "pages-damaged": (
            pages_damaged(groups, 2),
            20,
            ("broken at row 20: .*the rest is not read",),
        ),
        "first-pages-damaged": (pages_damaged(groups, 0), 0, ("broken at row 0",)),
    }
    return {f"parquet-{name}": Case("p.parquet", *rest) for name, rest in contents.items()}


# --- bombs: few bytes that expand to many ---


def repeated(value: bytes, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def pax(records: dict[str, str], member: bytes) -> bytes:
    """A member with an extended header that has these records."""
    body = b""
    for name, value in records.items():
        record = f" {name}={value}\n".encode()
        length = len(record)
        while len(record) + len(str(length)) != length:
            length = len(record) + len(str(length))
        body += str(length).encode() + record
    return header("p", len(body), tarfile.XHDTYPE) + body + bytes(-len(body) % 512) + member


def more_map(size: int) -> bytes:
    """An old GNU sparse file whose map continues for this number of blocks."""
    head = bytearray(sparse("h.jpg", 1000))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    block = bytearray((b"%011o\0%011o\0" % (1, 1)) * 21 + bytes(8))
    block[504] = 1
    return bytes(head) + bytes(block) * size


MEMORY = "limits.source_memory="
SPARSE_MAP_FIRST = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.realsize": "9",
    "GNU.sparse.name": "h.jpg",
}
VALUE = JPEG + bytes(4 << 20)
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "holes.tar": (lambda: b"".join(sparse(f"{i}.jpg", 100 << 20) for i in range(50)) + END, MEMORY),
    "map.tar.gz": (lambda: gzip.compress(more_map(400_000), 1), f"a header of .*{MEMORY}"),
    "map-before-data.tar.gz": (
        lambda: gzip.compress(pax(SPARSE_MAP_FIRST, header("h", 1 << 30)) + b"1" * (300 << 20), 1),
        f"a header of .*{MEMORY}",
    ),
    # gzip expands a file by at most 1032; these formats have no such limit.
    **{
        f"zeros.tar.{form}": (
            lambda form=form: pack(header("h", 1 << 40), form) + pack(bytes(8 << 20), form) * 40,
            f"expands to more than 1032 times .*{MEMORY}",
        )
        for form in ("bz2", "xz", "zst")
    },
    # A window of 256 MiB, of which a decoder may need all.
    "window.tar.xz": (
        lambda: lzma.compress(TAR, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]),
        f"its xz dictionary needs more .*{MEMORY}",
    ),
    "header.tar": (lambda: header("h", 1 << 30, b"x") + bytes(1 << 20), f"a header of .*{MEMORY}"),
    # Python's tarfile would search this with its regular expressions for an hour.
    "digits.tar": (lambda: pax({"comment": "1" * 200_000}, header("h.json", 0)) + END, ""),
    "repeats.parquet": (lambda: parquet({"image": repeated(VALUE, 1000)}, compression="zstd"), MEMORY),
    "large-repeats.parquet": (
        lambda: parquet({"image": repeated(VALUE * 16, 1000)}, compression="zstd"),
        f"a page of .*{MEMORY}",
    ),
    "keys.parquet": (
        lambda: parquet({"key": repeated(b"k" * (64 << 20), 90), "image": [JPEG] * 90}, compression="zstd"),
        f"a page of .*{MEMORY}",
    ),
    "nulls.parquet": (
        lambda: parquet({"image": pa.nulls(9_000_000, pa.binary())}, row_group_size=9_000_000),
        MEMORY,
    ),
    "list-of-bytes.parquet": (
        lambda: parquet({"image": pa.ListArray.from_arrays([0, 50 << 20], np.zeros(50 << 20, np.uint8))}),
        f"a list of at least .* in one row .*{MEMORY}",
    ),
    "list-of-repeats.parquet": (
        lambda: parquet({"image": pa.ListArray.from_arrays([0, 900], repeated(VALUE, 900))}),
        MEMORY,
    ),
}


PEAK = """
import resource, sys
from faceq.config import Limits
from faceq.storage.settings import S3Settings
from faceq.sources.listing import list_shards
from faceq.sources import read_shards
shards = list_shards(sys.argv[1:], S3Settings())
list(read_shards(list_shards([sys.argv[1] + "/../warm.tar"], S3Settings()), S3Settings(), extra_bytes=16384))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
last = None
for last in read_shards(shards, S3Settings(), limits=Limits(source_memory=256 << 20), extra_bytes=16384):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(last.error if last else "")
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_stays_within_the_memory_limit(tmp_path, name):
    content, error = BOMBS[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content())
    (tmp_path / "warm.tar").write_bytes(TAR)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "in")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    kibibytes, said = done.stdout.splitlines()
    assert int(kibibytes) < 512 << 10  # twice the allowed memory
    assert re.search(error, said) if error else not said


CORPUS = {
    **cut_off(),
    **foreign(),
    **damaged(),
    **odd(),
    **names_and_places(),
    **tars(),
    **parquets(),
}
ROWS = sum(case.good + len(case.bad) for case in CORPUS.values())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """All cases, each in a folder with its name."""
    root = tmp_path_factory.mktemp("corpus")
    for name, case in CORPUS.items():
        (root / name).mkdir()
        path = os.path.join(os.fsencode(root / name), os.fsencode(case.file))
        if callable(case.content):
            case.content(os.fsdecode(path))
        else:
            with open(path, "wb") as file:
                file.write(case.content)
    return root


def settings(**values) -> config.Config:
    return config.build({"max_pixels": MAX_PIXELS, **values})


@pytest.fixture(scope="module")
def find_face() -> FindFace:
    return FindFace(settings(), choose(settings()))


def read(path: Path) -> list[Frame]:
    most = settings().extra_bytes
    return list(read_shards(list_shards([str(path)], S3Settings), S3Settings, extra_bytes=most))


def rows_of(frames: list[Frame], find_face: FindFace) -> list[dict]:
    return [row for batch in in_batches(frames) for row in find_face(to_table(batch)).to_pylist()]


# Internal details that must not appear in an error.
PUZZLING = re.compile(r"<\w+[. ].* at 0x|b'|\\x|Traceback|Error\(|\n|NoneType")


@pytest.mark.parametrize("name", CORPUS)
def test_every_frame_has_a_row_and_an_unreadable_one_says_why(name, corpus, find_face):
    case = CORPUS[name]
    frames = read(corpus / name)
    rows = rows_of(frames, find_face)
    bad = [row["error"] for row in rows if row["status"] == "unreadable"]
    assert (len(rows) - len(bad), len(bad)) == (case.good, len(case.bad)), bad
    for error, expected in zip(bad, case.bad, strict=True):
        assert re.search(expected, error), error
        assert len(error) < 300 and not PUZZLING.search(error), error
    assert len({frame.id for frame in frames}) == len(frames)
    assert all(row["width"] and row["error"] is None for row in rows if row["status"] != "unreadable")


def test_the_first_image_of_a_file_is_scored(corpus, find_face):
    """Each of these cases gives the photo, not the dark page after it."""
    batch = [
        frame
        for name in ("animated-gif", "animated-webp", "animated-png", "pages-of-tiff")
        for frame in read(corpus / name)
    ]
    for row in rows_of(batch, find_face):
        assert row["n_faces"] == 1


def test_frames_of_repeated_names_are_told_apart(corpus):
    assert [frame.member for frame in read(corpus / "tar-same-name")] == [
        "same.jpg",
        "same.jpg#2",
        "same.jpg#3",
    ]
    members = [frame.member for frame in read(corpus / "parquet-same-keys")]
    assert members == ["a", "a#2", "2", "2#2"]
    assert [frame.member for frame in read(corpus / "parquet-keys-not-utf8")] == ["a\\xff", "b"]


@pytest.mark.parametrize("form", FORMS)
def test_a_compressed_tar_damaged_in_the_middle_gives_what_comes_before(tmp_path, form):
    noise = np.random.default_rng(0)
    data = pack(tar(*(info_of(f"{i}.jpg", noise.bytes(5000)) for i in range(60))), form, "-1")
    (tmp_path / f"t.tar.{form}").write_bytes(changed(data, len(data) // 2, b"\xff" * 70_000))
    *frames, last = read(tmp_path / f"t.tar.{form}")
    assert 5 <= len(frames) <= 31 and all(frame.error is None for frame in frames)
    assert "at byte" in last.error and last.frame_index == -1


def test_reading_a_shard_writes_no_files(tmp_path, monkeypatch):
    work = tmp_path / "a" / "b" / "work"
    work.mkdir(parents=True)
    (tmp_path / "t.tar").write_bytes(CORPUS["tar-unsafe-names"].content)
    monkeypatch.chdir(work)
    names = [frame.member for frame in read(tmp_path / "t.tar")]
    assert names == ["/abs.jpg", "../../up.jpg", "a/../../b.jpg", "C:\\c.jpg"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "t.tar"]
    assert not Path("/abs.jpg").exists()


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "y.jpg").write_bytes(JPEG)
    (tmp_path / "link.jpg").symlink_to("x.jpg")
    assert [frame.source for frame in read(tmp_path)] == [f"{tmp_path}/x.jpg/y.jpg"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "y.jpg").write_bytes(JPEG)
    assert [frame.source for frame in read(tmp_path)] == [f"{tmp_path}/y.jpg"]
    with pytest.raises(UsageError, match="a pipe, a socket or a device"):
        read(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
@pytest.mark.parametrize("name", ["x.jpg", "x.tar", "x.parquet"])
def test_a_file_that_may_not_be_read_is_a_row(tmp_path, name):
    (tmp_path / name).write_bytes(JPEG)
    (tmp_path / name).chmod(0)
    (frame,) = read(tmp_path / name)
    assert frame.refused and re.search("access denied.*check permissions", frame.error)


def test_a_job_over_the_whole_corpus(corpus, light_job, tmp_path):
    chosen = settings(input=[str(corpus)], out=str(tmp_path / "table"), fiq_threshold=0)
    done = pipeline.score(chosen)
    rows = Table(chosen.out, chosen.s3).rows(["frame_id", "source", "status", "error"]).to_pylist()
    assert done.run.frames == done.run.rows == len(rows) == ROWS
    assert len({row["frame_id"] for row in rows}) == ROWS
    for name, case in CORPUS.items():
        own = [row for row in rows if row["source"].startswith(f"{corpus}/{name}/")]
        bad = [row["error"] for row in own if row["status"] == "unreadable"]
        assert (len(own) - len(bad), len(bad)) == (case.good, len(case.bad)), name
    assert pipeline.score(chosen).run.frames == 0
