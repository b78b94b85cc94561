"""SetRank: Pang et al., SetRank: Learning a Permutation-Invariant Ranking Model, arXiv 1912.05891."""

import torch
from torch import nn


class SetRank(nn.Module):
    """SetRank, reduced to one block after IMSAB (eq. 9-10): learnt points attend to the set, the set to them.

    The inner attention has no feed-forward part, and there is no ordinal embedding: the lists have no initial ranking.
    forward(x (B, C, H)) -> (B, C); permuting candidates permutes their scores.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, points: int = 8):
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, hidden) * 0.1)
        self.gather = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.spread = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.feed = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.score = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = self.points.expand(len(x), -1, -1)
        induced = self.norms[0](points + self.gather(points, x, x, need_weights=False)[0])
        x = self.norms[1](x + self.spread(x, induced, induced, need_weights=False)[0])
        return self.score(self.norms[2](x + self.feed(x))).squeeze(-1)
