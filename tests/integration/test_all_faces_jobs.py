"""Jobs that score all faces of frames, in both forms of the graph."""

import pytest
from here import settings
from places import PHOTOS

import faceq
from faceq.job import pipeline
from faceq.table.schema import FACES_COLUMN, SCHEMA
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("local_ray")

VALUES = [*(name for name in SCHEMA.names if name not in ("frame_id", "member", "run_id")), FACES_COLUMN.name]


def test_a_job_of_one_pool_or_three_gives_the_rows_of_score_images(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    photo = (PHOTOS / "t1.jpg").read_bytes()
    images = {"a.jpg": photo, "b.jpg": photo[:1000], "c.jpg": (PHOTOS / "mask_blue.jpg").read_bytes()}
    for number, face in enumerate(list(demo.source_faces().values())[:3]):
        images[f"{number}.jpg"] = demo._jpeg(demo.degraded(face, "blur", number % 5, number))
    for name, image in images.items():
        (tmp_path / "in" / name).write_bytes(image)
    of_faces = {"faces": "all", "main": "best", "max_faces": 4, "embeddings": True}
    pools = {"find_face": {"batch_size": 3}, "serfiq": {"batch_size": 2}, "dbcnn": {"num_cpus": 0.25}}
    tables = []
    for name, here, stages in (("shared", True, {}), ("own", False, pools)):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "runs_here", lambda here=here: here)
            job = settings(tmp_path / "in", tmp_path / name, **of_faces, **stages)
            done = pipeline.score(job)
            assert done.run.rows == len(images)
            tables.append(Table(job.out, job.s3).rows([*VALUES, "embedding"]).sort_by("source").to_pylist())
    expected = faceq.score_images(sorted((tmp_path / "in").iterdir()), **of_faces)
    assert tables[0] == tables[1] == expected.select([*VALUES, "embedding"]).sort_by("source").to_pylist()
    counts = {row["source"][-5:]: row["faces"] and len(row["faces"]) for row in tables[0]}
    assert (counts["a.jpg"], counts["b.jpg"], counts["c.jpg"]) == (4, None, [])
    # Continued by the same job, there is nothing to do.
    assert pipeline.score(job).run.rows in (0, None)
