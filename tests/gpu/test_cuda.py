"""The reference engine and alignment on a CUDA device; skipped, loudly, where there is none."""

import pytest
import torch

from dpo4rec_utils.config import LLMConfig
from dpo4rec_utils.knowledge.engines.transformers import TransformersSampler
from dpo4rec_utils.knowledge.policies import Policy, load_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_the_policy_is_on_the_device_and_samples():
    base = Policy("zero_shot", "embedded")
    assert load_model(base).device.type == "cuda"
    sampler = TransformersSampler(base, LLMConfig(max_new_tokens=8))
    first = sampler.sample(["This viewer enjoys"], [4], [1])
    assert first == sampler.sample(["This viewer enjoys"], [4], [1]) and len(first[0]) == 4
