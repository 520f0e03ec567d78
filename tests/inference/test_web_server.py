# SPDX-License-Identifier: Apache-2.0
"""The web server of docs/deployment.md answers parallel requests with the predictor's detections."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from pointdet import Predictor

ROOT = Path(__file__).parents[2]
IMAGES, REQUESTS = 4, 24


@pytest.fixture
def checkpoint(tmp_path):
    model = tiny.model(tiny.config(tmp_path))
    return tiny.write_checkpoint(tmp_path / "best", model)


@pytest.fixture
def address(tmp_path, checkpoint):
    """The address of the running server."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]*ThreadingHTTPServer.*?)```", text, re.DOTALL)
    for written, used in (("runs/mine/checkpoints/best", str(checkpoint)), ("8000", str(port)), ("0.3", "0")):
        assert written in program
        program = program.replace(written, used)
    path = tmp_path / "server.py"
    path.write_text(program, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([sys.executable, path], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("localhost", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(30)


def post(address, content):
    with urllib.request.urlopen(address, content, timeout=60) as answer:
        return json.load(answer)


def test_parallel_requests(address, checkpoint):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(IMAGES)]
    predictor = Predictor.from_checkpoint(checkpoint)
    contents = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: post(address, contents[k % IMAGES]), range(REQUESTS)))
    expected = [predictor(image) for image in images]
    assert all(len(found) > 0 for found in expected)
    for k, answer in enumerate(answers):
        found = expected[k % IMAGES]
        assert [row["class"] for row in answer] == [predictor.class_names[label] for label in found.labels]
        assert [row["score"] for row in answer] == found.scores.tolist()
        assert [row["box"] for row in answer] == found.boxes.tolist()
    with pytest.raises(urllib.error.HTTPError, match="not an image"):
        post(address, b"text")
