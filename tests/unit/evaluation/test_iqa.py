"""Agreement with human ratings: known figures, ties, order, unusual sizes, and unusable files."""

import doctest
import io
import itertools
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from PIL import Image

from faceq.cli import main
from faceq.errors import JobError, UsageError
from faceq.evaluation import iqa, plots, whole_images
from faceq.evaluation.whole_images import Rater

TIED = (
    np.array([1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.0, 8.0]),
    np.array([2.0, 1.0, 3.0, 3.0, 4.0, 6.0, 6.0, 6.0]),
)


def related(count: int = 400, noise: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores around 0.5, and ratings that depend on them by a known logistic function."""
    rng = np.random.default_rng(3)
    scores = rng.normal(0.5, 0.2, count)
    return scores, iqa.Logistic(90, 10, 0.55, 0.08)(scores) + rng.normal(0, noise, count)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"{number}.png" for number in range(count))


def test_the_examples_in_the_docstrings_hold() -> None:
    outcome = doctest.testmod(iqa)
    assert outcome.attempted >= 5 and outcome.failed == 0


@pytest.mark.parametrize("pair", [TIED, related(60)], ids=["tied", "untied"])
def test_correlations_are_those_of_their_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert iqa.plcc(*pair) == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-12)
    # The mean rank of a value: the values below it, and half of those tied with it.
    ranks = [np.array([(some < one).sum() + (some == one).sum() / 2 for one in some]) for some in pair]
    assert iqa.srcc(*pair) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_figures_are_those_of_earlier_versions() -> None:
    result = iqa.agreement(names(400), *related())
    figures = (result.srcc, result.plcc, result.krcc, result.rmse)
    wanted = (0.9738557740985881, 0.9832831100653598, 0.8591729323308271, 4.939566864382184)
    assert figures == pytest.approx(wanted, abs=1e-9)


def test_a_constant_has_no_correlation() -> None:
    rising, constant = np.arange(5.0), np.ones(5)
    for correlation in (iqa.plcc, iqa.srcc, iqa.krcc):
        assert math.isnan(correlation(rising, constant)) and math.isnan(correlation(constant, rising))


def test_kendalls_tau_counts_pairs_in_order() -> None:
    scores, ratings = TIED
    pairs = list(itertools.combinations(range(len(scores)), 2))
    signs = np.array([np.sign([scores[i] - scores[j], ratings[i] - ratings[j]]) for i, j in pairs])
    untied = np.abs(signs).sum(axis=0)
    assert iqa.krcc(scores, ratings) == pytest.approx(signs.prod(axis=1).sum() / math.sqrt(untied.prod()))


def test_figures_do_not_depend_on_the_order_of_pictures() -> None:
    scores, ratings = related()
    order = np.random.default_rng(0).permutation(len(scores))
    first = iqa.agreement(names(400), scores, ratings).figures()
    second = iqa.agreement(names(400), scores[order], ratings[order]).figures()
    assert first == pytest.approx(second, abs=2e-5)


def test_figures_do_not_depend_on_the_unit_of_the_score() -> None:
    scores, ratings = related()
    first = iqa.agreement(names(400), scores, ratings).figures()
    for scale, offset in ((1e-6, 0.0), (1e6, -3e8)):
        other = iqa.agreement(names(400), scale * scores + offset, ratings).figures()
        assert other == pytest.approx(first, abs=1e-4)


def test_the_logistic_that_made_the_ratings_is_found() -> None:
    scores, ratings = related(noise=0.0)
    curve = iqa.fit(scores, ratings)
    assert isinstance(curve, iqa.Logistic)
    assert (curve.high, curve.low) == pytest.approx((90, 10), abs=0.01)
    assert (curve.centre, curve.width) == pytest.approx((0.55, 0.08), abs=1e-4)
    result = iqa.agreement(names(400), scores, ratings)
    assert result.plcc == pytest.approx(1) and result.rmse < 1e-3 and result.srcc == pytest.approx(1)


def test_the_logistic_is_the_best_that_scipys_own_fit_finds() -> None:
    scores, ratings = related()

    def published(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
        return (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4))) + b2

    start = (ratings.max(), ratings.min(), scores.mean(), scores.std() / 4)
    best, _ = scipy.optimize.curve_fit(published, scores, ratings, start)
    result = iqa.agreement(names(400), scores, ratings)
    assert result.rmse == pytest.approx(iqa.rmse(published(scores, *best), ratings), abs=1e-4)
    assert result.plcc == pytest.approx(iqa.plcc(published(scores, *best), ratings), abs=1e-5)
    assert result.plcc > iqa.plcc(scores, ratings)


def test_scores_that_fall_get_a_falling_curve() -> None:
    scores, ratings = related()
    rising, falling = (iqa.agreement(names(400), sign * scores, ratings) for sign in (1, -1))
    assert falling.srcc == -rising.srcc and falling.krcc == -rising.krcc
    assert falling.plcc == pytest.approx(rising.plcc, abs=1e-4)
    assert falling.rmse == pytest.approx(rising.rmse, abs=1e-3)


@pytest.mark.parametrize("shape", ["straight", "step", "bent", "noise", "outlier"])
def test_any_shape_gives_finite_figures_no_worse_than_a_line(shape: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, 200)
    ratings = {
        "straight": 20 + 60 * x,
        "step": np.where(x > 0.5, 80.0, 20.0),
        "bent": np.exp(4 * x),
        "noise": rng.normal(50, 10, 200),
        "outlier": 20 + 60 * x + rng.normal(0, 5, 200),
    }[shape]
    if shape == "outlier":
        x[0] = 1e4
    result = iqa.agreement(names(200), x, ratings)
    assert all(math.isfinite(value) for value in result.figures().values())
    assert result.plcc >= abs(iqa.plcc(x, ratings)) - 1e-6
    if shape in {"straight", "step"}:
        assert result.plcc > 0.999


def test_a_fit_that_does_not_converge_falls_back_to_a_line_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(iqa, "_MAX_EVALUATIONS", 1)
    scores, ratings = related()
    result = iqa.agreement(names(400), scores, ratings)
    assert isinstance(result.curve, iqa.Line)
    assert "did not converge" in result.curve.reason
    assert result.plcc == pytest.approx(iqa.plcc(scores, ratings))


@pytest.mark.parametrize(
    ("scores", "ratings", "told"),
    [
        (np.arange(9.0), np.arange(9.0), "9 rated images are too few: give at least 10"),
        (np.full(12, 50.0), np.arange(12.0), "every score is 50"),
        (np.arange(12.0), np.full(12, 3.5), "every rating is 3.5"),
    ],
)
def test_values_that_cannot_be_correlated_are_an_error(scores, ratings, told) -> None:
    with pytest.raises(UsageError, match=told):
        iqa.agreement(names(len(scores)), scores, ratings)


@pytest.fixture
def rated(tmp_path: Path) -> tuple[str, str]:
    """Twelve grey images of rising brightness and size in two folders, with ratings that rise with
    brightness."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    lines = ["rater,image,mos"]
    for number in range(12):
        name = f"more/{number}.png" if number % 2 else f"{number}.png"
        Image.new("RGB", (20 + number, 16), (20 * number,) * 3).save(tmp_path / "pictures" / name)
        lines.append(f"x,{name},{20 + 5 * number + (number % 3)}")
    path = tmp_path / "mos.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return str(tmp_path / "pictures"), str(path)


def mean_brightness(picture: np.ndarray) -> float:
    assert picture.ndim == 3 and picture.dtype == np.uint8
    return float(picture.mean())


brightness = Rater(mean_brightness)


def test_pictures_are_rated_whole_and_compared(rated, monkeypatch, caplog) -> None:
    monkeypatch.setattr(iqa, "REPORT_EVERY_S", 0)
    with caplog.at_level("INFO"):
        result = iqa.evaluate(*rated, brightness)
    assert result.names[:3] == ("0.png", "more/1.png", "2.png")
    assert result.scores.tolist() == [20.0 * number for number in range(12)]
    figures = result.figures()
    assert list(figures) == ["n", "srcc", "plcc", "krcc", "rmse"]
    assert figures["n"] == 12 and figures["srcc"] == 1 and figures["plcc"] > 0.99
    assert caplog.messages[5].startswith("6 of 12 images")


def test_pictures_rated_at_once_keep_their_order(rated) -> None:
    working = threading.Barrier(3, timeout=30)

    def rate(picture: np.ndarray) -> float:
        working.wait()  # breaks unless three threads work at the same time
        return mean_brightness(picture)

    found = iqa.evaluate(*rated, Rater(rate, at_once=3))
    alone = iqa.evaluate(*rated, brightness)
    assert found.names == alone.names and found.scores.tolist() == alone.scores.tolist()
    assert found.figures() == alone.figures()


def test_the_command_prints_figures_and_reports_progress_separately(rated, monkeypatch, capsys) -> None:
    monkeypatch.setattr(iqa, "REPORT_EVERY_S", 0)
    monkeypatch.setattr(whole_images, "rater", lambda *_: brightness)  # DB-CNN would take minutes
    assert main.main(["evaluate", "iqa", *rated]) == 0
    printed = capsys.readouterr()
    assert "SRCC" in printed.out and "of 12 images" not in printed.out
    assert "of 12 images" in printed.err


def test_pictures_and_ratings_may_lie_on_s3(rated, s3) -> None:
    files = iqa.filesystem(s3, iqa.S3Settings())
    files.put(rated[0], "frames/rated/pictures", recursive=True)
    files.put(rated[1], "frames/rated/mos.csv")
    result = iqa.evaluate(f"{s3}/rated/pictures", f"{s3}/rated/mos.csv", brightness)
    assert result.figures() == iqa.evaluate(*rated, brightness).figures()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("image,mos", "picture,score", "no column image and mos; found rater, picture, score"),
        ("image,mos", "image;mos", "no column image and mos; found rater, image;mos"),
        ("more/3.png,35", "more/3.png,good", r"mos\.csv, line 5: mos is 'good', not a number"),
        ("more/3.png,35", "more/3.png", "line 5: image or mos is empty"),
        ("more/3.png,35", "more/3.png,nan", r"line 5: mos is 'nan', not a number"),
        ("more/3.png", "3.png", r"rates 3\.png, not found in .*pictures"),
        ("more/3.png", "2.png", r"line 5: 2\.png is rated twice"),
        ("more/3.png", '"more/3.png' + "x" * 2**17, r"mos\.csv: cannot be read as CSV: field larger"),
        ("more/3.png", "", "line 5: image or mos is empty"),
    ],
)
def test_an_unusable_ratings_file_is_an_error_with_the_line(rated, before, after, told) -> None:
    path = Path(rated[1])
    content = path.read_text(encoding="utf-8-sig")
    assert before in content
    path.write_text(content.replace(before, after), encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        iqa.evaluate(*rated, brightness)


def test_inputs_that_are_not_there_or_not_readable_are_named(rated, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"absent\.csv"):
        iqa.evaluate(rated[0], str(tmp_path / "absent.csv"), brightness)
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        iqa.evaluate(str(tmp_path / "nowhere"), rated[1], brightness)
    for name in ("4.png", "more/5.png"):
        (Path(rated[0]) / name).write_bytes(b"cut off")
    for at_once in (1, 4):
        with pytest.raises(UsageError, match=r"/4\.png: not an image"):
            iqa.evaluate(*rated, Rater(mean_brightness, at_once))
    short = tmp_path / "short.csv"
    short.write_text("image,mos\n0.png,3\n")
    with pytest.raises(UsageError, match="rates 1 images: give at least 10"):
        iqa.evaluate(rated[0], str(short), brightness)


def test_a_nan_score_stops_the_evaluation(rated) -> None:
    with pytest.raises(JobError, match=r"0\.png: the score is nan"):
        iqa.evaluate(*rated, Rater(lambda picture: math.nan))


def test_the_plot_is_a_png_with_points_and_curve() -> None:
    scores, ratings = related()
    plot = plots.iqa_plot(iqa.agreement(names(400), scores, ratings), title="DB-CNN")
    with Image.open(io.BytesIO(plot)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) >= 1000
    red = (pixels[..., 0] > 150) & (pixels[..., 1:] < 80).all(axis=-1)
    blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 0] < 180)
    assert red.sum() > 3000 and blue.sum() > 20000
