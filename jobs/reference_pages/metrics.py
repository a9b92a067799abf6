"""The page of the metrics, generated from `faceq.job.metrics` and `faceq.job.counts`."""

from faceq.job.counts import STAGES
from faceq.job.metrics import METRICS, RUN_ID
from faceq.table.schema import STATUSES
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = f"""\
# Metrics

A job exports these metrics through Ray. Ray's endpoints for Prometheus serve them with `ray_` before each
name, as `ray_{METRICS[0].name}`. [Monitor a job](../how-to/monitor.md) says where the endpoints are.

"""


def page() -> str:
    """The whole page as Markdown."""
    rows = [
        (
            f"`{each.name}`",
            "counter" if each.is_counter else "gauge",
            each.tag and f"`{each.tag}`",
            each.description,
        )
        for each in METRICS
    ]
    stages, statuses = (", ".join(f"`{name}`" for name in names) for names in (STAGES, STATUSES))
    return (
        WRITTEN
        + _HEAD
        + table(("metric", "kind", "label", "meaning"), rows)
        + f"""
Every metric has the label `{RUN_ID}`, the id of the run. Ray adds labels of its own, such as `SessionName`
and `NodeAddress`.

- `stage`: {stages}.
- `status`: {statuses}.

Details:

- A counter that has counted nothing is absent.
- Frames of a batch that ran twice, because its process died, count twice in `faceq_stage_frames_total`,
  except in the stages `read` and `write`. `faceq_stage_seconds_total` contains the time of both.
- With `--limit`, `faceq_frames_read_total` and the queue of `find_face` contain frames beyond the limit.
- If the process that counts dies, Ray restarts it, and its counts begin again. The metrics of that run are
  approximate from then on. The table and the summary are exact.
"""
    )
