"""docs/grafana.json: Grafana's own schema accepts it, and its queries ask for metrics that a job exports."""

import copy
import json
import re
from collections.abc import Iterator

import promql_parser
import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from places import ROOT

from faceq.job.metrics import METRICS, RUN_ID

METRIC = {f"ray_{metric.name}": metric for metric in METRICS}


@pytest.fixture
def dashboard() -> dict:
    return json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))


def lost(given: object, back: object, place: str = "") -> Iterator[str]:
    """Places whose value the schema has no field for: they are missing after a round trip, or differ."""
    if isinstance(given, dict) and isinstance(back, dict):
        for key in given:
            inside = f"{place}/{key}"
            yield from lost(given[key], back[key], inside) if key in back else [inside]
    elif isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        for number, pair in enumerate(zip(given, back, strict=True)):
            yield from lost(*pair, f"{place}/{number}")
    elif given != back:
        yield place


def round_trip(dashboard: dict) -> dict:
    """What the classes that Grafana generates from its schema of dashboards make of it."""
    plugins.register_default_plugins()
    return json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))


def queries(dashboard: dict) -> list[tuple[str, str]]:
    """The PromQL of each query, and its legend."""
    found = [each for panel in dashboard["panels"] for each in panel["targets"]]
    return [(each["expr"].replace("$__rate_interval", "1m"), each["legendFormat"]) for each in found]


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> bool:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def test_the_schema_of_grafana_has_a_field_for_everything_in_the_dashboard(dashboard):
    assert list(lost(dashboard, round_trip(dashboard))) == []


@pytest.mark.parametrize(
    "place", ["panels/0/fieldConfig/defaults", "panels/4/targets/0", "templating/list/1"]
)
def test_a_misspelled_field_would_be_found(dashboard, place):
    wrong = inside = copy.deepcopy(dashboard)
    for key in place.split("/"):
        inside = inside[int(key) if key.isdigit() else key]
    inside["hidde"] = 1
    assert list(lost(wrong, round_trip(wrong))) == [f"/{place}/hidde"]


def test_every_query_asks_for_metrics_and_labels_that_a_job_exports(dashboard):
    for query, legend in queries(dashboard):
        asked = selectors(query)
        assert asked
        for selector in asked:
            metric = METRIC[selector.name]
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert RUN_ID in labels and labels <= {RUN_ID, metric.tag}
            assert set(re.findall(r"{{(\w+)}}", legend)) <= {metric.tag}


def test_every_metric_is_on_the_dashboard(dashboard):
    asked = {selector.name for query, _ in queries(dashboard) for selector in selectors(query)}
    (run,) = (each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query")
    asked |= {re.fullmatch(r"label_values\((\w+), run_id\)", run)[1]}
    assert asked == set(METRIC)


def test_panels_do_not_overlap(dashboard):
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24
