"""Which device computes, and with what weights."""

import pytest

from dpo4rec_utils import device
from dpo4rec_utils.files import StudyError


def test_two_gpus_are_one_sentence(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(StudyError, match="2 GPUs are visible and a study uses one; set CUDA_VISIBLE_DEVICES=0"):
        device.the_device()
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 1)
    assert device.the_device() == "cuda" and device.sampling_weights("auto") == "bfloat16"
    assert device.sampling_weights("float32") == "float32"


@pytest.mark.parametrize(("speedup", "precision", "weights"), [(2.0, "bf16", "bfloat16"), (1.2, "fp32", "float32")])
def test_two_bytes_are_taken_where_they_are_faster(monkeypatch, tmp_path, speedup, precision, weights):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(device, "_bf16_speedup", lambda: speedup)
    monkeypatch.setattr(device, "the_device", lambda: "cpu")
    assert device.fast_precision.__wrapped__() == precision
    monkeypatch.setattr(device, "_bf16_speedup", lambda: pytest.fail("it is timed once"))
    assert device.fast_precision.__wrapped__() == precision
    monkeypatch.setattr(device, "fast_precision", device.fast_precision.__wrapped__)
    assert device.sampling_weights("auto") == weights and device.sampling_weights("float32") == "float32"


def test_a_cpu_trains_in_fp32_even_where_bf16_multiplies_faster(monkeypatch):
    monkeypatch.setattr(device, "fast_precision", lambda: "bf16")
    monkeypatch.setattr(device, "the_device", lambda: "cpu")
    assert device.training_precision("auto") == "fp32" and device.training_precision("bf16") == "bf16"
    monkeypatch.setattr(device, "the_device", lambda: "cuda")
    assert device.training_precision("auto") == "bf16" and device.training_precision("fp32") == "fp32"
