"""Checks objects for Kubernetes: Kubernetes' own parts by its client, those of KubeRay by the fields below.

KubeRay's CustomResourceDefinitions are in no package. Kubernetes drops fields that they do not name, so a
misspelled field would have no effect.
"""

import re
from collections.abc import Iterator
from typing import Any

from kubernetes.client import models

POD, RIGHTS = models.V1PodTemplateSpec, models.V1SecurityContext

HEAD = {
    "serviceType": str,
    "enableIngress": bool,
    "resources": dict,
    "labels": dict,
    "rayStartParams": {str: str},
    "template": POD,
}
WORKERS = {
    "groupName": str,
    "suspend": bool,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "numOfHosts": int,
    "resources": dict,
    "labels": dict,
    "rayStartParams": {str: str},
    "template": POD,
}
AUTOSCALER = {
    "version": ("v1", "v2"),
    "upscalingMode": ("Default", "Aggressive", "Conservative"),
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "resources": models.V1ResourceRequirements,
    "securityContext": RIGHTS,
}
CLUSTER = {
    "rayVersion": str,
    "suspend": bool,
    "authOptions": {"mode": ("disabled", "token")},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER,
    "headServiceAnnotations": {str: str},
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
}
RAY_JOB = {
    "apiVersion": ("ray.io/v1",),
    "kind": ("RayJob",),
    "metadata": models.V1ObjectMeta,
    "spec": {
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "submitterConfig": {"backoffLimit": int},
        "submitterPodTemplate": POD,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "suspend": bool,
        "rayClusterSpec": CLUSTER,
    },
}
"""The fields of a RayJob of KubeRay 1.5 that faceq may use: a type, allowed values, a class of Kubernetes'
client, or fields again. `{str: str}`: any keys. In a list, all items have the same fields."""


def wrong(value: Any, form: Any = RAY_JOB, place: str = "") -> Iterator[str]:
    """What does not fit, as `place: reason`."""
    if isinstance(form, list):
        if not isinstance(value, list):
            yield f"{place}: not a list"
            return
        for number, each in enumerate(value):
            yield from wrong(each, form[0], f"{place}/{number}")
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            yield f"{place}: not an object"
            return
        for key, each in value.items():
            if key not in form and str not in form:
                yield f"{place}/{key}: unknown field"
            else:
                yield from wrong(each, form.get(key, form.get(str)), f"{place}/{key}")
    elif isinstance(form, tuple):
        if value not in form:
            yield f"{place}: {value!r} is none of {form}"
    elif hasattr(form, "openapi_types"):
        yield from wrong_in_kubernetes(value, form, place)
    elif type(value) is not form:  # True is no number here
        yield f"{place}: {value!r} is no {form.__name__}"


PLAIN = {"str": str, "int": int, "bool": bool}


def wrong_in_kubernetes(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """The same for an object of Kubernetes itself. `kind`: its class."""
    if not isinstance(value, dict):
        yield f"{place}: not an object"
        return
    names = {field: name for name, field in kind.attribute_map.items()}
    known = {names[field]: each for field, each in value.items() if field in names}
    yield from (f"{place}/{field}: unknown field" for field in value.keys() - names)
    for name, each in known.items():
        form = _form(kind.openapi_types[name])
        yield from () if form is object else wrong(each, form, f"{place}/{kind.attribute_map[name]}")
    try:
        kind(**known)
    except ValueError as error:  # a field that must be there is missing
        yield f"{place}: {error}"


def _form(declared: str) -> Any:
    """The form of a type that a class of Kubernetes declares, such as `list[V1Container]`."""
    if found := re.fullmatch(r"(list|dict)\[(?:str, )?(.+)\]", declared):
        inside = _form(found[2])
        return [inside] if found[1] == "list" else {str: inside}
    if declared in ("object", "datetime"):
        return object  # such as a port, which is a number or a name
    return PLAIN[declared] if declared in PLAIN else getattr(models, declared)
