"""MIR: Xi et al., Multi-Level Interaction Reranking with User Behavior History, arXiv 2204.09370."""

import torch
from torch import nn


class MIR(nn.Module):
    """MIR, reduced: one encoder layer over the candidates, then each candidate attends to the history's items.

    Of the paper's SLAttention (section 4.3) the item level is here, with a learnt decay by age; its feature level and
    the encoding of the history by itself are not. forward(x (B, C, H), history=(h (B, T, H), mask (B, T) bool, True
    where there is an item)) -> (B, C).
    """

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.candidates = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout, batch_first=True)
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.decay = nn.Parameter(torch.tensor(-3.0))
        self.score = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, x: torch.Tensor, history) -> torch.Tensor:
        states, mask = history
        x = self.candidates(x)
        age = torch.flip(torch.arange(states.shape[1], device=x.device), (0,))
        affinity = self.query(x) @ self.key(states).transpose(1, 2) / x.shape[-1] ** 0.5
        affinity = affinity - nn.functional.softplus(self.decay) * age
        weight = affinity.masked_fill(~mask.unsqueeze(1), -1e9).softmax(dim=-1)
        read = weight @ states
        return self.score(torch.cat([x, read, x * read], dim=-1)).squeeze(-1)
