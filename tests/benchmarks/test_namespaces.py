# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: bandwidth and delay of their link, ranks on both, and nothing is left behind."""

import json
import os
import subprocess
import sys
import time

import pytest
from cluster import launch, namespaces

REASON = namespaces.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# Sends 1 byte, waits for an answer, then sends MEGABYTES; prints seconds of the round trip, bytes/s of the rest.
MEGABYTES = 2
SERVER = f"""
import socket, sys
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
peer = server.accept()[0]
for _ in range(5):
    peer.sendall(peer.recv(1))
left = {MEGABYTES} << 20
while left:
    left -= len(peer.recv(1 << 16))
peer.sendall(b"x")
"""
CLIENT = f"""
import json, socket, sys, time
peer = socket.create_connection((sys.argv[1], 5000))
trips = []
for _ in range(5):
    start = time.perf_counter()
    peer.sendall(b"x")
    peer.recv(1)
    trips.append(time.perf_counter() - start)
start = time.perf_counter()
peer.sendall(bytes({MEGABYTES} << 20))
peer.recv(1)
print(json.dumps([min(trips), ({MEGABYTES} << 20) / (time.perf_counter() - start)]))
"""


def exist():
    """The namespaces of this process."""
    listed = subprocess.run(("ip", "netns", "list"), check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split() if name.startswith(f"pd{os.getpid()}")]


@pytest.mark.parametrize("milliseconds", [0, 20])
def test_link(milliseconds):
    with namespaces.two_hosts(50, milliseconds) as hosts:
        first, second = (["ip", "netns", "exec", name, sys.executable, "-c"] for name in hosts.names)
        address = namespaces.ADDRESSES[1]
        with subprocess.Popen([*second, SERVER, address], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout.readline() == "ready\n"
            done = subprocess.run([*first, CLIENT, address], check=True, capture_output=True, timeout=60)
    trip, bandwidth = json.loads(done.stdout)
    assert 2e-3 * milliseconds <= trip < 2e-3 * milliseconds + 0.5
    # The token bucket lets 128 kB pass at once. TCP is slower in its first round trips.
    assert 0.1 * hosts.bandwidth < bandwidth < 1.15 * hosts.bandwidth


def test_ranks_are_on_both_hosts():
    if launch.find_mpirun() is None:
        pytest.skip("no mpirun")
    program = (
        "from mpi4py import MPI; import json, socket; "
        "names = MPI.COMM_WORLD.gather(socket.gethostname()); "
        "print(json.dumps(names)) if names else None"
    )
    with namespaces.two_hosts(100, 0.5) as hosts:
        names = launch.last_line(hosts.command(sys.executable, "-c", program, timeout=60), "the ranks")
    assert names == list(hosts.names)


def test_everything_is_removed_after_an_error():
    before = exist()
    with pytest.raises(KeyError), namespaces.two_hosts(100, 1) as hosts:
        sleeper = subprocess.Popen(["ip", "netns", "exec", hosts.names[0], "sleep", "60"])
        processes = ["ip", "netns", "pids", hosts.names[0]]
        while not subprocess.run(processes, check=True, capture_output=True).stdout:
            time.sleep(0.01)
        assert len(exist()) == len(before) + 2
        raise KeyError
    assert sleeper.wait(10) < 0 and exist() == before


def test_two_hosts_are_refused_for_other_users(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert namespaces.missing() == "network namespaces need root"
