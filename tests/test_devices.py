"""What a process is told of its devices, where that would end badly."""

import os

import pytest

from models.devices import DeviceError, DeviceOptions


@pytest.mark.parametrize(("threads", "variable"), [(1, None), (0, "1")])
def test_one_thread_on_several_cores_is_refused(monkeypatch, threads, variable):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    with pytest.raises(DeviceError, match="taskset"):
        DeviceOptions(threads=threads).apply()
