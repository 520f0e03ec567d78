# SPDX-License-Identifier: Apache-2.0
"""The model of training on several GPUs: limits computed by hand, a bucket queue by hand, published all-reduces."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from cluster import chart
from cluster.buckets import Gradients, StepTime, fill, queue, step_seconds
from cluster.collectives import all_reduce, ring
from cluster.links import A100, CLUSTERS, H100, HDR, NVLINK_A100, Cluster
from cluster.networks import profile

from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, TrainConfig

GRADIENTS = (Gradients(100, 0.1), Gradients(300, 0.4), Gradients(50, 0.6), Gradients(150, 1.0))
STEP = StepTime(copy=0.5, forward=1.0, backward=10.0, update=0.25, source="by hand")
KINDS = ("ring", "tree", "hierarchical", "auto")


def seconds(limit, reduce, overlap=True):
    """Seconds of STEP with GRADIENTS in float32."""
    return step_seconds(STEP, queue(fill(GRADIENTS, 4, limit), STEP.backward, reduce, overlap))


def test_ring_by_hand():
    # 6 steps, each with 2 MB at 1 GB/s and a latency of 10 us
    assert ring(8e6, ranks=4, bandwidth=1e9, latency=1e-5) == pytest.approx(6 * (2e-3 + 1e-5))
    assert ring(8e6, ranks=1, bandwidth=1e9, latency=1e-5) == 0


def test_buckets_are_filled_in_order():
    assert fill(GRADIENTS, 4, 0) == [(400, 0.1), (1200, 0.4), (200, 0.6), (600, 1.0)]
    assert fill(GRADIENTS, 4, 1600) == [(1600, 0.4), (800, 1.0)]  # closed by the gradient that fills it
    assert fill(GRADIENTS, 2, 900) == [(900, 0.6), (300, 1.0)]
    assert fill(GRADIENTS, 4, math.inf) == [(2400, 1.0)]


def test_queue_by_hand():
    # Messages of 0.5 s and 1 s for every 400 bytes: 1.5, 3.5, 1.0, 2.0 s.
    buckets = queue(fill(GRADIENTS, 4, 0), 10.0, lambda size: 0.5 + size / 400, overlap=True)
    assert [b.ready for b in buckets] == pytest.approx([1, 4, 6, 10])
    assert [b.start for b in buckets] == pytest.approx([1, 4, 7.5, 10])  # the third one waits for the link
    assert [b.end for b in buckets] == pytest.approx([2.5, 7.5, 8.5, 12])
    assert step_seconds(STEP, buckets) == pytest.approx(0.5 + 1 + 12 + 0.25)


def test_without_overlap_the_times_add_up():
    buckets = queue(fill(GRADIENTS, 4, 0), 10.0, lambda size: 0.5 + size / 400, overlap=False)
    assert buckets[0].start == 10
    assert step_seconds(STEP, buckets) == pytest.approx(STEP.total + 8)


def test_one_bucket_is_not_overlapped():
    def reduce(size):
        return size / 400

    assert seconds(math.inf, reduce) == seconds(math.inf, reduce, overlap=False) == STEP.total + 6


@pytest.mark.parametrize("limit", [0, 1600, math.inf])
def test_free_communication_costs_nothing(limit):
    assert seconds(limit, lambda size: 0.0) == STEP.total


def test_overlap_hides_all_but_the_last_bucket():
    assert seconds(0, lambda size: 1e-3) == pytest.approx(STEP.total + 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_gpu_does_not_communicate(kind):
    assert all_reduce(1e9, 1, 1, CLUSTERS[0], kind) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_a_faster_link_is_not_slower(kind, size):
    def time(factor):
        inside, outside = (
            replace(link, bandwidth=factor * link.bandwidth) for link in (cluster.inside, cluster.outside)
        )
        return all_reduce(size, 4, 8, replace(cluster, inside=inside, outside=outside), kind)

    cluster = CLUSTERS[3]
    times = [time(factor) for factor in (0.5, 1, 2, 4)]
    assert times == sorted(times, reverse=True) and times[0] > times[-1]


def test_latency_of_nccl_by_hand():
    # Protocol LL, 2 hosts of 8: a ring has 28 steps inside (1 us, network overhead) and 2 outside (2.7 us).
    small = {kind: 1e6 * all_reduce(0, 2, 8, CLUSTERS[0], kind) for kind in KINDS}
    assert small["ring"] == pytest.approx(6.6 + 28 * 1.0 + 2 * 2.7)
    assert small["tree"] == pytest.approx(6.8 + 2 * (7 * 0.6 + 5.0))
    assert small["hierarchical"] == pytest.approx(3 * 6.6 + 14 * 0.6 + 2 * 2.7)
    assert small["auto"] == small["tree"]  # NCCL takes the tree for small messages


def test_published_all_reduces():
    """Bus bandwidth, 2 (n - 1) / n x bytes / seconds, as nccl-tests reports it."""
    bytes_ = 4 << 30
    h100 = 2 * 7 / 8 * bytes_ / all_reduce(bytes_, 1, 8, CLUSTERS[0], "ring")
    assert 365e9 < h100 < 371e9  # nccl#1455: 365 to 370 GB/s
    bytes_ = 128 << 20
    hdr = 2 * 23 / 24 * bytes_ / all_reduce(bytes_, 3, 8, Cluster(A100, NVLINK_A100, HDR, 4))
    assert hdr == pytest.approx(96e9, rel=0.1)  # nccl-tests#119: 96 GB/s at most


def test_hierarchical_by_hand():
    # Simple: 2 x 7/8 of the data at 370.8 GB/s and 2 x 1/2 of it at 47 GB/s; 14 and 2 steps; three calls.
    cluster = CLUSTERS[1]
    expected = 1.75e10 / 370.8e9 + 1e10 / 47e9 + 14 * 3.4e-6 + 2 * 14e-6 + 3 * 8.4e-6
    assert cluster.card is H100 and all_reduce(1e10, 2, 8, cluster, "hierarchical") == pytest.approx(expected)


def test_profile():
    config = Config(
        dataset=DatasetConfig(dataset="shapes", format="coco"),
        model=ModelConfig(width=0.125),
        input=InputConfig(height=128, width=64),
        train=TrainConfig(batch_size=3),
    )
    network = profile(config)
    shares = [group.ready for group in network.gradients]
    assert shares == sorted(shares) and 0 < shares[0] and shares[-1] == 1  # the first layer is the last one
    # First convolution: 3 -> 8 channels, 7 x 7, at 64 x 32, no bias. NNabla also leaves the concatenation of the
    # first convolutions of the three heads (32 -> 64 channels, 3 x 3, bias) to the end.
    assert network.gradients[-1].values == 3 * 8 * 49 + 3 * 64 * (32 * 9 + 1)
    first = 2 * 3 * 8 * 49 * 64 * 32
    assert shares[-1] - shares[-2] == pytest.approx(first / network.operations)
    # The image in uint8; in float32 3.5 planes of the heatmap, whose sides are a quarter as long, size, offset,
    # index and mask of each object, and the number of positives.
    targets = 3.5 * 32 * 16 + (2 + 2 + 1 + 1) * config.detector.max_objects + 1
    assert network.input_bytes == pytest.approx(3 * (3 * 128 * 64 + 4 * targets), rel=1e-12)
    assert (
        profile(config.model_copy(update={"train": TrainConfig(batch_size=1)})).operations
        == network.operations
    )


def test_chart(tmp_path):
    curves = {"fast": {1: 1.0, 4: 1.0}, "slow": {1: 1.0, 4: 0.5}}
    chart.write(tmp_path / "x.svg", [("a", curves), ("b", curves)], measured=False)
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    lines = [line.get("points") for line in root.iter(f"{name}polyline")]
    right, middle = chart.LEFT + chart.WIDTH, chart.TOP + chart.HEIGHT / 2
    assert len(lines) == 4 and lines[1].split()[-1] == f"{right:.1f},{middle:.1f}"
    text = [element.text for element in root.iter(f"{name}text")]
    assert {"fast", "slow", "a", "b"} <= set(text) and any("stated, not measured" in t for t in text)
