"""The panels beside an annotated image: the values and the input of DB-CNN, and a table of the measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceq.report.comparison import UNUSUAL, Reference, Standing, short

SIDE = 720
"""Height of the panels in pixels. Each is half as wide."""

INK, PAPER, QUIET, TRACK = (235, 235, 235), (24, 26, 30), (150, 155, 165), (50, 54, 62)
NAME_COLOUR = (86, 180, 233)
USUAL_COLOUR, UNUSUAL_COLOUR = (0, 114, 178), (230, 159, 0)
"""RGB colours from the palette of Okabe and Ito."""

_MARGIN = 16
_GAP = 8
_TEXT_SIZES = range(16, 8, -2)
"""Sizes of the text in pixels, from the preferred one to the smallest."""

_NAMES, _LEADING = 5, 4
"""Width of the names as a multiple of the text size, and space between lines in pixels."""

_CAPTION = 2 * _GAP + 18
"""Height of the caption of the input of DB-CNN, with the space around it, pixels."""

_SMALLEST_CROP = 200
"""Minimum side of the input of DB-CNN, pixels: the text is made smaller instead."""

_TITLE, _CELL = 16, 14
"""Text sizes of the table of measures."""

_VALUE_AT, _BAR_AT, _SHARE_AT = 224, 234, SIDE // 2 - _MARGIN
"""Columns of this table, pixels: right end of the values, left end of the bars, right end of the shares."""

_BAR_WIDTH, _BAR_HEIGHT = 66, 8


@dataclass(frozen=True)
class Text:
    """Wrapped text. size: of the font, pixels. entries: names and the lines of their values. height: of the
    whole text, pixels."""

    size: int
    entries: list[tuple[str, list[str]]]

    @property
    def height(self) -> int:
        return sum(len(lines) * (self.size + _LEADING) + _GAP for _, lines in self.entries)


def value_panel(lines: list[tuple[str, str]], scored: np.ndarray | None) -> np.ndarray:
    """The panel with the input of DB-CNN and the values.

    Args:
        lines: names and values.
        scored: the input of DB-CNN, (S, S, 3) uint8 RGB; None if the face got no score.

    Returns:
        (SIDE, SIDE / 2, 3) uint8 RGB.
    """
    panel = Image.new("RGB", (SIDE // 2, SIDE), PAPER)
    draw = ImageDraw.Draw(panel)
    top = _MARGIN
    if scored is not None:
        text = fitted_text(lines, _SMALLEST_CROP)
        side = min(SIDE // 2 - 2 * _MARGIN, SIDE - 2 * _MARGIN - _CAPTION - text.height)
        panel.paste(Image.fromarray(scored).resize((side, side)), (_MARGIN, top))
        draw.text((_MARGIN, top + side + _GAP), "input of DB-CNN", INK, ImageFont.load_default(15))
        top += side + _CAPTION
    else:
        text = fitted_text(lines, 0)
    font = ImageFont.load_default(text.size)
    for name, values in text.entries:
        draw.text((_MARGIN, top), name, NAME_COLOUR, font)
        for value in values:
            draw.text((_MARGIN + _NAMES * text.size, top), value, INK, font)
            top += text.size + _LEADING
        top += _GAP
    return np.asarray(panel)


def measure_panel(standings: Sequence[Standing], reference: Reference) -> np.ndarray:
    """The panel with the measures of a face, the worst first, with a bar for the share of the reference that
    is better.

    Returns:
        (SIDE, SIDE / 2, 3) uint8 RGB.
    """
    panel = Image.new("RGB", (SIDE // 2, SIDE), PAPER)
    draw = ImageDraw.Draw(panel)
    small, large = ImageFont.load_default(_CELL), ImageFont.load_default(_TITLE)
    draw.text((_MARGIN, _MARGIN), "measures, worst first", NAME_COLOUR, large)
    draw.text((_SHARE_AT, _MARGIN), "worse than", NAME_COLOUR, large, anchor="ra")
    top = _MARGIN + _TITLE + _GAP
    for line in _wrapped(f"of {reference}", SIDE // 2 - 2 * _MARGIN, small)[:2]:
        draw.text((_SHARE_AT, top), line, QUIET, small, anchor="ra")
        top += _CELL + _LEADING
    top += _GAP
    step = (SIDE - _MARGIN - top) / max(1, len(standings))
    for number, standing in enumerate(standings):
        row = top + round(number * step)
        draw.text((_MARGIN, row), standing.name, INK, small)
        draw.text((_VALUE_AT, row), short(standing.value), INK, small, anchor="ra")
        draw.text((_SHARE_AT, row), standing.percent, INK, small, anchor="ra")
        above, below = row + _CELL // 2 + 2 - _BAR_HEIGHT // 2, row + _CELL // 2 + 2 + _BAR_HEIGHT // 2
        colour = UNUSUAL_COLOUR if standing.worse_than >= UNUSUAL else USUAL_COLOUR
        draw.rectangle((_BAR_AT, above, _BAR_AT + _BAR_WIDTH, below), TRACK)
        draw.rectangle((_BAR_AT, above, _BAR_AT + round(_BAR_WIDTH * standing.worse_than), below), colour)
    return np.asarray(panel)


def fitted_text(lines: list[tuple[str, str]], crop: int) -> Text:
    """Wrap the values, and choose the largest text size that leaves room for a crop of side `crop`.

    If no size does, lines are cut from the longest value.
    """
    room = SIDE - 2 * _MARGIN - (crop + _CAPTION if crop else 0)
    for size in _TEXT_SIZES:
        width = SIDE // 2 - 2 * _MARGIN - _NAMES * size
        font = ImageFont.load_default(size)
        text = Text(size, [(name, _wrapped(value, width, font)) for name, value in lines])
        if text.height <= room:
            return text
    while text.height > room:
        _, longest = max(text.entries, key=lambda entry: len(entry[1]))
        del longest[-2:]
        longest.append("…")
    return text


def _wrapped(text: str, width: float, font: Any) -> list[str]:
    """Wrap a text to a width in pixels. A word that is longer is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
