"""Measure how edits of photos change both scores: which raise a score wrongly, and which do not lower it.

    python -m jobs.benchmarks.measure_edits PHOTOS… [--faces 60]

Scores photos with one face each, shrunk to a longer side of at most 512 pixels, before and after each of
EDITS. For each edit, prints the mean change of `serfiq` and `dbcnn` over the faces, and the share of faces
whose score rises. `found` is the share of photos in which a face is still found. Only these photos count.
"""

import argparse
import functools
from collections.abc import Callable

import cv2
import numpy as np
import rich.console
import rich.table
from rich.progress import track

import faceq
from faceq import sources
from faceq.config import S3Settings
from faceq.evaluation import distortions
from faceq.sources.decode.image import decode
from faceq.sources.listing import list_shards
from jobs.training.train_ladders import salt_and_pepper, sharpened, smoothed

SIDE = 512
MAX_PIXELS = 80_000_000

Image = np.ndarray
Edit = Callable[[Image, np.ndarray], Image]
"""Takes a photo (H, W, 3) uint8 RGB and the five landmarks (5, 2) of its face."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", help="images or folders of images, with one face each")
    parser.add_argument("--faces", type=int, default=60, help="number of photos (60)")
    options = parser.parse_args()
    scorer = faceq.Scorer(fiq_threshold=0)
    score = functools.partial(rows_of, scorer)
    photos = photos_of(options.photos, 2 * options.faces)
    kept = [(photo, row) for photo, row in zip(photos, score(photos), strict=True) if is_single(row)]
    kept = kept[: options.faces]
    table = rich.table.Table(title=f"{len(kept)} faces", box=None, pad_edge=False)
    for title in ("edit", "found", "serfiq", "rises", "dbcnn", "rises"):
        table.add_column(title, justify="left" if title == "edit" else "right")
    for name, edit in track(EDITS.items(), "edits", transient=True):
        rows = score([edit(photo, np.reshape(row["landmarks"], (5, 2))) for photo, row in kept])
        pairs = [(row, new) for (_, row), new in zip(kept, rows, strict=True) if new["dbcnn"] is not None]
        cells = [f"{len(pairs) / len(kept):.0%}"]
        for column, digits in (("serfiq", 2), ("dbcnn", 1)):
            change = np.array([new[column] - row[column] for row, new in pairs])
            cells += [f"{change.mean():+.{digits}f}", f"{(change > 0).mean():.0%}"]
        table.add_row(name, *cells)
    rich.console.Console().print(table)


def photos_of(inputs: list[str], count: int) -> list[Image]:
    """The first photos of the inputs, (H, W, 3) uint8 RGB, shrunk to SIDE."""
    shards = list_shards(inputs, S3Settings())[:count]
    encoded = [frame.image for frame in sources.read_shards(shards, S3Settings()) if frame.image]
    return [shrunk(decode(image, MAX_PIXELS)) for image in encoded]


def rows_of(scorer: faceq.Scorer, photos: list[Image]) -> list[dict]:
    """The rows of photos, in order."""
    rows: list[dict] = scorer.score(photos).to_pylist()
    return rows


def is_single(row: dict) -> bool:
    """Whether exactly one face was found, and scored."""
    return row["n_faces"] == 1 and row["dbcnn"] is not None


def shrunk(photo: Image, side: int = SIDE) -> Image:
    """A photo whose longer side is at most `side` pixels."""
    scale = side / max(photo.shape[:2])
    if scale >= 1:
        return photo
    return np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def exposed(photo: Image, stops: float) -> Image:
    """Brighten (above 0) or darken in linear light, without noise. Values above white are clipped."""
    linear = (photo.astype(np.float32) / 255) ** 2.2 * 2**stops
    return distortions.as_image(255 * np.clip(linear, 0, 1) ** (1 / 2.2))


def grey(photo: Image) -> Image:
    """Remove the colours."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def drawn(photo: Image) -> Image:
    """Make a coloured pencil drawing of the photo."""
    return np.asarray(cv2.pencilSketch(photo, sigma_s=60, sigma_r=0.07, shade_factor=0.05)[1], np.uint8)


def painted(photo: Image) -> Image:
    """Make the photo look painted: flat areas with sharp edges."""
    return np.asarray(cv2.stylization(photo, sigma_s=60, sigma_r=0.45), np.uint8)


def turned(photo: Image, quarters: int) -> Image:
    """Rotate clockwise."""
    return np.ascontiguousarray(np.rot90(photo, -quarters))


def covered(photo: Image, landmarks: np.ndarray, low: float, high: float) -> Image:
    """Draw a plain band across the face, from `low` to `high` on the way from the eyes (0) to the mouth
    (1)."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    down = mouth - eyes
    across = np.array([down[1], -down[0]]) * 1.3
    corners = [
        eyes + end * down + side * across for end, side in ((low, -1), (low, 1), (high, 1), (high, -1))
    ]
    return np.asarray(
        cv2.fillPoly(photo.copy(), [np.round(corners).astype(np.int32)], (60, 90, 120)), np.uint8
    )


def cut(photo: Image, landmarks: np.ndarray) -> Image:
    """Crop the photo at the nose, so that the right half of the face is outside."""
    return np.ascontiguousarray(photo[:, : max(1, round(float(landmarks[2, 0])))])


def small(photo: Image, landmarks: np.ndarray) -> Image:
    """Shrink the photo until the eyes are 25 pixels apart."""
    apart = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    scale = min(1.0, 25 / apart)
    return np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _plain(edit: Callable[..., Image], *values: float) -> Edit:
    return lambda photo, _: edit(photo, *values)


EDITS: dict[str, Edit] = {
    "sharpened, amount 1": _plain(sharpened, 1.0, 2.0),
    "sharpened, amount 3": _plain(sharpened, 3.0, 2.0),
    "salt and pepper, 1%": _plain(salt_and_pepper, 0.01, 0),
    "salt and pepper, 5%": _plain(salt_and_pepper, 0.05, 0),
    "noise, sigma 12": _plain(distortions.white_noise, 12.0, 0),
    "noise, sigma 25": _plain(distortions.white_noise, 25.0, 0),
    "blur, sigma 2": _plain(distortions.gaussian_blur, 2.0),
    "blur, sigma 4": _plain(distortions.gaussian_blur, 4.0),
    "JPEG quality 10": _plain(distortions.jpeg, 10),
    "JPEG quality 4": _plain(distortions.jpeg, 4),
    "JPEG quality 2": _plain(distortions.jpeg, 2),
    "skin smoothed": _plain(smoothed, 30, 5),
    "2 stops darker": _plain(exposed, -2.0),
    "2 stops brighter": _plain(exposed, 2.0),
    "grey": _plain(grey),
    "pencil drawing": _plain(drawn),
    "painting": _plain(painted),
    "turned by 90 degrees": _plain(turned, 1),
    "upside down": _plain(turned, 2),
    "eyes covered": lambda photo, landmarks: covered(photo, landmarks, -0.35, 0.35),
    "mouth and chin covered": lambda photo, landmarks: covered(photo, landmarks, 0.55, 1.9),
    "cut at the nose": cut,
    "eyes 25 pixels apart": small,
}


if __name__ == "__main__":
    main()
