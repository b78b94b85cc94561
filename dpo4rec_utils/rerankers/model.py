"""The model around a backbone: features, knowledge and the user x item interaction."""

import torch
from torch import nn


class KnowledgeReranker(nn.Module):
    """Score candidate lists from ids, tags and text knowledge.

    A candidate's features are [id embedding, tags, item knowledge, and for each user input its knowledge and its product with the item's];
    the score adds a learnt multiple of each inner product user knowledge . item knowledge. Both are ours, for every backbone
    (notebook 06 has the ablation). Knowledge that an arm lacks is a zero vector.

    text: width T of text vectors, and the user's inputs: ('user',) or, with a vector of the history as a second one, ('user', 'past').
    forward(items (B, C) long, users [(B, T)] an input each, item_text (I, T), history (B, T') long or None) -> (B, C) logits;
    history items are padded on the left with -1. Each distinct item of a batch is projected once.
    """

    def __init__(self, core: nn.Module, adapter: nn.Module, config, tags: torch.Tensor, text: tuple):
        super().__init__()
        text_dim, self.inputs = text
        self.core, self.adapter, self.interaction = core, adapter, config.interaction
        self.item_id = nn.Embedding(len(tags), config.id_dim)
        nn.init.normal_(self.item_id.weight, std=0.05)
        self.register_buffer("tags", tags, persistent=False)
        self.tag = nn.Linear(tags.shape[1], config.tag_dim)
        self.item_width = config.id_dim + config.tag_dim + config.knowledge_dim
        width = self.item_width + config.knowledge_dim * len(self.inputs) * (2 if config.interaction else 1)
        self.features = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(config.dropout))
        self.past = nn.Linear(self.item_width, config.hidden) if core.uses_history else None
        self.scale = nn.Parameter(torch.full((len(self.inputs),), 0.1))
        self.text_dropout = nn.Dropout(config.text_dropout)
        self.register_buffer("temperature", torch.ones(()))
        for side in (*self.inputs, "item"):
            self.register_buffer(f"{side}_mean", torch.zeros(text_dim))
            self.register_buffer(f"{side}_std", torch.ones(text_dim))

    def standardise(self, side: str, text: torch.Tensor) -> None:
        """Take mean and deviation of `text` (n, T) for this side's input: sentence vectors of one kind of text lie in a
        narrow cone, and what tells them apart is small beside what they share."""
        getattr(self, f"{side}_mean").copy_(text.mean(dim=0))
        getattr(self, f"{side}_std").copy_(text.std(dim=0).clamp(min=1e-3))

    def _known(self, side: str, text: torch.Tensor) -> torch.Tensor:
        text = (text - getattr(self, f"{side}_mean")) / getattr(self, f"{side}_std")
        # A user has few texts, which are learnt by heart; the items' are the same for everyone.
        return self.adapter(text if side == "item" else self.text_dropout(text), side)

    def forward(self, items, users, item_text, history=None):
        distinct, place = torch.unique(items if history is None else self._with(items, history), return_inverse=True)
        known = self._known("item", item_text[distinct])
        table = torch.cat([self.item_id(distinct), self.tag(self.tags[distinct]), known], dim=-1)
        count = items.numel()
        item = table[place.flatten()[:count]].view(*items.shape, -1)
        knowledge = item[..., -known.shape[-1] :]
        inputs = [self._known(side, text).unsqueeze(1) for side, text in zip(self.inputs, users, strict=True)]
        parts = [item]
        for user in inputs:
            parts += [user.expand_as(knowledge)] + ([user * knowledge] if self.interaction else [])
        x = self.features(torch.cat(parts, dim=-1))
        if self.past is not None:
            past = self.past(table[place.flatten()[count:]]).view(*history.shape, -1)
            scores = self.core(x, (past, history >= 0))
        else:
            scores = self.core(x)
        if self.interaction:
            for scale, user in zip(self.scale, inputs, strict=True):
                scores = scores + scale * (user * knowledge).sum(dim=-1)
        return scores / self.temperature

    @staticmethod
    def _with(items, history):
        return torch.cat([items.flatten(), history.clamp(min=0).flatten()])
