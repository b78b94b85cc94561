"""Rows of tokens that grow together in one model, for the transformers engine: cached keys and values, grown in
place."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64  # tokens, taken at once


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, (R, heads, columns, width), in room for more: a `DynamicLayer` copies all at every
    token.

    It keeps more than a sliding layer would: the mask, which knows the window, hides the rest.
    """

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states, value_states, *_, **__):
        """See `DynamicLayer`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end, new_states = begin + key_states.shape[2], (key_states, value_states)
        if self.room is None or end > self.room[0].shape[2]:
            old_states = (self.keys, self.values)
            self.room = tuple(_with_room(old, new, begin) for old, new in zip(old_states, new_states, strict=True))
        for room, states in zip(self.room, new_states, strict=True):
            room[: len(states), :, begin:end] = states
        self.keys, self.values = (room[: len(key_states), :, :end] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        """See `DynamicLayer`."""
        super().batch_select_indices(indices)
        self.room = None

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, left: int) -> None:
        """Rows `movers` move to `holes`, and the first `left` go on."""
        for states in (self.keys, self.values):
            states[holes] = states[movers]
        self.keys, self.values = self.keys[:left], self.values[:left]


def _with_room(old: torch.Tensor, new: torch.Tensor, begin: int) -> torch.Tensor:
    room = new.new_empty(*new.shape[:2], begin + new.shape[2] + ROOM, new.shape[3])
    if begin:
        room[:, :, :begin] = old
    return room


def _cache(model) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [RoomyLayer() if type(layer) in plain else layer for layer in cache.layers]
    return cache


class Rows:
    """Rows of tokens that grow together: a mask, cached keys and values, and (R, V) float32 logits behind the last
    token."""

    def __init__(self, model, prompts: list[list[int]], pad_token_id: int):
        self.model, self.cache = model, _cache(model)
        width = max(map(len, prompts))
        padded = [[pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self.mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        self._forward(torch.tensor(padded, device=model.device))

    def repeat(self, rows: list[int]) -> None:
        """Go on with these rows; a row may be named more than once."""
        rows = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.logits = self.mask[rows], self.logits[rows]

    def drop(self, going: list[bool]) -> list[int]:
        """Go on with some rows; returns which one stands where: the last ones move to where others ended."""
        left, order = sum(going), list(range(sum(going)))
        holes = [row for row in order if not going[row]]
        movers = [row for row in range(left, len(going)) if going[row]]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        places = [torch.tensor(rows, dtype=torch.long, device=self.mask.device) for rows in (holes, movers, order)]
        for layer in self.cache.layers:
            if isinstance(layer, RoomyLayer):
                layer.drop(places[0], places[1], left)
            else:
                layer.batch_select_indices(places[2])
        self.mask = self.mask[places[2]]
        return order

    def advance(self, tokens: torch.Tensor) -> None:
        """One more token a row, (R,)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self._forward(tokens[:, None])

    def _forward(self, tokens: torch.Tensor) -> None:
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        answer = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = answer.logits[:, -1].float()
