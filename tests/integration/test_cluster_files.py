"""The cluster files as Ray parses them, `rayjob.yaml` as Kubernetes does, and what they expose to others."""

import copy
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import botocore.session
import botocore.validate
import jsonschema
import pytest
import ray
import yaml
from kuberay import wrong, wrong_in_kubernetes
from kubernetes.client import models
from places import ROOT
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from faceq import config

DIGEST = "@sha256:[0-9a-f]{64}"
SECRETS = (
    *(".env", ".env.local", ".aws", ".ssh", ".netrc", ".pypirc", ".ray", "credentials", "server.pem"),
    *("server.key", "id_rsa", "id_ed25519", "cert.p12"),
)


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def cluster() -> dict:
    return load("cluster.yaml")


@pytest.fixture
def on_google() -> dict:
    return load("cluster-gcp.yaml")


@pytest.fixture
def rayjob() -> dict:
    return load("rayjob.yaml")


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gcp.yaml"])
def test_ray_accepts_the_cluster_file(name):
    prepared = prepare_config(load(name))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert {name: node["max_workers"] for name, node in types.items()} == {"head": 0, "gpu": 8, "cpu": 16}
    assert (types["gpu"]["min_workers"], types["cpu"]["min_workers"]) == (0, 0)
    assert prepared["idle_timeout_minutes"] == 5


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gcp.yaml"])
def test_ray_refuses_a_cluster_file_with_a_misspelled_key(name):
    """Checks that the test above can fail."""
    cluster = load(name)
    cluster["available_node_types"]["gpu"]["max_worker"] = 8
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(cluster))


def test_on_google_only_the_machines_differ(cluster, on_google):
    own = {"provider", "auth", "available_node_types"}
    assert {key: value for key, value in on_google.items() if key not in own} == {
        key: value for key, value in cluster.items() if key not in own
    }
    types = [each["available_node_types"] for each in (cluster, on_google)]
    for name in types[0]:
        theirs, ours = ({k: v for k, v in each[name].items() if k != "node_config"} for each in types)
        assert theirs == ours


def test_on_google_workers_are_spot_machines_with_a_role_of_their_own(on_google):
    machines = {name: node["node_config"] for name, node in on_google["available_node_types"].items()}
    spot = {name for name, each in machines.items() if each.get("scheduling", {}).get("provisioningModel")}
    assert spot == {"gpu", "cpu"} == {name for name, each in machines.items() if "serviceAccounts" in each}
    for name in spot:
        # Compute Engine refuses a spot machine that migrates or restarts by itself.
        assert machines[name]["scheduling"] == {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": False,
        }
    project = on_google["provider"]["project_id"]
    emails = {each["email"] for name in spot for each in machines[name]["serviceAccounts"]}
    assert emails == {f"faceq@{project}.iam.gserviceaccount.com"}
    assert on_google["provider"]["availability_zone"].startswith(on_google["provider"]["region"])


