"""One toy of each kind that a registry holds, as somebody outside the package would write it."""

import pandas as pd
import torch
from torch import nn

from dpo4rec_utils.knowledge.engines import Completion
from tests.conftest import made_dataset


class MeanRanker(nn.Module):
    """A backbone: the mean of a candidate's features, scaled."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        return (x * self.scale).mean(dim=-1)


class EchoEngine:
    """An engine: the last word of the prompt, a number behind it."""

    def __init__(self, policy, config, workspace):
        self.limit = config.llm.max_new_tokens

    def sample(self, prompts, samples, seeds):
        """See `Sampler`."""
        return [
            [Completion(f" {prompt.split()[-1]} {number}", 2, True) for number in range(count)]
            for prompt, count in zip(prompts, samples, strict=True)
        ]


def shorter_is_better(features, rewards):
    """An estimate of the reward: fewer tokens."""
    return -features.tokens


def load_toy():
    """A built-in data set."""
    dataset = made_dataset()
    assert isinstance(dataset.interactions, pd.DataFrame)
    return dataset
