"""DLCM: Ai et al., Learning a Deep Listwise Context Model for Ranking Refinement, arXiv 1804.05936."""

import torch
from torch import nn


class DLCM(nn.Module):
    """A GRU reads the list; each item is scored by its state and the list's final state (eq. 5 of the paper).

    forward(x (B, C, H)) -> (B, C). The order of the list matters.
    """

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.encoder = nn.GRU(hidden, hidden, batch_first=True)
        self.context = nn.Linear(hidden, hidden)
        self.score = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, last = self.encoder(x)
        context = torch.tanh(self.context(last[-1])).unsqueeze(1)
        return self.score(states * context).squeeze(-1)
