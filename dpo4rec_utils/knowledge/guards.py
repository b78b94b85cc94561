"""Guards: what texts say, before and after alignment, so that a higher reward is not mistaken for a better text."""

import dataclasses
import functools
import itertools
import re

import numpy as np
import pandas as pd

from dpo4rec_utils.data.domain import render_words
from dpo4rec_utils.data.feedback import liked
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.knowledge.facts import Facts, holds, words_of
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.vectors import TextVectors
from dpo4rec_utils.store import Stage

_OPEN = "\x00"
_NOT = re.compile(r"\b(?:but not|not|avoids?|avoiding|dislikes?|except|without|less)\b.*")


@functools.cache
def _phrasings(profile: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    """The templated profiles' sentences as patterns, their facts left open: every phrasing with and without each
    fact."""
    patterns, parts = set(), ("values", "decades", "titles", "avoided")
    for template, presence in itertools.product(profile, itertools.product((True, False), repeat=len(parts))):
        facts = {part: [_OPEN] if there else [] for part, there in zip(parts, presence, strict=True)}
        patterns.add(re.escape(render_words(template, facts)).replace(re.escape(_OPEN), ".+"))
    return tuple(re.compile(pattern) for pattern in sorted(patterns))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a text may name: the values of the catalogue's attribute, lower case, and the domain's profile phrasings."""

    values: tuple[str, ...]
    profile: tuple[str, ...]

    @functools.cached_property
    def any_value(self) -> re.Pattern:
        """Any of the values as whole words; never, where there are none."""
        return re.compile("|".join(rf"\b{re.escape(value)}\b" for value in self.values) or r"(?!)")


def describe_text(text: str, facts: Facts, vocabulary: Vocabulary) -> dict:
    """Facts of one text about one user, each 0 or 1 except `words` and `copied`.

    value: names any value of the attribute (a genre, an author); decade: names one of the history's decades; title:
    names a listed title; avoided: names a value the user dislikes more than likes after a negation; liked_wrong:
    names such a value without one (the claim is the opposite of the history; NaN where the user avoids nothing);
    hedging: names neither value nor title; mimic: has the form of a templated profile, whatever its facts; copied:
    share of the words that stand among the prompt's facts.
    """
    lower = text.lower()
    negated = " ".join(_NOT.findall(lower))
    plain = _NOT.sub("", lower)
    value = bool(vocabulary.any_value.search(lower))
    title, avoided = any(holds(text, name) for name in facts.titles), facts.avoided
    stated = (*facts.titles, *(name for pairs in (facts.liked, facts.disliked, facts.decades) for name, _ in pairs))
    fact_words = {word for fact in stated for word in words_of(fact)}
    return {
        "words": len(words_of(text)),
        "value": float(value),
        "decade": float(any(holds(text, decade) for decade, _ in facts.decades)),
        "title": float(title),
        "avoided": float(any(holds(negated, name) for name in avoided)) if avoided else np.nan,
        "liked_wrong": float(any(holds(plain, name) for name in avoided)) if avoided else np.nan,
        "hedging": float(not value and not title),
        "mimic": float(any(pattern.fullmatch(text) for pattern in _phrasings(vocabulary.profile))),
        "copied": float(np.mean([word in fact_words for word in words_of(text)] or [0])),
    }


def describe_texts(table: pd.DataFrame, facts: list[Facts], vocabulary: Vocabulary) -> pd.Series:
    """Means of `describe_text` over texts (user, text), and `distinct_texts` and `distinct_bigrams` in [0, 1]."""
    rows = [describe_text(text, facts[user], vocabulary) for user, text in zip(table.user, table.text, strict=True)]
    bigrams = [
        pair for text in table.text for words in [words_of(text)] for pair in zip(words, words[1:], strict=False)
    ]
    means = pd.DataFrame(rows).mean()
    means["distinct_texts"] = table.text.nunique() / max(1, len(table))
    means["distinct_bigrams"] = len(set(bigrams)) / max(1, len(bigrams))
    return means


def changed_words(before: pd.Series, after: pd.Series, top: int) -> pd.DataFrame:
    """Words whose share of texts changed most: word, before, after, change (shares in [0, 1])."""
    share = {}
    for name, texts in (("before", before), ("after", after)):
        counts = pd.Series([word for text in texts for word in set(words_of(text))]).value_counts()
        share[name] = counts / len(texts)
    table = pd.DataFrame(share).fillna(0)
    table["change"] = table.after - table.before
    order = table.change.abs().sort_values(ascending=False, kind="stable").index[:top]
    return table.loc[order].sort_values("change").rename_axis("word").reset_index()


def guards_stage(knowledge: Knowledge, name: str, table: pd.DataFrame) -> Stage:
    """`describe_texts` of the texts (user, text) of an arm, as a record's metrics."""

    vocabulary = Vocabulary(tuple(v.lower() for v in knowledge.data.tags[1]), tuple(knowledge.domain.profile))

    def build(_):
        means = describe_texts(table, knowledge.facts, vocabulary)
        return {"arm": name, "texts": len(table)} | {key: round(float(value), 4) for key, value in means.items()}

    facts = content_key([dataclasses.astuple(knowledge.facts[user]) for user in table.user])
    depends = {"texts": fingerprint(table[["user", "text"]]), "facts": facts}
    depends["vocabulary"] = content_key([vocabulary.values, vocabulary.profile])
    return Stage("guards", name, depends, build)


def words_stage(before: tuple[str, pd.Series], after: tuple[str, pd.Series]) -> Stage:
    """`changed_words` between two policies, each a (name, texts), as a record's metrics."""

    def build(_):
        rows = changed_words(before[1], after[1], top=16)
        return {"before": before[0], "after": after[0], "texts": len(after[1]), "rows": rows.to_dict("list")}

    return Stage("words", f"{before[0]}-{after[0]}", {"texts": content_key([list(before[1]), list(after[1])])}, build)


def mean_likes(vectors: TextVectors) -> np.ndarray:
    """(U, T) unit vectors: the mean item vector of what each user's history likes, of all of it where it likes
    nothing."""
    means, config = [], vectors.knowledge.config.data
    for past in vectors.knowledge.data.cohort.history:
        items = past.item[liked(past.rating, config)]
        means.append(vectors.item_vectors[items if len(items) else past.item].mean(axis=0))
    return np.array(means) / np.linalg.norm(means, axis=1, keepdims=True)


def similarity_stage(vectors: np.ndarray, likes: np.ndarray, other: np.ndarray) -> Stage:
    """Cosines of texts' vectors (U, T) with the user's mean liked item (U, T) and with that of user `other` (U,)."""

    def build(_):
        to_user, to_another = (vectors * likes).sum(axis=1), (vectors * likes[other]).sum(axis=1)
        edges = np.linspace(min(to_user.min(), to_another.min()), max(to_user.max(), to_another.max()), 31)
        counts = {name: np.histogram(v, edges)[0].tolist() for name, v in (("own", to_user), ("another", to_another))}
        means = {"own_mean": float(to_user.mean()), "another_mean": float(to_another.mean())}
        share = {"users": len(to_user), "own_above_another": float((to_user > to_another).mean())}
        return {"edges": edges.round(6).tolist()} | counts | means | share

    return Stage("guards", "similarity", {"vectors": fingerprint(vectors, likes, other)}, build)
