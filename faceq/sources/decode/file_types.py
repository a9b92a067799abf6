"""Name the format of a file with an image's name that no decoder accepts."""

import re

SUPPORTED = "supported are JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000 and JPEG XL"

MISSING_PACKAGE = '{} images need {}, which is not installed: `pip install "faceq[formats]"`'

# Patterns for the first bytes of a file; `.` matches any byte.
_BROKEN = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF(....WEBP|.{0,7}$)|II[*+]\0|MM\0[*+]|P[1-6]\s"
    rb"|\xff\x0a|\0\0\0\x0c(JXL |jP  )|\xff\x4f\xff\x51|....ftyp(hei|hev|mif1|msf1|avi[fs])",
    re.DOTALL,
)
_PICTURES = (
    (rb"II\xbc[\0\x01]", "JPEG XR"),
    (rb"8BPS", "Photoshop (PSD)"),
    (rb"gimp xcf", "GIMP (XCF)"),
    (rb"\s*(<\?xml[^<]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (rb"....ftypcrx|II\*\0....CR|FUJIFILMCCD|IIRO|IIRS|MMOR|IIU\0", "Camera raw"),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE|#\?RGBE|PF\s|Pf\s", "High dynamic range (EXR, HDR, PFM)"),
    (rb".{128}DICM", "DICOM"),
    (rb"\0\0[\x01\x02]\0[^\0]", "Icon (ICO)"),
    (rb"qoif", "QOI"),
    (rb"DDS ", "DDS"),
    (rb"P7\s", "PAM"),
    (rb"\x8aMNG|\x8bJNG", "MNG and JNG"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "Windows metafile (WMF, EMF)"),
)
_VIDEO = (
    rb"....ftyp|....(moov|mdat|wide|free)|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11"
    rb"|\0\0\x01[\xba\xb3]|G.{187}G|.{4}G.{191}G"
)
_OTHERS = (
    (rb"\s*(<!DOCTYPE html|<html|<head|<body)", "a web page (HTML), probably from a failed download"),
    (rb"\s*<\?xml|\s*<Error>", "XML, such as an error response of an object store"),
    (rb"\s*[{\[]", "JSON or other text"),
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (
        rb"....ftypM4[AB]|ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa\xfb\xf1\xf9]|fLaC|RIFF....WAVE|FORM....AIF|#!AMR",
        "audio",
    ),
    (rb"OggS", "audio or a video (Ogg)"),
    (_VIDEO, "a video"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "a compressed file: unpack it"),
    (rb".{257}ustar", "a tar"),
    (rb"PAR1", "a Parquet file"),
    (rb"\0\x05\x16\x07", "macOS metadata (AppleDouble)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Windows thumbnail cache (Thumbs.db) or an Office file"),
    (rb"\x93NUMPY", "a NumPy array"),
)


def unknown(data: bytes) -> str:
    """Why no decoder accepted the file, as text for the row's `error`."""
    start = data[:512]
    for pattern, name in _PICTURES:
        if re.match(pattern, start, re.DOTALL):
            return f"{name} images are not supported: convert to JPEG or PNG ({SUPPORTED})"
    if _BROKEN.match(start):
        return damaged("its header cannot be read")
    for pattern, what in _OTHERS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"not an image but {what}; {SUPPORTED}"
    if not data.strip(b"\0"):
        return f"not an image but {len(data)} zero bytes, probably an unfinished copy: copy the file again"
    return f"not an image (first bytes: {data[:8].hex(' ')}); {SUPPORTED}"


def damaged(reason: str) -> str:
    """The message for a damaged image."""
    return f"the image is damaged or cut off ({reason}): copy or export it again"
