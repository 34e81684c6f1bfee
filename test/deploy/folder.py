"""Checks of everything in deploy/ beside the charts, and of what the documents say."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import yaml

from harness import CHARTS, MANIFESTS, ROOT, check, expect, objects, render, rendered
from renderings import PSK

# The plain manifests


# What only Helm needs.
HELM_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart")
PLAIN = {
    "edgemesh": ("edgemesh", {"agent": {"pskSecret": "edgemesh-agent-psk"}}),
    "edgemesh-gateway": ("edgemesh-gateway", {"pskSecret": "edgemesh-agent-psk"}),
}


def without_helm(document):
    document = json.loads(json.dumps(document))
    for metadata in (document["metadata"], document.get("spec", {}).get("template", {}).get("metadata", {})):
        for label in HELM_LABELS:
            metadata.get("labels", {}).pop(label, None)
        metadata.get("annotations", {}).pop("checksum/config", None)
        if not metadata.get("annotations", True):
            del metadata["annotations"]
    return document


@check
def plain_manifests_are_what_the_charts_render():
    for folder, (chart, values) in PLAIN.items():
        expected = [without_helm(document) for document in objects(render(chart, values))]
        found = []
        for file in sorted((MANIFESTS / folder).glob("*.yaml")):
            documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
            expect(len(documents) == 1, f"{file.relative_to(ROOT)} has {len(documents)} objects")
            found += documents
        for document in expected + found:
            name = f"{document['kind']} {document['metadata']['name']}"
            expect(document in found, f"deploy/kubernetes/{folder}: {name} is not as rendered; run check.py --write-manifests")
            expect(document in expected, f"deploy/kubernetes/{folder}: {name} is not rendered")
            expect(document["kind"] != "Secret", f"deploy/kubernetes/{folder}: a Secret, which the user must make")


def write_manifests():
    for folder, (chart, values) in PLAIN.items():
        target = MANIFESTS / folder
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.yaml"):
            old.unlink()
        rendered_texts = sorted(render(chart, values).items())
        texts = [text for name, text in rendered_texts if name != "NOTES.txt" and text.strip()]
        for number, text in enumerate(texts, 1):
            labels = "|".join(map(re.escape, HELM_LABELS))
            drop = rf"^ *(annotations:\n *checksum/config|{labels}): .*\n"
            text = re.sub(drop, "", f"{text}\n", flags=re.MULTILINE).strip().removeprefix("---").strip()
            kind = yaml.safe_load(text)["kind"].lower()
            (target / f"{number:02}-{kind}.yaml").write_text(text + "\n")


# The rest of the folder


@check
def both_charts_share_one_set_of_templates():
    texts = {(CHARTS / chart / "templates" / "_mesh.tpl").read_text() for chart in ("edgemesh", "edgemesh-gateway")}
    expect(len(texts) == 1, "_mesh.tpl differs between the charts")


@check
def versions_are_those_of_the_program():
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    for chart in ("edgemesh", "edgemesh-gateway"):
        metadata = helm_python.Chart.load(str(CHARTS / chart)).metadata
        expect(metadata["version"] == metadata["appVersion"] == version, f"{chart}: {metadata['version']}, not {version}")
    for name in ("agent-defaults", "gateway-defaults"):
        image = rendered(name).container()["image"]
        expect(image == f"edgemesh:{version}", f"{name}: {image}")


@check
def the_image_is_one_program_and_its_names():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    rust = re.search(r'^rust-version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    expect(stages == [f"rust:{rust}", "scratch"], f"{stages}")
    expect("crt-static" in text, "a scratch image has no libraries")
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    members = re.search(r"^members = \[(.*?)\]", (ROOT / "Cargo.toml").read_text(), re.DOTALL | re.MULTILINE).group(1)
    for member in {path.split("/")[0] for path in re.findall(r'"([^"]+)"', members)}:
        expect(f"!{member}" in ignored, f"deploy/Dockerfile.dockerignore keeps {member} from the build")


def run(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{Path(program).name}: {(done.stdout + done.stderr).strip()}")
    return done.stdout + done.stderr


@check
def the_dockerfile_is_lint_clean():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if not hadolint:
        return "left out: no hadolint here"
    return run(hadolint, str(ROOT / "deploy" / "Dockerfile")) or None


@check
def the_systemd_unit_is_understood():
    unit = ROOT / "deploy" / "systemd" / "edgemesh-agent.service"
    text = unit.read_text()
    for line in ("Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=edgemesh"):
        expect(line in text.splitlines(), f"{line} is missing")
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        return "only in part: no systemd-analyze here"
    with tempfile.TemporaryDirectory() as folder:
        # The program is not installed where tests run.
        copy = Path(folder) / unit.name
        copy.write_text(text.replace("/usr/local/bin/edgemesh", "/bin/true"))
        told = run(analyze, "verify", "--man=no", str(copy))
        expect(unit.name not in told, told.strip())
    return None


SETS = re.compile(r"--set(?:-string)? ('[^']*'|(?:\"[^\"]*\"|[^\s\"])+)")


@check
def commands_of_the_documents_render():
    seen = 0
    for document in ("docs/install.md", "docs/upgrade.md"):
        text = (ROOT / document).read_text().replace("\\\n", " ")
        for line in re.findall(r"^.*helm (?:install|upgrade) .*$", text, re.MULTILINE):
            chart = re.search(r"deploy/helm/(\S+)", line)
            expect(chart, f"{document}: {line.strip()} names no chart of deploy/helm")
            given = [part.strip("'").replace('"', "") for part in SETS.findall(line)]
            values = helm_python.parse_set_string(",".join(given).replace("$(cat psk)", PSK))
            objects(render(chart.group(1), values))
            seen += 1
    expect(seen >= 4, f"only {seen} commands were found")
