"""Compare published measures of sharpness, noise and block artefacts on edited faces.

    python -m jobs.benchmarks.compare_artefacts PHOTOS… [--faces 40]

Each cell has the median over the faces of the change at the last of five steps, in percent of the spread of
the measure over the photos (5th to 95th percentile), and of Spearman's correlation of step and measure. The
measures of `faceq.faces.artefacts` are the last line of each group.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import rich.console
import rich.table
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr

from faceq.evaluation import distortions
from faceq.evaluation.distortions import Image, as_image
from faceq.faces import artefacts
from faceq.faces.finder import Found
from faceq.stages.component_measures import INNER_CROP, Upright, grey_of, native_part
from faceq.stages.find_face import upright_face
from jobs.benchmarks.measure_components import LEAST_FACE, Measurer
from jobs.benchmarks.measure_edits import photos_of
from jobs.training.train_ladders import motion_blurred

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]
Measure = Callable[[Grey, Mask], float | None]

STEPS = range(1, 6)
MOTION = (3, 5, 9, 15, 25)
NOISE = (3, 6, 11, 22, 45)
LIGHT = (0.85, 0.7, 0.55, 0.4, 0.28)

EDITS: dict[str, Callable[[Image, int], Image]] = {
    "blur": lambda image, step: distortions.LADDERS["blur"](image, step, 0),
    "motion blur": lambda image, step: motion_blurred(image, MOTION[step - 1], 0),
    "enlarged": lambda image, step: distortions.LADDERS["low_resolution"](image, step, 0),
    "noise": lambda image, step: distortions.white_noise(image, NOISE[step - 1], 0),
    "JPEG": lambda image, step: distortions.LADDERS["jpeg"](image, step, 0),
    "darker": lambda image, step: as_image(image * LIGHT[step - 1]),
    "less contrast": lambda image, step: as_image(128 + LIGHT[step - 1] * (image.astype(np.float32) - 128)),
}


def laplacian_variance(grey: Grey, mask: Mask) -> float:
    """Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000."""
    return float(cv2.Laplacian(grey, cv2.CV_32F)[mask].var())


def relative_laplacian(grey: Grey, mask: Mask) -> float:
    """The same, relative to the variance of the face."""
    return laplacian_variance(grey, mask) / max(float(grey[mask].var()), 1)


def tenengrad(grey: Grey, mask: Mask) -> float:
    """Krotkov, "Focusing", IJCV 1988: the mean squared gradient."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    return float((across**2 + down**2)[mask].mean())


def reblurred(grey: Grey, mask: Mask, size: int = 11) -> float:
    """Crete et al., "The blur effect", SPIE 2007: the share of the differences between neighbours that
    another blur removes."""
    found = []
    for image, inside in ((grey, mask), (grey.T, mask.T)):
        steps = np.abs(np.diff(image, axis=0))
        left = np.abs(np.diff(cv2.blur(np.ascontiguousarray(image), (1, size)), axis=0))
        lost = np.maximum(0, steps - left)
        found.append(lost[inside[1:]].sum() / max(steps[inside[1:]].sum(), 1e-6))
    return float(min(found))


def bands(grey: Grey, mask: Mask) -> float:
    """Logarithm of the energy between sigma 1 and 2, relative to that between 2 and 4."""
    blurred = [cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1, 2, 4)]
    fine, coarse = ((one - other)[mask].var() for one, other in itertools.pairwise(blurred))
    return float(np.log2((fine + 0.05) / (coarse + 0.05)))


def _across_both(grey: Grey) -> Grey:
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return np.asarray(np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel)) / 6, np.float32)


def immerkaer(grey: Grey, mask: Mask) -> float:
    """Immerkaer, "Fast noise variance estimation", CVIU 1996."""
    return float(np.sqrt(np.pi / 2) * _across_both(grey)[mask].mean())


def immerkaer_median(grey: Grey, mask: Mask) -> float:
    """The same with a median."""
    return float(np.median(_across_both(grey)[mask]) / 0.6745)


def wavelet_median(grey: Grey, mask: Mask) -> float:
    """Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994: from the
    diagonal Haar coefficients."""
    height, width = (length // 2 * 2 for length in grey.shape)
    even = grey[:height, :width]
    corner = even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]
    return float(np.median(np.abs(corner / 2)[mask[:height:2, :width:2]]) / 0.6745)


def _profiles(grey: Grey, mask: Mask, power: int = 1) -> Iterator[NDArray[np.float64]]:
    """The mean power of the steps between pixels at each of eight phases, down and across."""
    for image, inside in ((grey, mask), (grey.T, mask.T)):
        steps, both = np.abs(np.diff(image, axis=0)) ** power, inside[1:] & inside[:-1]
        yield np.array([steps[phase::8][both[phase::8]].mean() for phase in range(8)], np.float64)


