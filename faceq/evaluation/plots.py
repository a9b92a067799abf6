"""Plots for publications, as PNG."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from faceq.evaluation import edc, iqa

# Okabe and Ito's palette, which is safe for colour-blind readers, combined with distinct line styles.
_STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#7F7F7F", (0, (1, 3))),
)
_UPTO = edc.AREAS[-1]


def edc_plot(results: Sequence[edc.Result]) -> bytes:
    """Plot the false non-match rate against the share of discarded pairs, one panel per false match rate.

    Args:
        results: results for one or several qualities and false match rates.

    Returns:
        A PNG file's content.
    """
    rates = list(dict.fromkeys(result.fmr for result in results))
    qualities = list(dict.fromkeys(result.quality for result in results))
    style = {name: _STYLES[index % len(_STYLES)] for index, name in enumerate(qualities)}
    figure = Figure(figsize=(3.6 * len(rates), 3.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, rate in zip(np.atleast_1d(figure.subplots(1, len(rates))), rates, strict=True):
        for result in (result for result in results if result.fmr == rate):
            colour, line = style[result.quality]
            seen = result.curve.discarded < _UPTO
            discarded, fnmr = result.curve.discarded[seen], result.curve.fnmr[seen]
            axes.step(
                np.append(discarded, _UPTO) * 100,
                np.append(fnmr, fnmr[-1]) * 100,
                where="post",
                color=colour,
                linestyle=line,
                linewidth=1.6,
                label=f"{result.quality} ({result.pauc[-1]:.3f})",
            )
        axes.set_title(f"FMR {_rate(rate)}", fontsize=10)
        axes.set_xlabel("genuine pairs discarded (%)")
        axes.set_xlim(0, _UPTO * 100)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        axes.legend(title=f"quality (pAUC to {_UPTO:.0%})", fontsize=7, title_fontsize=7, frameon=False)
    figure.axes[0].set_ylabel("false non-match rate (%)")
    return _png(figure)


def iqa_plot(result: iqa.Result, title: str = "") -> bytes:
    """Plot ratings against scores, with the fitted curve.

    Args:
        result: from `iqa.evaluate`.
        title: title of the plot, for example the model and the data set.

    Returns:
        A PNG file's content.
    """
    figure = Figure(figsize=(4.2, 4.0), dpi=300, layout="constrained")
    axes = figure.add_subplot()
    # Make points more transparent if there are many, so that the plot shows their density.
    opacity = float(np.clip(20 / math.sqrt(len(result.names)), 0.15, 0.8))
    axes.scatter(result.scores, result.ratings, s=10, alpha=opacity, color="#2a6f97", linewidths=0)
    along = np.linspace(result.scores.min(), result.scores.max(), 200)
    kind = "logistic fit" if isinstance(result.curve, iqa.Logistic) else "linear fit"
    axes.plot(along, result.curve(along), color="#c1121f", linewidth=1.6, label=kind)
    figures = result.figures()
    told = [f"n = {figures['n']:,}"]
    told += [f"{name.upper()} = {figures[name]:.3f}" for name in ("srcc", "plcc", "krcc")]
    told.append(f"RMSE = {figures['rmse']:.2f}")
    rising = result.srcc >= 0
    axes.text(
        0.97 if rising else 0.03,
        0.03,
        "\n".join(told),
        transform=axes.transAxes,
        ha="right" if rising else "left",
        va="bottom",
        fontsize=8,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.8", "alpha": 0.85},
    )
    axes.legend(loc="upper left" if rising else "upper right", fontsize=8, frameon=False)
    axes.set_xlabel("predicted quality")
    axes.set_ylabel("mean opinion score")
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _rate(rate: float) -> str:
    exponent = round(float(np.log10(rate)))
    return f"$10^{{{exponent}}}$" if np.isclose(rate, 10.0**exponent) else f"{rate:g}"
