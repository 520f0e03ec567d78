# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces that are joined by a link of limited bandwidth. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import launch
from cluster.delay import DelayedLink

PAYLOAD = 1448 / 1514  # of a TCP frame, as tc counts it: with the Ethernet header, without preamble and gap
ADDRESSES = ("10.77.0.1", "10.77.0.2")
BURST = "128kb"  # of the token bucket; more than one segmented TCP frame
# mpirun calls it instead of ssh: the address of the host, then a shell command.
AGENT = """#!/bin/sh
shift
exec ip netns exec {name} unshare --uts sh -c 'hostname {name}; exec sh -c "$*"' sh "$@"
"""


def missing() -> str | None:
    """Why this machine cannot have the two hosts, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command in ("ip", "tc", "unshare"):
        if shutil.which(command) is None:
            return f"the command {command} is missing"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing"
    return None


@dataclass(frozen=True)
class TwoHosts:
    """Two network namespaces with their names as host names."""

    names: tuple[str, str]
    megabits: int  # per second and direction
    delay: float  # seconds in each direction
    agent: Path

    @property
    def bandwidth(self) -> float:
        """Bytes of messages per second in each direction."""
        return self.megabits * 1e6 / 8 * PAYLOAD

    def describe(self) -> str:
        return f"{self.megabits} Mbit/s, delay {1000 * self.delay:g} ms"

    def command(self, *program: str, timeout: int) -> list[str]:
        """The command that runs `program` with mpirun, one rank on each host."""
        first = self.names[0]
        inside = ["ip", "netns", "exec", first, "unshare", "--uts"]
        inside += ["sh", "-c", 'hostname "$0"; exec "$@"', first]
        options = ["--timeout", str(timeout), "--prtemca", "plm_ssh_agent", str(self.agent)]
        options += ["--host", ",".join(f"{address}:1" for address in ADDRESSES), "--map-by", "node"]
        options += ["--bind-to", "none", "-n", "2", "--mca", "pml", "ob1", "--mca", "btl", "self,tcp"]
        # With a single TCP connection the messages of the two directions wait for each other.
        options += ["--mca", "btl_tcp_links", "2"]
        return [*inside, launch.mpirun(), *options, *program]


@contextlib.contextmanager
def two_hosts(megabits: int, milliseconds: float) -> Iterator[TwoHosts]:
    """Create the hosts. They, and all processes in them, are removed at the end of the context.

    megabits: per second and direction, limited by tc (token bucket filter). milliseconds: delay of the link
    in each direction. Errors: subprocess.CalledProcessError if a command of the set-up fails.
    """
    names = (f"pd{os.getpid()}a", f"pd{os.getpid()}b")
    with contextlib.ExitStack() as undo:
        agent = Path(undo.enter_context(tempfile.TemporaryDirectory()), "agent")
        agent.write_text(AGENT.format(name=names[1]), encoding="utf-8")
        agent.chmod(0o700)
        for name in names:
            _run("ip", "netns", "add", name)
            undo.callback(_remove, name)
        link = None
        if milliseconds:
            link = DelayedLink(names, milliseconds / 1000)
            undo.callback(link.close)
            for name in names:
                _run("ip", "link", "set", name, "netns", name)
                _run("ip", "-n", name, "link", "set", name, "name", "eth0")
        else:
            first, second = names
            _run("ip", "link", "add", "eth0", "netns", first, "type", "veth", "peer", "eth0", "netns", second)
        limit = ("rate", f"{megabits}mbit", "burst", BURST, "latency", "50ms")
        for name, address in zip(names, ADDRESSES, strict=True):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        if link is not None:
            link.start()
        yield TwoHosts(names, megabits, milliseconds / 1000, agent)


def _remove(name: str) -> None:
    """End the processes in a namespace, which only this module starts there, and delete it."""
    for process in _run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(int(process), signal.SIGKILL)
    _run("ip", "netns", "delete", name)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
