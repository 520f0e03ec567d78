# SPDX-License-Identifier: Apache-2.0
"""Scripts and YAML files in the documentation can be read."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DOCS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))


def blocks(language):
    found = []
    for page in DOCS:
        found += re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    return found


def check_script(text):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    found = subprocess.run(["bash", "-n"], input=text, check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, ""), text


def test_scripts():
    assert blocks("bash")
    for text in blocks("bash"):
        check_script(text)


def test_job_of_kubernetes():
    (job,) = [parsed for parsed in map(yaml.safe_load, blocks("yaml")) if parsed.get("kind") == "MPIJob"]
    replicas = job["spec"]["mpiReplicaSpecs"]
    launcher, worker = (replicas[name]["template"]["spec"] for name in ("Launcher", "Worker"))
    (script,) = launcher["containers"][0]["args"]
    check_script(script)
    ranks = int(re.search(r"-n (\d+)", script)[1])
    assert ranks == job["spec"]["slotsPerWorker"] * replicas["Worker"]["replicas"]
    for pod in (launcher, worker):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
