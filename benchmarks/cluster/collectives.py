# SPDX-License-Identifier: Apache-2.0
"""The time of an all-reduce: the ring, and NCCL's ring and tree over several hosts.

The formulas and latencies of NCCL are those of its own performance model (NVIDIA/nccl 5067397c,
src/graph/tuning.cc, ncclTopoTuneModel), with which it selects the algorithm for a message. Not modelled:
NVLink SHARP, CollNet, and the limits of bandwidth per channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.links import Cluster

ALGORITHMS = ("ring", "tree", "hierarchical")
# NCCL multiplies the bandwidth of the tree by 0.92, and by 0.5 to 0.9 for messages of 1 to 64 MiB.
TREE_BANDWIDTH = 0.92 * 0.7


@dataclass(frozen=True)
class Protocol:
    """One of NCCL's protocols. Latencies are in seconds, by kind of link."""

    base: dict[str, float]  # per message, by algorithm
    ring: dict[str, float]  # per step of the ring
    tree: dict[str, float]  # per level of the tree
    overhead: float  # the least latency of a step in a ring over several hosts
    ring_share: float  # of the bandwidth
    tree_share: float
    nvlink_only: bool = False


def _seconds(**microseconds: float) -> dict[str, float]:
    return {name: 1e-6 * value for name, value in microseconds.items()}


PROTOCOLS = (
    Protocol(  # LL: for small messages
        _seconds(ring=6.6, tree=6.8),
        _seconds(nvlink=0.6, pcie=1.0, network=2.7),
        _seconds(nvlink=0.6, pcie=1.0, network=5.0),
        1e-6,
        0.5,
        1 / 3.8,
    ),
    Protocol(  # LL128
        _seconds(ring=14.0, tree=14.0),
        _seconds(nvlink=1.9, pcie=2.5, network=4.0),
        _seconds(nvlink=1.25, pcie=1.9, network=8.5),
        1e-6,
        0.92,
        7 / 9,
        nvlink_only=True,
    ),
    Protocol(  # Simple: for large messages
        _seconds(ring=8.4, tree=8.4),
        _seconds(nvlink=3.4, pcie=5.7, network=14.0),
        _seconds(nvlink=4.0, pcie=4.0, network=14.0),
        3e-6,
        1.0,
        1.0,
    ),
)


def ring(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes: 2 (n - 1) steps, each with 1/n of the data.

    bandwidth: bytes per second in one direction. latency: seconds per step.
    """
    return 2 * (ranks - 1) * (size / ranks / bandwidth + latency)


def all_reduce(size: float, hosts: int, gpus: int, cluster: Cluster, algorithm: str = "auto") -> float:
    """Seconds of an all-reduce of `size` bytes over `hosts` hosts with `gpus` GPUs each.

    algorithm: one of ALGORITHMS, or "auto" for the faster of NCCL's ring and tree. In every case the fastest
    protocol counts.
    """
    if hosts * gpus == 1:
        return 0.0
    functions = {"ring": _ring, "tree": _tree, "hierarchical": _hierarchical}
    names = ("ring", "tree") if algorithm == "auto" else (algorithm,)
    return min(
        functions[name](size, hosts, gpus, cluster, protocol)
        for name in names
        for protocol in PROTOCOLS
        if cluster.inside.kind == "nvlink" or not protocol.nvlink_only
    )


def _bandwidth(hosts: int, gpus: int, cluster: Cluster) -> float:
    """Bytes per second of a ring through all GPUs. It passes every host once on each adapter."""
    outside = cluster.adapters * cluster.outside.bandwidth if hosts > 1 else math.inf
    return min(outside, cluster.inside.bandwidth if gpus > 1 else math.inf)


def _ring(size: float, hosts: int, gpus: int, cluster: Cluster, protocol: Protocol) -> float:
    ranks = hosts * gpus
    inside = protocol.ring[cluster.inside.kind]
    if hosts > 1:
        inside = max(inside, protocol.overhead)
    outside_steps = 2 * (hosts - 1)
    latency = protocol.base["ring"] + (2 * (ranks - 1) - outside_steps) * inside
    # With one GPU in each host nothing hides the latency of the network; NCCL then takes that of the tree.
    latency += outside_steps * (protocol.ring if gpus > 1 else protocol.tree)[cluster.outside.kind]
    return latency + ring(size, ranks, protocol.ring_share * _bandwidth(hosts, gpus, cluster), 0.0)


def _tree(size: float, hosts: int, gpus: int, cluster: Cluster, protocol: Protocol) -> float:
    """A chain in each host and a double binary tree over the hosts, up and down."""
    levels = (gpus - 1) * protocol.tree[cluster.inside.kind]
    levels += math.floor(math.log2(hosts)) * protocol.tree[cluster.outside.kind]
    bandwidth = TREE_BANDWIDTH * protocol.tree_share * _bandwidth(hosts, gpus, cluster)
    return protocol.base["tree"] + 2 * levels + 2 * size / bandwidth


def _hierarchical(size: float, hosts: int, gpus: int, cluster: Cluster, protocol: Protocol) -> float:
    """Reduce-scatter in each host, all-reduce over the hosts, all-gather in each host, one after the other.

    The GPUs of a host share its adapters; each sums 1 / gpus of the data over the hosts.
    """
    calls = (2 if gpus > 1 else 0) + (1 if hosts > 1 else 0)
    time = calls * protocol.base["ring"]
    if gpus > 1:
        inside = protocol.ring_share * cluster.inside.bandwidth
        time += ring(size, gpus, inside, protocol.ring[cluster.inside.kind])
    if hosts > 1:
        outside = protocol.ring_share * cluster.adapters * cluster.outside.bandwidth
        time += ring(size, hosts, outside, protocol.ring[cluster.outside.kind])
    return time
