# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces with a host name, a link between them and an sshd each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import final

ROOT = Path(__file__).parents[1]
TOOLS = ("ip", "unshare", "sysctl", "ssh", "ssh-keygen", "/usr/sbin/sshd")
ADDRESSES = ("10.231.77.1", "10.231.77.2")
PORT = 2222
# The kernel gives up a TCP connection after about 6 s instead of 15 min (docs/cluster.md).
TCP_RETRIES = 4
SSHD = """\
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""


def reason_to_skip() -> str:
    """Why this machine cannot be two hosts, or an empty text."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {missing[0]}: install iproute2, util-linux, procps, openssh-client and openssh-server"
    name = f"pdc-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if tried.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)
    return tried.stderr and f"network namespaces are not allowed: {tried.stderr.strip()}"


@final
class TwoHosts:
    """Context manager. Its end stops all processes in the namespaces and removes them."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for keys and logs."""
        self._folder = folder
        self.names = [f"pdc{number}-{os.getpid()}" for number in (0, 1)]
        self._links = [f"pdc{number}v{os.getpid()}" for number in (0, 1)]
        self._sshds: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TwoHosts:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _start(self) -> None:
        first, second = self.names
        for name in self.names:
            _do("ip", "netns", "add", name)
        ends = (
            self._links[0],
            "netns",
            first,
            "type",
            "veth",
            "peer",
            "name",
            self._links[1],
            "netns",
            second,
        )
        _do("ip", "link", "add", *ends)
        for name, link, address in zip(self.names, self._links, ADDRESSES, strict=True):
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", link)
            for interface in ("lo", link):
                _do("ip", "-n", name, "link", "set", interface, "up")
            _do("ip", "netns", "exec", name, "sysctl", "-q", "-w", f"net.ipv4.tcp_retries2={TCP_RETRIES}")
        for key in ("host_key", "key"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / key)
        settings = self._folder / "sshd_config"
        settings.write_text(SSHD.format(port=PORT, folder=self._folder), encoding="utf-8")
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd needs it, also with other settings
        for number in (0, 1):
            with (self._folder / f"sshd_{number}.log").open("wb") as log:
                command = [*self._on(number), "/usr/sbin/sshd", "-D", "-e", "-f", str(settings)]
                self._sshds.append(subprocess.Popen(command, stderr=log, start_new_session=True))
        self._wait_for_sshd()

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + 20
        command = [*self._on(0), *self._ssh().split(), ADDRESSES[1], "true"]
        while subprocess.run(command, check=False, capture_output=True, timeout=20).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError((self._folder / "sshd_1.log").read_text())
            time.sleep(0.1)

    def _on(self, number: int) -> list[str]:
        """The start of a command on host `number`."""
        name = self.names[number]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name]

    def _ssh(self) -> str:
        # Without the last two, ssh waits for a lost host for ever, and holds the pipe of mpirun's stderr.
        options = (
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
            "-o ServerAliveInterval=2 -o ServerAliveCountMax=2"
        )
        return f"ssh -p {PORT} -i {self._folder}/key {options}"

    def mpirun(self, *arguments: str | Path, timeout: int = 60) -> subprocess.Popen[str]:
        """One rank on each host: python ARGUMENT... Errors go to stderr of the process."""
        beside_python = Path(sys.executable).parent / "mpirun"
        variables = {
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [str(beside_python) if beside_python.exists() else "mpirun", "--timeout", str(timeout)]
        command += ["--prtemca", "plm_ssh_agent", self._ssh(), "--bind-to", "none"]
        command += ["--host", ",".join(f"{address}:1" for address in ADDRESSES), "-n", "2"]
        for variable in variables:
            command += ["-x", variable]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return subprocess.Popen(
            [*self._on(0), *command, sys.executable, *map(str, arguments)],
            env=os.environ | root | variables,
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def link(self, state: str) -> None:
        """Set the link between the hosts "up" or "down"."""
        _do("ip", "-n", self.names[0], "link", "set", self._links[0], state)

    def processes(self) -> list[int]:
        """The processes on both hosts."""
        found = [
            subprocess.run(
                ["ip", "netns", "pids", n], check=False, capture_output=True, text=True, timeout=20
            )
            for n in self.names
        ]
        return [int(pid) for result in found for pid in result.stdout.split()]

    def _stop(self) -> None:
        deadline = time.monotonic() + 10
        while (running := self.processes()) and time.monotonic() < deadline:
            for pid in running:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            for sshd in self._sshds:
                sshd.poll()
            time.sleep(0.05)
        for sshd in self._sshds:
            sshd.wait(timeout=20)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)


def _do(*command: str | Path) -> str:
    return subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, timeout=20
    ).stdout
