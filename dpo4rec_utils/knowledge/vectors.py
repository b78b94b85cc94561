"""Knowledge as vectors: of a policy's texts, of templated profiles, of items, of a history."""

from functools import cached_property

import numpy as np

from dpo4rec_utils.data.feedback import disliked, liked
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.encoder import TextEncoder
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy


class TextVectors:
    """The vectors of what `knowledge` says. U users, I items, T the width of a vector."""

    def __init__(self, knowledge: Knowledge, encoder: TextEncoder):
        self.knowledge, self.encoder = knowledge, encoder

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """(I, T) vectors of the items' texts without an LLM."""
        items = range(len(self.knowledge.data.dataset.items))
        return self.encoder.encode([self.knowledge.item_text(item) for item in items], "encode items")

    def llm_item_vectors(self) -> np.ndarray:
        """(I, T) vectors of item texts by the zero-shot LLM."""
        texts = self.knowledge.item_texts(range(len(self.knowledge.data.dataset.items)))
        return self.encoder.encode(texts.sort_values("item").text, "encode item texts")

    def policy_vectors(self, policy: Policy, samples: int | None = None) -> np.ndarray:
        """(U, S, T) vectors of a policy's texts with their prefix, the first `samples` of a user; NaN where absent."""
        table = self.knowledge.texts(policy)
        if samples:
            table = table[table["sample"] < samples]
        vectors = self.encoder.encode(self.knowledge.prefix_of(policy) + table.text, f"encode {policy.name}")
        shape = (len(self.knowledge.users), table["sample"].max() + 1, vectors.shape[1])
        out = np.full(shape, np.nan, np.float32)
        out[table.user, table["sample"]] = vectors
        return out

    def equal_vectors(self, policy: Policy, count: int) -> np.ndarray:
        """(U, count, T) vectors of `count` texts of every user, a random so many, since their order is drawn; raises
        `StudyError` where a user has fewer: arms could not be compared."""
        vectors = self.policy_vectors(policy, count)
        if vectors.shape[1] != count or np.isnan(vectors).any():
            raise StudyError(
                f"{policy.name}: not every user has {count} texts, so arms cannot be compared; delete runs/texts."
            )
        return vectors

    def template_vectors(self, count: int, full: bool) -> np.ndarray:
        """(U, count, T) vectors of templated profiles."""
        knowledge = self.knowledge
        texts = [knowledge.prefix + text for row in knowledge.template_texts(count, full) for text in row]
        return self.encoder.encode(texts, "encode templates").reshape(len(knowledge.users), count, -1)

    @cached_property
    def history_mean(self) -> np.ndarray:
        """(U, T) mean of the history's item vectors, +1 liked, -1 disliked, 0 between; unweighted where all are
        between."""
        out, config = [], self.knowledge.config.data
        for past in self.knowledge.data.cohort.history:
            weight = liked(past.rating, config).astype(np.float32)
            weight -= disliked(past.rating, config)
            weight = weight if weight.any() else np.ones_like(weight)
            out.append(weight @ self.item_vectors[past.item] / np.abs(weight).sum())
        return np.array(out, dtype=np.float32)

    @cached_property
    def shown_mean(self) -> np.ndarray:
        """(U, T) mean vector of exactly the items whose titles stand in the user's prompt."""
        return np.array([self.item_vectors[list(facts.items)].mean(axis=0) for facts in self.knowledge.facts])


def as_read(user_vectors: np.ndarray, texts: str) -> np.ndarray:
    """The vectors of a user's texts as re-rankers read them, by `RerankerConfig.texts`: (U, S, T) as they are, or (U,
    1, T) their mean."""
    return user_vectors.mean(axis=1, keepdims=True) if texts == "mean" else user_vectors


def means_without(user_vectors: np.ndarray) -> np.ndarray:
    """(U, S, T): in the place of each text the mean vector of its user's others; NaN where it is absent or alone."""
    there = ~np.isnan(user_vectors[..., :1])
    present = np.where(there, user_vectors, 0)
    others = there.sum(axis=1, keepdims=True) - 1
    rest = present.sum(axis=1, keepdims=True) - present
    return np.where(there & (others > 0), rest / np.maximum(others, 1), np.nan).astype(user_vectors.dtype)


def has_texts(user_vectors: np.ndarray, users: np.ndarray) -> bool:
    """Whether any of these users (positions) has a text among vectors (U, S, T)."""
    return not np.isnan(user_vectors[:, :, 0][users]).all()
