"""OpenVINO GenAI: continuous batching with prefix caching over a GGUF file; the CPU engine."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from dpo4rec_utils.config import Config
from dpo4rec_utils.knowledge.engines import Completion, completion_of
from dpo4rec_utils.knowledge.gguf_export import export_gguf
from dpo4rec_utils.knowledge.models import end_tokens, gguf_of, load_tokenizer, token_ids
from dpo4rec_utils.knowledge.policies import Policy

CACHE_GIB = 1
SEQUENCES = 256


@functools.cache
def _tokenizer(model: str) -> openvino_genai.Tokenizer:
    """Built once a process: it takes as long as the rest of a pipeline, and all policies of a model share it."""
    return openvino_genai.Tokenizer(gguf_of(model))


class OpenVINOSampler:
    """A continuous-batching pipeline over the policy's GGUF, written to `workspace` for the time it is loaded."""

    def __init__(self, policy: Policy, config: Config, workspace: Path):
        path = export_gguf(policy, workspace / "policy.gguf", "F16")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = CACHE_GIB
        scheduler.max_num_seqs = SEQUENCES
        scheduler.max_num_batched_tokens = 2048
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(path, _tokenizer(policy.model), scheduler, "CPU")
        path.unlink()
        self.config, self.ends = config.llm, end_tokens(policy.model)
        self.tokenizer = load_tokenizer(policy.model)

    def _decoding(self, samples: int, seed: int) -> openvino_genai.GenerationConfig:
        decoding = openvino_genai.GenerationConfig()
        decoding.do_sample = True
        decoding.num_return_sequences = samples
        decoding.max_new_tokens = self.config.max_new_tokens
        decoding.temperature = self.config.temperature
        decoding.top_p = self.config.top_p
        decoding.rng_seed = seed
        decoding.stop_token_ids = set(self.ends)
        return decoding

    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """See `Sampler`."""
        decodings = [self._decoding(*pair) for pair in zip(samples, seeds, strict=True)]
        # Token ids, not strings: they are those that training reads, and what comes back says exactly how a text ended.
        inputs = [openvino.Tensor(np.array([token_ids(self.tokenizer, prompt)], np.int64)) for prompt in prompts]
        answers = self.pipeline.generate(inputs, decodings)
        return [
            [completion_of(ids, self.tokenizer, self.ends) for ids in answer.m_generation_ids] for answer in answers
        ]
