"""The columns of the component measures: why a face is good or bad (`faceq.faces.measures`)."""

import pyarrow as pa

from faceq.table.column import NO_SERFIQ, Column

_NONE = f"{NO_SERFIQ}, or `measures` is `none`"
_FEW = "the face has too few pixels inside the frame"


def _measure(name: str, meaning: str, unit: str = "", range_: str = "", also_null: str = "") -> Column:
    null = f"{_NONE}, or {also_null}" if also_null else _NONE
    return Column(name, pa.float32(), meaning, unit, range_, null)


MEASURES = (
    _measure(
        "single_face",
        "1 minus the ratio of the second largest face's area to the largest one's. 1 if there is only one "
        "face.",
        range_="0 to 1",
    ),
    _measure(
        "eye_distance",
        "Distance between the eye centres, divided by the cosine of `yaw`.",
        "pixels",
        "> 0",
        "`yaw` hides one eye, or `faces` is `aligned` and the landmark model does not give the eyes",
    ),
    _measure(
        "head_size",
        "T divided by the height of the frame. T is the distance from the midpoint of the eyes to the chin.",
        range_="> 0",
    ),
    _measure(
        "face_inside",
        "Share of the area of the face's outline that lies inside the frame. The outline of a face that is "
        "cut off is completed from an average head, except with the 106 landmarks of insightface.",
        range_="0 to 1",
    ),
    *(
        _measure(
            f"margin_{side}",
            f"Distance from the face's outline to the {edge} edge of the frame; negative where it is cut "
            "off.",
            "T",
        )
        for side, edge in (("left", "left"), ("right", "right"), ("above", "upper"), ("below", "lower"))
    ),
    _measure(
        "eyes_open",
        "Gap between the lids of the eye that is less open. FaceMesh follows the lids only in part: closed "
        "eyes have about 0.045, open ones 0.055 to 0.11.",
        "T",
        "≥ 0",
        "the landmark model does not have these points",
    ),
    _measure(
        "mouth_open",
        "Gap between the inner edges of the lips.",
        "T",
        "≥ 0",
        "the landmark model does not have these points",
    ),
    _measure(
        "sharpness",
        "How steep edges of the face are, in a crop in which all faces have the same size. A small face that "
        "was enlarged is not sharp.",
        "1/pixel of the crop (256 x 256)",
        "0 to 1",
        "the face has hardly any contrast, or too few pixels inside the frame",
    ),
    _measure(
        "noise",
        "Estimated standard deviation of noise in the flattest parts of the face, in the frame's pixels.",
        "grey levels of 255",
        "≥ 0",
        _FEW,
    ),
    _measure(
        "compression",
        "Strength of block artefacts: how much larger the steps between pixels are at the borders of blocks "
        "of 8 x 8 pixels than elsewhere, relative to those. Below about 0.1 without artefacts.",
        range_="≥ 0",
        also_null=_FEW,
    ),
    _measure("luminance_mean", "Mean luminance inside the face mask, in linear light.", range_="0 to 1"),
    _measure("luminance_variance", "Variance of the luminance inside the face mask.", range_="0 to 0.25"),
    _measure(
        "under_exposed",
        "Share of the face mask that is dark: luminance of at most 25 of 255, in linear light.",
        range_="0 to 1",
    ),
    _measure(
        "over_exposed",
        "Share of the face mask that is nearly white: luminance of at least 247 of 255, in linear light.",
        range_="0 to 1",
    ),
    _measure("dynamic_range", "Entropy of the luminance inside the face mask.", "bits", "0 to 8"),
    _measure(
        "illumination_uniformity",
        "How alike the light on both cheeks is: the overlap of their histograms of luminance.",
        range_="0 to 1",
        also_null="a cheek lies outside the frame",
    ),
    _measure(
        "natural_colour",
        "Distance of the mean colour inside the face mask from colours that skin can have: in CIELAB, a from "
        "5 to 25 and b from 5 to 35. 0 inside this range; a grey image has 7.",
        range_="≥ 0",
    ),
)
"""In the order of the table. None of them decides `status` or changes a score."""
