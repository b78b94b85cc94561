"""transformers on any device and for any causal language model: prompts in batches, each computed once for all its
samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dpo4rec_utils.config import Config, LLMConfig
from dpo4rec_utils.device import DTYPES, sampling_weights
from dpo4rec_utils.knowledge.engines import Completion, completion_of
from dpo4rec_utils.knowledge.engines.rows import Rows
from dpo4rec_utils.knowledge.models import end_tokens, load_tokenizer, token_ids
from dpo4rec_utils.knowledge.policies import Policy, load_model

# Completions that grow together; their cached keys and values are most of the memory. A GPU waits for Python between
# steps, so it takes more of them.
ROWS = {"cpu": 128, "cuda": 512}
LIKELIEST = 256  # tokens that are looked at first; all of them where these do not hold the mass that is asked for


class TransformersSampler:
    """A model in memory. A prompt's samples depend on its seed and, in the last bits, on what else is in a batch."""

    def __init__(self, policy: Policy, config: Config, _: Path | None = None):
        self.model, self.config = load_model(policy, DTYPES[sampling_weights(config.device.sampling)]), config.llm
        self.tokenizer, self.ends = load_tokenizer(policy.model), end_tokens(policy.model)
        # The prompts' last columns are a slice, for which torch would copy the head's weights once a prompt.
        self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    @torch.inference_mode()
    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """See `Sampler`."""
        ids = [token_ids(self.tokenizer, prompt) for prompt in prompts]
        # Every sample's random numbers are drawn beforehand, so that they do not depend on the other rows of a batch.
        steps = self.config.max_new_tokens
        chances = [np.random.default_rng(seed).random((n, steps)) for n, seed in zip(samples, seeds, strict=True)]
        answers: list[list] = [[None] * count for count in samples]
        for batch in self._batches(ids, samples):
            for (prompt, sample), tokens in self._grow(batch, ids, chances):
                answers[prompt][sample] = completion_of(tokens, self.tokenizer, self.ends)
        return answers

    def _batches(self, ids: list[list[int]], samples: Sequence[int]) -> Iterator[list[int]]:
        """Prompts of similar length, at most `ROWS` samples together, or one prompt by itself."""
        batch, rows, most = [], 0, ROWS[self.model.device.type]
        for prompt in sorted(range(len(ids)), key=lambda i: len(ids[i])):
            if batch and rows + samples[prompt] > most:
                yield batch
                batch, rows = [], 0
            batch.append(prompt)
            rows += samples[prompt]
        if batch:
            yield batch

    def _grow(self, batch: list[int], ids: list[list[int]], chances: list[np.ndarray]) -> Iterator[tuple]:
        """Yields (prompt, sample) and tokens, the end included, of every sample of a batch of prompts."""
        rows = Rows(self.model, [ids[prompt] for prompt in batch], self.tokenizer.pad_token_id)
        place = [(prompt, sample) for prompt in batch for sample in range(len(chances[prompt]))]
        rows.repeat([batch.index(prompt) for prompt, _ in place])  # every prompt once for each of its samples
        tokens: dict[tuple, list[int]] = {row: [] for row in place}
        for step in range(self.config.max_new_tokens):
            chosen = pick(rows.logits, [chances[prompt][sample, step] for prompt, sample in place], self.config)
            for row, token in zip(place, chosen.tolist(), strict=True):
                tokens[row].append(token)
            going = [tokens[row][-1] not in self.ends for row in place]
            if not any(going) or step + 1 == self.config.max_new_tokens:
                break
            if not all(going):
                order = rows.drop(going)
                place, chosen = [place[i] for i in order], chosen[order]
            rows.advance(chosen)
        yield from tokens.items()


def pick(logits: torch.Tensor, chance: Sequence[float], config: LLMConfig) -> torch.Tensor:
    """(R,) tokens drawn from (R, V) logits at `config.temperature` from the likeliest that hold `config.top_p` of the
    mass.

    chance: (R,) in [0, 1), where in the cumulated mass the token lies (Holtzman et al., arXiv 1904.09751). No full
    sort: the likeliest 256 are enough where they hold the mass.
    """
    chance = torch.as_tensor(chance, dtype=torch.float32, device=logits.device)
    logits = logits / config.temperature
    total = logits.logsumexp(dim=1, keepdim=True)
    top = logits.topk(min(LIKELIEST, logits.shape[1]), dim=1)
    tokens = _drawn((top.values - total).exp(), top.indices, chance, config.top_p)
    few = (top.values - total).exp().sum(dim=1) < config.top_p
    if few.any():
        ordered = logits[few].sort(dim=1, descending=True)
        tokens[few] = _drawn((ordered.values - total[few]).exp(), ordered.indices, chance[few], config.top_p)
    return tokens


def _drawn(mass: torch.Tensor, tokens: torch.Tensor, chance: torch.Tensor, top_p: float) -> torch.Tensor:
    """The token where `chance` lies in the mass that is kept; mass: (R, K), descending."""
    reached = mass.cumsum(dim=1)
    nucleus = torch.where(reached - mass < top_p, mass, 0.0)
    reached = nucleus.cumsum(dim=1)
    place = torch.searchsorted(reached, chance[:, None] * reached[:, -1:], right=True)
    last = (nucleus > 0).sum(dim=1, keepdim=True) - 1  # rounding may leave a chance near 1 behind the last
    return tokens.gather(1, torch.minimum(place, last))[:, 0]
