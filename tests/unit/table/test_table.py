"""Row identity and the table's schema."""

import time

import numpy as np
import pyarrow as pa

from faceq.table.schema import (
    SCHEMA,
    frame_id,
    isin_sorted,
    pending,
    record_of,
    scatter_column,
    schema,
    schema_with,
)


def test_frame_id_is_the_documented_hash():
    # Computed with `b2sum -l 64` over the bytes "s3://b/a.tar\0x.jpg\0" + "0" and "/v.mp4\0\0" + "17".
    assert frame_id("s3://b/a.tar", "x.jpg", 0) == int.from_bytes(bytes.fromhex(B2SUM_MEMBER), signed=True)
    assert frame_id("/v.mp4", None, 17) == int.from_bytes(bytes.fromhex(B2SUM_VIDEO), signed=True)


B2SUM_MEMBER = "ed235848b768701d"
B2SUM_VIDEO = "cf14a6aaf83ac1d7"


def test_columns_are_those_of_the_contract():
    names = (
        "frame_id source member frame_index timestamp_s status error width height n_faces "
        "face_x face_y face_w face_h det_score landmarks yaw pitch roll face_confidence align_error "
        "serfiq_raw serfiq embedding_norm dhash mask_coverage dbcnn "
        "single_face eye_distance head_size face_inside margin_left margin_right margin_above margin_below "
        "eyes_open mouth_open sharpness noise compression luminance_mean luminance_variance under_exposed "
        "over_exposed dynamic_range illumination_uniformity natural_colour extra shot run_id"
    )
    assert SCHEMA.names == names.split()
    assert SCHEMA.field("frame_id").type == pa.int64()
    assert SCHEMA.field("landmarks").type == pa.list_(pa.float32())


def test_embeddings_are_a_column_when_they_are_kept():
    assert schema(embeddings=False) == SCHEMA
    kept = schema_with({"embeddings": True})
    assert kept.names == [*SCHEMA.names, "embedding"]
    assert kept.field("embedding").type == pa.list_(pa.float32())


def test_the_record_survives_the_schema():
    record = {"models": {"yunet": {"sha256": "49f0"}}, "fiq_threshold": 0.5}
    assert record_of(schema_with(record)) == record
    assert record_of(SCHEMA) == {}


def test_values_are_written_to_their_rows_and_the_rest_stays_null():
    batch = pa.table({"status": pa.array([None, "unreadable", None], pa.string())})
    rows = pending(batch)
    assert rows.tolist() == [0, 2]
    batch = scatter_column(batch, "dbcnn", rows, np.array([1.5, 2.5]))
    assert batch["dbcnn"].to_pylist() == [1.5, None, 2.5]
    assert batch.schema.field("dbcnn").type == pa.float32()


def test_looking_up_a_few_ids_among_a_million_does_not_sort_them_all():
    known = np.sort(np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 1_000_000))
    ids = np.concatenate([known[[0, 77, -1]], [known[0] + 1, 2**63 - 1, -(2**63)]])
    started = time.process_time()
    assert isin_sorted(ids, known).tolist() == [True, True, True, False, False, False]
    looked_up, started = time.process_time() - started, time.process_time()
    np.isin(ids, known)
    assert looked_up < (time.process_time() - started) / 10
    assert isin_sorted(ids, known[:0]).tolist() == [False] * 6
