"""PRM: Pei et al., Personalized Re-ranking for Recommendation, arXiv 1904.06813."""

import torch
from torch import nn


class PRM(nn.Module):
    """PRM, reduced: position embedding, one transformer encoder block over the list, a linear score.

    Without the paper's pretrained personalised vector: the user's text stands for it.
    forward(x (B, C, H)) -> (B, C), C at most 64.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, positions: int = 64):
        super().__init__()
        self.position = nn.Parameter(torch.randn(positions, hidden) * 0.02)
        self.encoder = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout, batch_first=True)
        self.score = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(self.encoder(x + self.position[: x.shape[1]])).squeeze(-1)
