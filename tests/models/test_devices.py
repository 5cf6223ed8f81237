"""Which types this machine is fast in."""

import pytest
import tensorflow as tf

from models import devices


@pytest.mark.parametrize(
    ("cpu_flags", "fast"),
    [
        ("fma avx2", []),
        ("avx2 avx512f avx512bw", []),
        ("avx2 avx512f avx512_bf16", ["bfloat16"]),
        ("avx512f amx_bf16 avx512_fp16", ["bfloat16", "float16"]),
    ],
)
def test_sixteen_bits_need_the_processors_instructions(monkeypatch, tmp_path, cpu_flags, fast):
    (tmp_path / "cpuinfo").write_text(f"flags\t: {cpu_flags}\n", encoding="utf-8")
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert devices.fast_dtype(tf.float32) == tf.float32
    for name in ("bfloat16", "float16"):
        assert devices.fast_dtype(tf.as_dtype(name)).name == (name if name in fast else "float32")


def test_a_machine_that_does_not_tell_is_taken_as_fast(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "none")
    assert devices.fast_dtype(tf.bfloat16) == tf.bfloat16