def edge_impairment(grey: Grey, mask: Mask) -> float:
    """Wu and Yuen, "A generalized block-edge impairment metric for video coding", IEEE SPL 1997, without its
    visual weights: root mean square steps at the borders, relative to those elsewhere."""
    found = []
    for profile in _profiles(grey, mask, power=2):
        energy = np.sort(np.sqrt(profile))
        found.append(energy[-1] / (energy[:-1].mean() + artefacts.LEAST_STEP))
    return float(np.mean(found))


def border_difference(grey: Grey, mask: Mask) -> float:
    """Steps at the borders minus the others, not relative to them: the part B of Wang, Sheikh and Bovik (ICIP
    2002), at the largest phase."""
    return float(np.mean([profile.max() - np.median(profile) for profile in _profiles(grey, mask)]))


def block_frequency(grey: Grey, mask: Mask) -> float:
    """Wang, Bovik and Evans, "Blind measurement of blocking artifacts in images", ICIP 2000: the power of the
    steps at multiples of 1/8, above that beside it."""
    found = []
    for image, inside in ((grey, mask), (grey.T, mask.T)):
        steps, counts = np.abs(np.diff(image, axis=0)) * inside[1:], inside[1:].sum(axis=1)
        line = (steps.sum(axis=1) / np.maximum(counts, 1))[counts > 8]
        line = line[: len(line) // 8 * 8]
        if len(line) < 32:
            continue
        power = np.abs(np.fft.rfft(line - line.mean())) ** 2
        at = [len(line) * part // 8 for part in (1, 2, 3, 4)]
        beside = [np.median(power[max(1, place - 4) : place + 5]) for place in at]
        found.append(np.sqrt(np.maximum(power[at] - beside, 0).mean() / len(line)))
    return float(np.mean(found)) if found else np.nan


IN_CROP: dict[str, Measure] = {
    "variance of the Laplacian": laplacian_variance,
    "the same, relative to the variance": relative_laplacian,
    "Tenengrad": tenengrad,
    "re-blurring": reblurred,
    "ratio of two bands": bands,
    "sharpness": artefacts.sharpness,
}
IN_FRAME: dict[str, Measure] = {
    "Immerkaer": immerkaer,
    "median of wavelet coefficients": wavelet_median,
    "Immerkaer with a median": immerkaer_median,
    "noise": artefacts.noise,
    "power at the frequency of blocks": block_frequency,
    "edge impairment": edge_impairment,
    "border minus others": border_difference,
    "compression": artefacts.compression,
}


def values(photo: Image, found: Found, outline: NDArray[np.float32]) -> list[float]:
    """All measures of a photo whose face is at the place of `found`."""
    upright: Upright = upright_face(photo, found, outline)
    mask = np.zeros(upright.crop.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(upright.outline).astype(np.int32)], 1)
    inner, crop = cv2.erode(mask, INNER_CROP, borderValue=0) > 0, grey_of(upright.crop)
    part, inside = native_part(photo, outline)
    measured = [measure(crop, inner) for measure in IN_CROP.values()]
    measured += [measure(part, inside) for measure in IN_FRAME.values()]
    return [np.nan if value is None else value for value in measured]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", help="images or folders of images, with one face each")
    parser.add_argument("--faces", type=int, default=40, help="number of photos (40)")
    options = parser.parse_args()
    measurer = Measurer()
    photos = photos_of(options.photos, 3 * options.faces)
    pairs = [(photo, measurer.find(photo)) for photo in photos]
    faces = [
        (photo, found, found.dense.outline("oval"))
        for photo, found in pairs
        if found is not None and found.face.box[2:].min() >= LEAST_FACE
    ][: options.faces]
    clean = np.array([values(*face) for face in faces])
    spread = np.subtract(*np.nanpercentile(clean, (95, 5), axis=0))
    table = rich.table.Table(title=f"{len(faces)} faces", box=None, pad_edge=False)
    for title in ("measure", "median", *EDITS):
        table.add_column(title, justify="left" if title == "measure" else "right")
    cells: list[list[str]] = []
    for edit in track(EDITS.values(), "edits", transient=True):
        edited = np.array(
            [[values(edit(photo, step), found, outline) for step in STEPS] for photo, found, outline in faces]
        )
        lines = np.concatenate([clean[:, None], edited], axis=1)
        changes = np.nanmedian(lines[:, -1] - lines[:, 0], axis=0) / spread
        cells.append([f"{change:+.0%} {_order(lines[..., at]):+.2f}" for at, change in enumerate(changes)])
    for at, name in enumerate((*IN_CROP, *IN_FRAME)):
        table.add_row(name, f"{np.nanmedian(clean[:, at]):.3g}", *(column[at] for column in cells))
    rich.console.Console(width=200).print(table)


def _order(lines: NDArray[np.float64]) -> float:
    """The median of Spearman's correlation of step and measure over lines (faces, steps)."""
    steps = np.arange(lines.shape[1])
    return float(np.nanmedian([spearmanr(steps, line).statistic for line in lines if np.ptp(line) > 0]))


if __name__ == "__main__":
    main()
