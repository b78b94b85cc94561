"""DASALC: Qin et al., Are Neural Rankers still Outperformed by Gradient Boosted Decision Trees?, ICLR 2021."""

import torch
from torch import nn


class DASALC(nn.Module):
    """Self-attention over the list, crossed with each item's own features (latent cross, section 5.2), then a
    perceptron.

    forward(x (B, C, H)) -> (B, C); permuting candidates permutes their scores. The paper's log1p of raw
    features has no place here: features are learnt.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, blocks: int = 2):
        super().__init__()
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(hidden, heads, dropout, batch_first=True) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(blocks))
        self.score = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(hidden), nn.Linear(hidden, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = x
        for attention, norm in zip(self.attention, self.norms, strict=True):
            context = norm(context + attention(context, context, context, need_weights=False)[0])
        return self.score((1 + context) * x).squeeze(-1)
