"""The report: its counts, its content, and its use in a browser."""

import base64
import io
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from here import score_here
from PIL import Image

import faceq
from faceq.cli import main
from faceq.query.filters import FILTERS
from faceq.query.rows import Rows
from faceq.report import page as report
from faceq.report.faces import FACE_SIDE, FACES_PER_END, sample
from faceq.report.histograms import histogram, measure_charts
from faceq.storage.settings import S3Settings
from faceq.table.schema import STATUSES
from jobs import demo
from jobs.training import synthetic

MEASURED = [column.name for column in report.DRAWN]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def page(looked_at, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main.main(["report", looked_at, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("made-up") / "table"
    synthetic.write(folder, 100_000)
    return str(folder)


def test_counts_are_those_of_the_queries_that_the_page_offers(made_up):
    """At every step of both sliders, including steps that float32 cannot represent exactly."""
    with Rows(made_up, S3Settings()) as rows:
        counts = report.count(rows)
        assert counts.rows == 100_000 and set(counts.statuses) == set(STATUSES)
        lines = [(s, d) for s in range(101) for d in (0, 37, 55, 100)]
        edges = (f"count(*) FILTER (serfiq >= {s / 100:.2f} AND dbcnn >= {d})" for s, d in lines)
        asked = rows.sql(f"SELECT {', '.join(edges)} FROM frames").fetchall()[0]
    kept = [int(counts.grid[s:, d:].sum()) for s, d in lines]
    assert kept == list(asked)


def test_a_score_on_a_step_counts_as_reaching_it(made_up):
    """Every step of serfiq as float32, and the next smaller number."""
    steps = np.arange(101)
    at = (steps / 100).astype(np.float32)
    below = np.nextafter(at, np.float32(-1))[1:]
    listed = ", ".join(f"({float(value)!r}::FLOAT)" for value in [*at, *below])
    with Rows(made_up, S3Settings()) as rows:
        found = rows.sql(f"SELECT {report._step('serfiq')} FROM (VALUES {listed}) AS v(serfiq)").fetchall()
    assert [step for (step,) in found] == [*steps, *(steps[1:] - 1)]


def test_the_page_shows_every_status_error_and_source(page, looked_at, frames_in):
    text = page.read_text(encoding="utf-8")
    rows = faceq.read_table(looked_at).to_pylist()
    for status in STATUSES:
        share = sum(row["status"] == status for row in rows) / len(rows)
        assert re.search(rf'{status}</th><td class="n">\d+</td>\s*<td class="n">{100 * share:.1f}%', text)
    for source in ("tars/00000.tar", "rows.parquet", "clip.mp4"):
        assert f"{frames_in}/{source}" in text
    assert "the file is empty (0 bytes)" in text


def test_the_page_shows_what_each_part_of_a_filter_rejects(page, looked_at):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))
    with Rows(looked_at, S3Settings()) as rows:
        for name, each in FILTERS.items():
            passing = rows.count(rows.chosen(each.condition))
            assert f"{name}: {passing} of {rows.count(rows.chosen())} pass" in text
        fails = rows.count(rows.chosen("(serfiq >= 0.6) is not true"))
    assert text.count(f"serfiq &gt;= 0.6 {fails} ") == len(FILTERS)


def test_the_worst_source_comes_first(made_up):
    with Rows(made_up, S3Settings()) as rows:
        worst, count = report._sources(rows)
    assert count == 200 and len(worst) == report.SOURCES_SHOWN
    assert [source["usable"] for source in worst] == sorted(source["usable"] for source in worst)
    frames = faceq.read_table(made_up, f"source = '{worst[0]['name']}'", ["serfiq"])
    assert worst[0]["usable"] == pytest.approx(np.nan_to_num(frames["serfiq"].to_numpy()).mean())


def test_faces_are_cropped_from_their_own_frames(looked_at):
    with Rows(looked_at, S3Settings()) as rows:
        faces = sample(rows, report.SCALES, MEASURED, S3Settings())
    scored = {row["serfiq"]: row for row in faceq.read_table(looked_at, "serfiq is not null").to_pylist()}
    assert faces.lost == 0 and faces.by_score["serfiq"]
    for face in faces.by_score["serfiq"] + faces.by_score["dbcnn"]:
        assert scored[face.serfiq]["dbcnn"] == face.dbcnn
        encoded = base64.b64decode(face.picture.removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(encoded)).size == (FACE_SIDE,) * 2
    # In the sharp small images, the detector finds the face again.
    best = faces.by_score["dbcnn"][-1]
    picture = Image.open(io.BytesIO(base64.b64decode(best.picture.split(",")[1]))).resize((384, 384))
    assert faceq.score_images([np.asarray(picture)])["n_faces"].to_pylist() == [1]


def test_faces_at_the_ends_of_a_measure_have_its_extreme_values(looked_at):
    with Rows(looked_at, S3Settings()) as rows:
        faces = sample(rows, report.SCALES, MEASURED, S3Settings())
    stills = faceq.read_table(looked_at, "sharpness is not null and timestamp_s is null")
    ends = faces.by_measure["sharpness"]
    values = sorted(stills["sharpness"].to_pylist())
    assert ends.lowest[0][0] <= values[0] and ends.highest[0][0] >= values[-1]
    for end, falling in ((ends.lowest, False), (ends.highest, True)):
        shown = [value for value, _ in end]
        assert shown == sorted(shown, reverse=falling) and len(set(shown)) == len(shown) == FACES_PER_END
    blurred, sharp = (laplacian(end[0][1].picture) for end in (ends.lowest, ends.highest))
    assert sharp > 2 * blurred


def laplacian(picture: str) -> float:
    encoded = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"))
    grey = np.asarray(Image.open(io.BytesIO(encoded)).convert("L"), float)
    return float(np.var(np.diff(grey, 2, axis=0)))


def test_a_histogram_counts_all_frames_that_have_the_measure(looked_at, made_up):
    for table in (looked_at, made_up):
        with Rows(table, S3Settings()) as rows:
            charts = measure_charts(rows, report.DRAWN)
            for chart in charts:
                name = chart.column.name
                assert chart.count == rows.count(rows.chosen(f"{name} IS NOT NULL")), name
                titles = [int(mark.title.split(": ")[1].replace(",", "")) for mark in chart.chart.marks]
                assert sum(titles) == chart.count, name
        assert [chart.column.name for chart in charts] == MEASURED


def test_a_measure_that_is_the_same_everywhere_has_no_chart(tmp_path):
    picture = demo.source_faces()["astronaut"]
    for name in "ab":
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    text = report.build(score_here(str(tmp_path), str(tmp_path / "table")), S3Settings())
    assert "1 in all 2 frames that have it." in text and "Histogram of sharpness" not in text


def test_the_outermost_bins_include_what_lies_beyond(looked_at):
    edges = np.linspace(-10, 10, 5)
    angles = faceq.read_table(looked_at, "yaw is not null")["yaw"].to_numpy()
    with Rows(looked_at, S3Settings()) as rows:
        counts = histogram(rows, "yaw", edges)
    expected, _ = np.histogram(np.clip(angles, -10, 9.99), edges)
    assert counts.tolist() == expected.tolist() and counts.sum() == len(angles)


def test_a_page_without_faces_has_no_image_and_says_so(looked_at, tmp_path):
    path = tmp_path / "r.html"
    assert main.main(["report", looked_at, "--out", str(path), "--no-images"]) == 0
    text = path.read_text(encoding="utf-8")
    assert "data:image" not in text and "It contains no images." in text


def test_names_and_errors_cannot_become_part_of_the_page(looked_at, tmp_path):
    """File names can contain anything."""
    place = tmp_path / "</script><img src=x onerror=alert(1)>"
    place.parent.mkdir(parents=True)
    shutil.copytree(looked_at, place)
    text = report.build(str(place), S3Settings(), with_pictures=False)
    assert "<img" not in text and "&lt;img" in text


def test_sources_that_are_gone_leave_a_page_that_says_so(made_up):
    text = report.build(made_up, S3Settings())
    assert re.search(r"[1-9]\d* of the chosen faces could no longer be read", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--out", "/no/such/folder/r.html"], "there is no folder"), (["--out", "/tmp"], "path of a file")],
)
def test_an_output_that_cannot_be_written_is_reported_at_once(looked_at, arguments, said, capsys):
    assert main.main(["report", looked_at, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_table_that_is_not_there(tmp_path, capsys):
    assert main.main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    assert "no faceq table here" in capsys.readouterr().err


def text(tab, element: str) -> str:
    return tab.value(f"document.getElementById('{element}').textContent")


@needs_chromium
def test_in_a_browser(page, looked_at, tmp_path, capsys):
    """Charts are drawn. Sliders change lines, share, filter and faces, also by keyboard. The page makes no
    requests."""
    with chromium(tmp_path / "profile") as tab:
        tab.open(page, 1280, 900)
        shown = "[...document.querySelectorAll('svg.chart:not(.timeline)')]"
        charts = tab.value(f"{shown}.map(c => c.querySelectorAll('rect').length)")
        assert len(charts) == 6 + len(MEASURED) and min(charts) >= 1
        line = "document.querySelector('.cut[data-slider=serfiq]').getBoundingClientRect().x"
        seen = []
        tab.value("document.getElementById('serfiq').focus()")
        for key, value in (("Home", "0.00"), ("ArrowRight", "0.01"), ("End", "1.00")):
            tab.press(key)
            seen.append((text(tab, "kept-of"), tab.value(line)))
            assert text(tab, "sql") == f"serfiq >= {value} and dbcnn >= 55"
        places = [place for _, place in seen]
        assert places[0] < places[1] < places[2]

        # With the mouse, at a third of the slider.
        slider = "document.getElementById('serfiq').getBoundingClientRect()"
        box = tab.value(f"(b => [b.x, b.y, b.width, b.height])({slider})")
        tab.click(box[0] + box[2] / 3, box[1] + box[3] / 2)
        tab.value("document.getElementById('dbcnn').focus()")
        tab.press("Home")
        tab.press("ArrowRight", times=20)
        filter_ = text(tab, "sql")
        assert re.fullmatch(r"serfiq >= 0\.3\d and dbcnn >= 20", filter_)
        kept = text(tab, "kept-of")
        assert main.main(["query", looked_at, filter_, "--count"]) == 0
        count = int(capsys.readouterr().out)
        assert f"of all frames kept: {count} of " in kept and count > 0

        least = float(filter_.split()[2])
        # Labels have two digits.
        for side, right in (
            ("below", lambda v: v <= least + 0.005),
            ("above", lambda v: v >= least - 0.005),
        ):
            under = f"document.querySelectorAll('#serfiq-{side} small')"
            texts = tab.value(f"[...{under}].map(e => e.textContent)")
            assert texts and all(right(float(label.split(" ")[0])) for label in texts)
        loaded = (
            "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt.startsWith('Face'))"
        )
        assert tab.value(loaded)
        tab.value("document.querySelector('[data-copy=sql]').click()")
        tab.value("new Promise(resolve => setTimeout(resolve, 300))")
        assert text(tab, "copied")

        tab.screenshot(tmp_path / "desktop.png")
        tab.open(page, 390, 844, dark=True)
        assert tab.value("document.documentElement.scrollWidth") <= 390
        tab.screenshot(tmp_path / "phone.png")
        dark = np.asarray(Image.open(tmp_path / "phone.png").convert("L"))
        light = np.asarray(Image.open(tmp_path / "desktop.png").convert("L"))
        assert np.median(dark) < 60 and np.median(light) > 200
        assert tab.errors == []
        assert {url for url in tab.requests if not url.startswith("data:")} == {page.as_uri()}


@needs_chromium
def test_screen_readers_have_a_name_for_everything(page, tmp_path):
    with chromium(tmp_path / "profile") as tab:
        tab.open(page, 1280, 900)
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        named = ("slider", "button", "img", "image", "table", "region", "heading")
        found = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in named
        ]
        assert {"slider", "button", "heading", "region"} <= {role for role, _ in found}
        assert [role for role, name in found if not name and role != "table"] == []
        levels = tab.value("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
