"""What checks are made of: renderings of the charts, and the list of the checks."""

import json
from pathlib import Path

import helm_python
import yaml

from renderings import Rendering

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ROOT / "deploy" / "helm"
MANIFESTS = ROOT / "deploy" / "kubernetes"
CHECKS = []
RENDERED = {}


class Failure(Exception):
    """What is wrong, and where."""


def check(function):
    """Registers a check; its name says what holds. `go_…` names the fault of Go EdgeMesh that it guards against."""
    CHECKS.append(function)
    return function


def expect(condition, message):
    if not condition:
        raise Failure(message)


# Rendering


def render(chart, values, release=None):
    """The text of every template, by file name."""
    loaded = helm_python.Chart.load(str(CHARTS / chart))
    texts = loaded.render(values, name=release or chart, namespace="kubeedge")
    return {Path(path).name: text for path, text in texts.items() if "/templates/" in path}


def objects(texts):
    """The Kubernetes objects among rendered texts."""
    documents = (part for name, text in sorted(texts.items()) if name != "NOTES.txt" for part in yaml.safe_load_all(text))
    return [document for document in documents if document]


def refusal(chart, values):
    """The message with which a chart refuses values."""
    try:
        render(chart, values)
    except helm_python.HelmError as error:
        return str(error)
    raise Failure(f"{chart} accepts {json.dumps(values)}")


def nested(path, value):
    """`value` in maps along a dotted path; an empty path is the value itself."""
    for key in reversed(path.split(".") if path else []):
        value = {key: value}
    return value


class Rendered:
    """A rendering with its objects."""

    def __init__(self, rendering: Rendering):
        self.name = rendering.name
        self.chart = rendering.chart
        self.rendering = rendering
        self.texts = render(rendering.chart, rendering.values)
        self.objects = objects(self.texts)

    def all(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind):
        found = self.all(kind)
        expect(len(found) == 1, f"{self.name}: {len(found)} objects of the kind {kind}")
        return found[0]

    def workload(self):
        return self.one("DaemonSet" if self.chart == "edgemesh" else "Deployment")

    def pod(self):
        return self.workload()["spec"]["template"]["spec"]

    def container(self):
        containers = self.pod()["containers"]
        expect(len(containers) == 1 and not self.pod().get("initContainers"), f"{self.name}: not one container")
        return containers[0]

    def config_file(self):
        """Name and text of the configuration file."""
        ((name, text),) = self.one("ConfigMap")["data"].items()
        return name, text

    def config(self):
        return yaml.safe_load(self.config_file()[1])


def rendered(name):
    return RENDERED[name]
