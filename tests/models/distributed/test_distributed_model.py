"""The scaling model: its formulas by hand, and the published points it is held against."""

import dataclasses

import pytest

from benchmarks import scaling_model
from benchmarks.scaling_model import Cluster, Job

CLUSTER = Cluster(
    gpus_per_node=4, inside=100.0, inside_latency=0.5, between=10.0, between_latency=2.0
)
JOB = Job(batch=10, images_per_second=1.0, gradient_bytes=80.0, groups=2, overlap=0.0)


def test_the_ring_sends_almost_twice_the_bytes() -> None:
    # Two workers: two messages of half the bytes. Four: six messages of a quarter.
    assert scaling_model.ring_seconds(80, 2, 10.0, 0.0) == 8.0
    assert scaling_model.ring_seconds(80, 4, 10.0, 2.0) == 6 * (2.0 + 2.0)


def test_the_hierarchy_sends_between_machines_what_a_ring_of_machines_would() -> None:
    inside = 6 * (80 / 4 / 100 + 0.5)
    assert scaling_model.hierarchical_seconds(80, 4, CLUSTER) == pytest.approx(inside)
    assert scaling_model.hierarchical_seconds(80, 8, CLUSTER) == pytest.approx(inside + 12.0)


def test_the_last_group_does_not_hide() -> None:
    group = scaling_model.flat_seconds(40, 4, CLUSTER)
    step = scaling_model.step_seconds(JOB, 4, CLUSTER, "ring")
    assert step == pytest.approx(10 + 2 * group)
    hidden = dataclasses.replace(JOB, overlap=1.0)
    assert scaling_model.step_seconds(hidden, 4, CLUSTER, "ring") == pytest.approx(10 + group)


def test_a_slow_input_bounds_the_step() -> None:
    slow = dataclasses.replace(JOB, input_rate=0.1)
    assert scaling_model.step_seconds(slow, 1, CLUSTER, "ring") == 100
    assert scaling_model.efficiency(JOB, 1, CLUSTER, "ring") == 1.0


def test_the_published_points_lie_within_the_model() -> None:
    none, full = scaling_model.horovod_bracket()
    assert none < scaling_model.HOROVOD_POINT[1] < full
    assert 11_077 / 128 < scaling_model.ml_images_rate(Cluster()) < 1.1 * 11_077 / 128


def test_the_model_is_drawn(tmp_path) -> None:
    scaling_model.plot(JOB, str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
