"""`cluster.yaml` and `rayjob.yaml`: what Ray itself makes of the one, and the form of the other."""

import copy
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from faceq import config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def rayjob() -> dict:
    return yaml.safe_load((ROOT / "rayjob.yaml").read_text(encoding="utf-8"))


def test_ray_takes_the_cluster_file(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert {name: node["max_workers"] for name, node in types.items()} == {"head": 0, "gpu": 8, "cpu": 16}
    assert (types["gpu"]["min_workers"], types["cpu"]["min_workers"]) == (0, 0)
    assert prepared["idle_timeout_minutes"] == 5


def test_ray_refuses_a_cluster_file_with_a_slip(cluster):
    """So that the test above is known to look."""
    cluster["available_node_types"]["gpu"]["max_worker"] = 8
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(cluster))


def test_machines_get_drivers_models_and_a_role_but_no_keys(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    for node in prepared["available_node_types"].values():
        machine = node["node_config"]
        assert machine["ImageId"].startswith("ami-") and machine["IamInstanceProfile"]
    # A node type's own commands come in place of the common ones.
    gpu = prepared["available_node_types"]["gpu"]["worker_setup_commands"]
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"], gpu):
        assert any("pip install" in each and "constraints.txt" in each for each in commands)
        assert "models pull" in commands[-1]
    assert any("onnxruntime-gpu" in each for each in gpu)
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8").lower()
    assert "access_key" not in text and "secret" not in text


def test_spot_workers_and_a_head_that_stays(cluster):
    machines = {name: node["node_config"] for name, node in cluster["available_node_types"].items()}
    spot = {name for name, each in machines.items() if "spot" in str(each.get("InstanceMarketOptions"))}
    assert spot == {"gpu", "cpu"} and cluster["head_node_type"] == "head"


def test_the_autoscaler_finds_an_image_for_each_kind_of_machine(cluster):
    """`ray up` starts Ray's second autoscaler, which gives a worker up whose image it does not find."""
    there = AutoscalingConfig(prepare_config(copy.deepcopy(cluster)), skip_content_hash=True)
    kinds = {"head": "cpu", "cpu": "cpu", "gpu": "gpu"}
    for kind, ending in kinds.items():
        image = there.get_docker_config(kind)["image"]
        assert image == f"rayproject/ray:{ray.__version__}-py311-{ending}"
    gpu = there.get_worker_setup_commands("gpu")
    assert sum("onnxruntime-gpu[cuda,cudnn]" in command for command in gpu) == 1


def test_the_kubernetes_cluster_has_the_ray_that_the_tests_run_with(rayjob):
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_image_is_made_as_gpu_workers_are_set_up(cluster, rayjob):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{ray.__version__}-py311-gpu\n" in text
    steps = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    made = [step.replace("--no-cache-dir ", "") for line in steps for step in line.split(" && ")]
    commands = cluster["available_node_types"]["gpu"]["worker_setup_commands"]
    set_up = [command.removeprefix("cd /home/ray/faceq && ").replace("--quiet ", "") for command in commands]
    assert made == set_up
    image = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert f"docker build -t {image} ." in text


def test_the_rayjob_has_the_form_that_kuberay_asks_for(rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]
    assert spec["entrypoint"].startswith("python -m jobs.score --config ")
    there = spec["rayClusterSpec"]
    assert there["enableInTreeAutoscaling"] is True
    groups = there["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["gpu", "cpu"]
    for group in groups:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    pods = [there["headGroupSpec"]["template"], *(group["template"] for group in groups)]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        # Ray takes its CPUs and GPUs from the limits; without requests alike, pods are thrown out.
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["image"] == pods[0]["spec"]["containers"][0]["image"]
    mounted = {volume["name"] for volume in pods[0]["spec"]["volumes"]}
    assert {mount["name"] for mount in pods[0]["spec"]["containers"][0]["volumeMounts"]} == mounted
    assert "nvidia.com/gpu" in groups[0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_example_job_fits_the_cluster(cluster):
    """Both pools share the one card of a GPU worker, and their CPUs leave some for decoding."""
    job = config.load(str(ROOT / "jobs" / "score.yaml"), {})
    worker = cluster["available_node_types"]["gpu"]["resources"]
    assert job.serfiq.num_gpus + job.dbcnn.num_gpus <= worker["GPU"]
    assert job.serfiq.num_cpus + job.dbcnn.num_cpus + job.find_face.num_cpus <= worker["CPU"]
