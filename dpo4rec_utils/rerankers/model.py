"""The model around a backbone: features, knowledge and the user x item interaction."""

from dataclasses import dataclass

import torch
from torch import nn

from dpo4rec_utils.config import RerankerConfig
from dpo4rec_utils.registries import Backbone
from dpo4rec_utils.rerankers.adapter import ADAPTERS


@dataclass(frozen=True)
class KnowledgeShape:
    """Width T of text vectors, and the vectors of a user: ('user',), or ('user', 'history') with the history's
    vector."""

    width: int
    user_inputs: tuple[str, ...]


class KnowledgeReranker(nn.Module):
    """Score candidate lists from ids, tags and text knowledge.

    A candidate's features are [id embedding, tags, item knowledge, and for each user input its knowledge and its
    product with the item's]; the score adds a learnt multiple of each inner product user knowledge . item knowledge.
    Both are ours, for every backbone (notebook 06 has the ablation). Knowledge that an arm lacks is a zero vector.

    tags: (I, G) float32 membership. forward(items (B, C) long, user_vectors [(B, T)] an input each, item_vectors (I,
    T), history (B, T') long or None) -> (B, C) logits; history items are padded on the left with -1. Each distinct
    item of a batch is projected once.
    """

    def __init__(self, backbone: Backbone, config: RerankerConfig, tags: torch.Tensor, shape: KnowledgeShape):
        super().__init__()
        self.inputs, self.interaction = shape.user_inputs, config.interaction
        sides = (*self.inputs, "item")
        self.adapter = ADAPTERS[config.adapter](shape.width, config.knowledge_dim, config.dropout, sides)
        self.core = backbone.load()(config.hidden, config.heads, config.dropout)
        self.item_id = nn.Embedding(len(tags), config.id_dim)
        nn.init.normal_(self.item_id.weight, std=0.05)
        self.register_buffer("tags", tags, persistent=False)
        self.tag = nn.Linear(tags.shape[1], config.tag_dim)
        item_width = config.id_dim + config.tag_dim + config.knowledge_dim
        width = item_width + config.knowledge_dim * len(self.inputs) * (2 if config.interaction else 1)
        self.features = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(config.dropout))
        self.history = nn.Linear(item_width, config.hidden) if backbone.reads_history else None
        self.scale = nn.Parameter(torch.full((len(self.inputs),), 0.1))
        self.text_dropout = nn.Dropout(config.text_dropout)
        self.register_buffer("temperature", torch.ones(()))
        for side in sides:
            self.register_buffer(f"{side}_mean", torch.zeros(shape.width))
            self.register_buffer(f"{side}_std", torch.ones(shape.width))

    def standardise(self, side: str, vectors: torch.Tensor) -> None:
        """Take mean and deviation of `vectors` (n, T) for this side's input: sentence vectors of one kind of text lie
        in a narrow cone, and what tells them apart is small beside what they share."""
        getattr(self, f"{side}_mean").copy_(vectors.mean(dim=0))
        getattr(self, f"{side}_std").copy_(vectors.std(dim=0).clamp(min=1e-3))

    def _knowledge(self, side: str, vectors: torch.Tensor) -> torch.Tensor:
        vectors = (vectors - getattr(self, f"{side}_mean")) / getattr(self, f"{side}_std")
        # A user has few texts, which are learnt by heart; the items' are the same for everyone.
        return self.adapter(vectors if side == "item" else self.text_dropout(vectors), side)

    def forward(self, items, user_vectors, item_vectors, history=None):
        distinct, place = torch.unique(items if history is None else self._with(items, history), return_inverse=True)
        distinct_knowledge = self._knowledge("item", item_vectors[distinct])
        table = torch.cat([self.item_id(distinct), self.tag(self.tags[distinct]), distinct_knowledge], dim=-1)
        count = items.numel()
        item = table[place.flatten()[:count]].view(*items.shape, -1)
        knowledge = item[..., -distinct_knowledge.shape[-1] :]
        users = [
            self._knowledge(side, vectors).unsqueeze(1) for side, vectors in zip(self.inputs, user_vectors, strict=True)
        ]
        parts = [item]
        for user in users:
            parts += [user.expand_as(knowledge)] + ([user * knowledge] if self.interaction else [])
        x = self.features(torch.cat(parts, dim=-1))
        if self.history is not None:
            states = self.history(table[place.flatten()[count:]]).view(*history.shape, -1)
            scores = self.core(x, (states, history >= 0))
        else:
            scores = self.core(x)
        if self.interaction:
            for scale, user in zip(self.scale, users, strict=True):
                scores = scores + scale * (user * knowledge).sum(dim=-1)
        return scores / self.temperature

    @staticmethod
    def _with(items, history):
        return torch.cat([items.flatten(), history.clamp(min=0).flatten()])
