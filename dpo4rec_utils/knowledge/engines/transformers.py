"""transformers' `generate`: the reference engine, on any device and for any model."""

from collections.abc import Sequence

import torch

from dpo4rec_utils.config import LLMConfig
from dpo4rec_utils.knowledge.engines import Completion
from dpo4rec_utils.knowledge.policies import Policy, load_model, load_tokenizer


class TransformersSampler:
    """One prompt at a time, its samples in a batch: slow, and what the fast engine is compared with."""

    def __init__(self, policy: Policy, config: LLMConfig):
        self.model = load_model(policy)
        self.tokenizer = load_tokenizer(policy.model)
        self.config = config

    @torch.inference_mode()
    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """See `Sampler`."""
        return [self._one(*request) for request in zip(prompts, samples, seeds, strict=True)]

    def _one(self, prompt: str, samples: int, seed: int) -> list[Completion]:
        inputs = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(self.model.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.model.generate(
                **inputs,
                do_sample=True,
                num_return_sequences=samples,
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                top_k=0,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        ends = new == self.tokenizer.eos_token_id
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = torch.where(ends.any(1), ends.int().argmax(1), new.shape[1])
        return [
            Completion(text, int(length), bool(end))
            for text, length, end in zip(texts, lengths, ends.any(1), strict=True)
        ]
