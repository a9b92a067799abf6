"""ICC profiles written byte by byte, so that the correct colours are known without a library."""

import struct

import numpy as np

# Matrices from linear RGB to XYZ under D50. The columns are the colorants (B. Lindbloom).
SRGB = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
ADOBE_RGB = np.array(
    [
        [0.6097559, 0.2052401, 0.1492240],
        [0.3111242, 0.6256560, 0.0632197],
        [0.0194811, 0.0608902, 0.7448387],
    ]
)
PROPHOTO = np.array(
    [
        [0.7976749, 0.1351917, 0.0313534],
        [0.2880402, 0.7118741, 0.0000857],
        [0.0000000, 0.0000000, 0.8252100],
    ]
)
DISPLAY_P3 = np.array(
    [
        [0.5151187, 0.2919778, 0.1571035],
        [0.2411892, 0.6922441, 0.0665668],
        [-0.0010505, 0.0418791, 0.7840713],
    ]
)
D50 = (0.9642, 1.0, 0.8249)


def srgb_light(levels: np.ndarray) -> np.ndarray:
    """Convert sRGB levels 0 to 255 to linear light, 0 to 1."""
    v = levels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def srgb_levels(light: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB levels 0 to 255, not rounded. Values outside the gamut are clipped."""
    v = np.clip(light, 0, 1)
    return 255 * np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)


def rgb(colorants: np.ndarray, gamma: float | None) -> bytes:
    """The profile of a display. `gamma`: None for the sRGB curve."""
    curve = _curve(gamma)
    tags = {name: _xyz(column) for name, column in zip(("rXYZ", "gXYZ", "bXYZ"), colorants.T, strict=True)}
    return _profile("mntr", "RGB ", "XYZ ", tags | {"rTRC": curve, "gTRC": curve, "bTRC": curve})


def grey(gamma: float) -> bytes:
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _curve(gamma)})


def cmyk() -> bytes:
    """The profile of a printer whose inks are all grey: cyan with CIELAB lightness 70, magenta 60, yellow
    90."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    lights = [(1 - 0.3 * c - 0.4 * m - 0.1 * y) * (1 - k) for c, m, y, k in corners]
    coded = b"".join(bytes((round(light * 255), 128, 128)) for light in lights)
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(np.eye(3, dtype=int).ravel() * 65536))
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": head + identity * 4 + coded + identity * 3})


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(v) * 65536) for v in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))
    table = np.rint(srgb_light(np.arange(1024) * 255 / 1023) * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + table


def _profile(kind: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    name = b"test\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {"desc": description, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": _xyz(D50)} | tags
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag.encode(), at + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    header = struct.pack(
        ">I4sI4s4s4s12s4s",
        *(at + len(body), b"none", 0x02400000, kind.encode(), space.encode(), connection.encode()),
        *(bytes(12), b"acsp"),
    )
    header = header.ljust(68, b"\0") + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + table + body