def test_machines_get_drivers_models_and_a_role_but_no_keys(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    for node in prepared["available_node_types"].values():
        machine = node["node_config"]
        assert machine["ImageId"].startswith("ami-") and machine["IamInstanceProfile"]
    # The commands of a node type replace the common ones.
    gpu = prepared["available_node_types"]["gpu"]["worker_setup_commands"]
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"], gpu):
        assert any("pip install" in each and "constraints.txt" in each for each in commands)
        assert "models pull" in commands[-1]
    assert any("onnxruntime-gpu" in each for each in gpu)
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8").lower()
    assert "access_key" not in text and "secret" not in text


def test_workers_are_spot_instances_and_the_head_is_not(cluster):
    machines = {name: node["node_config"] for name, node in cluster["available_node_types"].items()}
    spot = {name for name, each in machines.items() if "spot" in str(each.get("InstanceMarketOptions"))}
    assert spot == {"gpu", "cpu"} and cluster["head_node_type"] == "head"


def test_the_autoscaler_finds_an_image_for_each_kind_of_machine(cluster):
    """`ray up` starts Ray's second autoscaler, which gives up on a worker if it does not find its image."""
    there = AutoscalingConfig(prepare_config(copy.deepcopy(cluster)), skip_content_hash=True)
    kinds = {"head": "cpu", "cpu": "cpu", "gpu": "gpu"}
    for kind, ending in kinds.items():
        image = there.get_docker_config(kind)["image"]
        # A release appends the digest.
        assert re.fullmatch(f"rayproject/ray:{ray.__version__}-py311-{ending}({DIGEST})?", image)
    gpu = there.get_worker_setup_commands("gpu")
    assert sum("onnxruntime-gpu[cuda,cudnn]" in command for command in gpu) == 1


def test_ec2_accepts_the_machines_with_encrypted_disks_and_imdsv2(cluster):
    """Checked against EC2's own description of the request."""
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    check = botocore.validate.ParamValidator()
    profiles = {}
    for kind, node in prepare_config(copy.deepcopy(cluster))["available_node_types"].items():
        machine = node["node_config"]
        asked = {**machine, "MinCount": 1, "MaxCount": 1}
        found = check.validate(asked, request.input_shape).generate_report()
        known = set(request.input_shape.members)
        assert not found and set(asked) <= known, (found, set(asked) - known)
        options = machine["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
        profiles[kind] = machine["IamInstanceProfile"]["Name"]
    # Workers must not be able to start machines, so the head has another role.
    assert profiles == {"head": "faceq-head", "gpu": "faceq", "cpu": "faceq"}


def test_ec2_refuses_a_wrong_metadata_option(cluster):
    """Checks that the test above can fail."""
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    machine = cluster["available_node_types"]["head"]["node_config"]
    machine["MetadataOptions"]["HttpPutResponseHopLimit"] = "one"
    found = botocore.validate.ParamValidator().validate(
        {**machine, "MinCount": 1, "MaxCount": 1}, request.input_shape
    )
    assert "HttpPutResponseHopLimit" in found.generate_report()


def test_from_outside_only_ssh_reaches_the_machines(cluster):
    group = cluster["provider"]["security_group"]
    rules = _create_default_inbound_rules({"sg-own"}, group.get("IpPermissions", []))
    outside = [rule for rule in rules if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]
    inside = [rule for rule in rules if not rule.get("IpRanges")]
    assert all(pair["GroupId"] == "sg-own" for rule in inside for pair in rule["UserIdGroupPairs"])
    (head,) = (command for command in cluster["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head


def test_only_the_code_is_copied_to_the_machines(cluster):
    assert cluster["file_mounts"] == {"/home/ray/faceq": "."}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in text.splitlines() if line.startswith("COPY ") for name in line.split()[2:-1]}
    for name in copied:
        assert (ROOT / name).exists() and not _is_held_back(name, cluster["rsync_exclude"])
    for name in (".git", ".venv", "demo", "docs", "tests"):
        assert name not in copied and _is_held_back(name, cluster["rsync_exclude"])


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_in_the_clone_are_not_copied(cluster, name):
    ignored = _patterns(".dockerignore")
    submitted = _patterns(".rayignore")
    for place in (name, f"faceq/{name}", f"jobs/deep/{name}"):
        assert _is_held_back(place, ignored) and _is_held_back(place, cluster["rsync_exclude"])
    assert any(fnmatch(name, pattern.rstrip("/")) for pattern in submitted)


def _is_held_back(place: str, patterns: list[str]) -> bool:
    return any(fnmatch(f"/{place}", f"*{pattern.removeprefix('**')}") for pattern in patterns)


def _patterns(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_kubernetes_cluster_has_the_ray_version_of_the_tests(rayjob):
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_container_image_has_the_setup_of_gpu_workers(cluster, rayjob):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert f"FROM rayproject/ray:{ray.__version__}-py311-gpu${{RAY_DIGEST}}" in lines
    (digest,) = (line.removeprefix("ARG RAY_DIGEST=").strip('"') for line in lines if line.startswith("ARG "))
    assert re.fullmatch(f"({DIGEST})?", digest)  # a release sets it
    assert "USER 1000" in lines
    steps = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    made = [step.replace("--no-cache-dir ", "") for line in steps for step in line.split(" && ")]
    commands = cluster["available_node_types"]["gpu"]["worker_setup_commands"]
    set_up = [command.removeprefix("cd /home/ray/faceq && ").replace("--quiet ", "") for command in commands]
    assert made == set_up
    image = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    name, digest = re.fullmatch(f"(.+?)({DIGEST})", image).groups()
    assert f"docker build -t {name}:0.1.0 ." in text and digest


def test_onnx_runtime_for_cuda_is_pinned(cluster):
    """constraints.txt pins it like all other packages. Its versions differ from those of the build without
    CUDA."""
    pins = dict(line.split("==") for line in _patterns("constraints.txt"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", pins["onnxruntime-gpu"])
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    gpu = cluster["available_node_types"]["gpu"]["worker_setup_commands"]
    for commands in (dockerfile, gpu):
        (install,) = (line for line in commands if "onnxruntime-gpu[" in line)
        assert "--constraint constraints.txt" in install


def test_kubernetes_knows_every_field_of_the_rayjob_and_its_values(rayjob):
    assert list(wrong(rayjob)) == []


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("spec", "backofLimit", 2),
        ("spec", "backoffLimit", "2"),
        ("spec/rayClusterSpec/autoscalerOptions", "upscalingMode", "default"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams", "num-cpus", 2),
        ("spec/rayClusterSpec/workerGroupSpecs/1", "maxReplica", 2),
        ("spec/rayClusterSpec/workerGroupSpecs/0/template/spec/containers/0", "imagePullPolice", "Always"),
        ("spec/submitterPodTemplate/spec/containers/0/resources/limits", "cpu", 1),
    ],
)
def test_a_wrong_field_of_the_rayjob_would_be_found(rayjob, place, key, value):
    inside = rayjob
    for name in place.split("/"):
        inside = inside[int(name) if name.isdigit() else name]
    inside[key] = value
    assert len(list(wrong(rayjob))) == 1


def test_kubernetes_knows_every_field_of_the_network_policy():
    policy = load("network-policy.yaml")
    assert list(wrong_in_kubernetes(policy, models.V1NetworkPolicy)) == []
    policy["spec"]["podSelecter"] = {}
    assert list(wrong_in_kubernetes(policy, models.V1NetworkPolicy))


def test_the_rayjob_fits_the_settings_of_a_job(rayjob):
    spec = rayjob["spec"]
    assert spec["entrypoint"].startswith("python /home/ray/faceq/jobs/score.py --config ")
    there = spec["rayClusterSpec"]
    assert there["enableInTreeAutoscaling"] is True
    groups = there["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["gpu", "cpu"]
    for group in groups:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    pods = [there["headGroupSpec"]["template"], *(group["template"] for group in groups)]
    for pod in [spec["submitterPodTemplate"], *pods]:
        (container,) = pod["spec"]["containers"]
        # Ray derives CPUs and GPUs from the limits. Kubernetes evicts pods first whose requests are lower.
        if container["name"] != "ray-job-submitter":
            assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["image"] == pods[0]["spec"]["containers"][0]["image"]
    mounted = {volume["name"] for volume in pods[0]["spec"]["volumes"]}
    assert {mount["name"] for mount in pods[0]["spec"]["containers"][0]["volumeMounts"]} == mounted
    assert "nvidia.com/gpu" in groups[0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_no_pod_runs_as_root_or_may_become_it(rayjob):
    spec = rayjob["spec"]
    there = spec["rayClusterSpec"]
    groups = [there["headGroupSpec"], *there["workerGroupSpecs"]]
    pods = [spec["submitterPodTemplate"], *(group["template"] for group in groups)]
    rights = [there["autoscalerOptions"]["securityContext"]]
    for pod in pods:
        user = pod["spec"]["securityContext"]
        assert user["runAsNonRoot"] is True and user["runAsUser"] == 1000  # `ray` in Ray's images
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        rights += [container["securityContext"] for container in pod["spec"]["containers"]]
    for each in rights:
        assert each["allowPrivilegeEscalation"] is False and each["capabilities"] == {"drop": ["ALL"]}
    # Only the head gets a Kubernetes token, because its autoscaler creates pods.
    with_token = [pod for pod in pods if pod["spec"].get("automountServiceAccountToken", True)]
    assert with_token == [there["headGroupSpec"]["template"]]


def test_only_kuberay_and_the_pods_themselves_reach_the_cluster_and_only_with_its_token(rayjob):
    there = rayjob["spec"]["rayClusterSpec"]
    assert there["authOptions"] == {"mode": "token"}
    policy = yaml.safe_load((ROOT / "network-policy.yaml").read_text(encoding="utf-8"))
    ours = policy["spec"]["podSelector"]["matchLabels"]
    groups = [there["headGroupSpec"], *there["workerGroupSpecs"]]
    for pod in [rayjob["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]:
        assert ours.items() <= pod["metadata"]["labels"].items()
    among, operator = policy["spec"]["ingress"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": ours}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert all({"podSelector", "namespaceSelector"} <= set(peer) for peer in operator["from"])


def test_the_batch_script_for_slurm_is_sound():
    """tests/drills/test_slurm.py runs it."""
    script = ROOT / "jobs" / "slurm.sbatch"
    check = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([check, "--shell=bash", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    text = script.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", text, re.MULTILINE))
    # Slurm ignores such lines after the first command.
    assert text.index("set -euo") > text.rindex("#SBATCH")
    assert options["signal"] == "B:TERM@120" and options.keys() >= {"requeue", "exclusive", "nodes", "time"}


def test_the_example_job_fits_the_cluster(cluster):
    """Both pools share the one GPU of a GPU worker, and leave CPUs for decoding."""
    job = config.load(str(ROOT / "jobs" / "score.yaml"), {})
    worker = cluster["available_node_types"]["gpu"]["resources"]
    assert job.serfiq.num_gpus + job.dbcnn.num_gpus <= worker["GPU"]
    assert job.serfiq.num_cpus + job.dbcnn.num_cpus + job.find_face.num_cpus <= worker["CPU"]
