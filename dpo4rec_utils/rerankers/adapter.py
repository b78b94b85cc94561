"""Knowledge adapters: text vectors of users and items to a small space."""

import functools

import torch
from torch import nn


def _expert(text_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(text_dim, 2 * out_dim), nn.GELU(), nn.Linear(2 * out_dim, out_dim))


class HybridExpertAdapter(nn.Module):
    """Hybrid-expert adaptor of KAR (arXiv 2306.10933, eq. 4-6): shared and dedicated experts, mixed by a softmax gate.

    `sides`: the kinds of text, such as ('user', 'item'). `experts`: how many all sides share, and how many each has for
    itself; with none of the latter it is a plain mixture of experts. forward(vectors (..., T), side) -> (..., D).
    """

    def __init__(self, text_dim: int, out_dim: int, dropout: float, sides: tuple[str, ...], experts=(1, 1)):
        super().__init__()
        shared, dedicated = experts
        self.shared = nn.ModuleList(_expert(text_dim, out_dim) for _ in range(shared))
        self.dedicated = nn.ModuleDict(
            {side: nn.ModuleList(_expert(text_dim, out_dim) for _ in range(dedicated)) for side in sides}
        )
        self.gate = nn.ModuleDict({side: nn.Linear(text_dim, shared + dedicated) for side in sides})
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, side: str) -> torch.Tensor:
        outputs = torch.stack([expert(vectors) for expert in (*self.shared, *self.dedicated[side])], dim=-1)
        weight = self.gate[side](vectors).softmax(dim=-1).unsqueeze(-2)
        return self.dropout((outputs * weight).sum(dim=-1))


class MLPAdapter(nn.Module):
    """One perceptron a side: the ablation of the experts. forward(vectors (..., T), side) -> (..., D)."""

    def __init__(self, text_dim: int, out_dim: int, dropout: float, sides: tuple[str, ...]):
        super().__init__()
        self.side = nn.ModuleDict({side: _expert(text_dim, out_dim) for side in sides})
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, side: str) -> torch.Tensor:
        return self.dropout(self.side[side](vectors))


# By `RerankerConfig.adapter`.
ADAPTERS = {
    "hea": HybridExpertAdapter,
    "moe": functools.partial(HybridExpertAdapter, experts=(2, 0)),
    "mlp": MLPAdapter,
}
