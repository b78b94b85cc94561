"""Texts that repeat themselves, counted: DPO can lead there where its pairs favour a phrase (docs/experiments.md)."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.facts import words_of
from dpo4rec_utils.store import Stage

PHRASE = 3  # words


def is_repetitive(text: str, prompt: str) -> bool:
    """Whether a text says a phrase of `PHRASE` words twice or more, and more often than its prompt does.

    So two titles of a series that the prompt names are no repetition. Case and punctuation do not count.
    """
    of_prompt = _phrases(prompt)
    return any(count > max(1, of_prompt[phrase]) for phrase, count in _phrases(text).items())


def _phrases(text: str) -> Counter:
    words = words_of(text)
    return Counter(zip(*(words[start:] for start in range(PHRASE)), strict=False))


def repetitive_texts(table: pd.DataFrame, prompts: Sequence[str]) -> pd.Series:
    """For each of the texts (user, text) whether it is repetitive; `prompts`: one of every user (position)."""
    repeated = [is_repetitive(text, prompts[user]) for user, text in zip(table.user, table.text, strict=True)]
    return pd.Series(repeated, table.index, dtype=bool)


def repetition_stage(name: str, table: pd.DataFrame, prompts: Sequence[str]) -> Stage:
    """How many of a policy's texts (user, text) are repetitive, as a record's metrics: texts, repetitive."""

    def build(_):
        return {"texts": len(table), "repetitive": int(repetitive_texts(table, prompts).sum())}

    text_prompts = [prompts[user] for user in table.user]
    return Stage("repetition", name, {"texts": content_key([list(table.text), text_prompts])}, build)
