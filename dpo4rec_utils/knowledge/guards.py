"""Guards: what texts say, before and after alignment, so that a higher reward is not mistaken for a better text."""

import dataclasses
import functools
import re

import numpy as np
import pandas as pd

from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.prompts import Facts, templates
from dpo4rec_utils.store import Stage

_NOT = re.compile(r"\b(?:but not|not|avoids?|avoiding|dislikes?|except|without|less)\b.*")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower())


@functools.cache
def _phrasings() -> tuple[re.Pattern, ...]:
    """The templated profiles' sentences as patterns, their facts left open."""
    parts = templates()["profile"]

    def optional(name):
        return "(?:" + re.escape(parts[name]).replace(re.escape("{" + name + "}"), ".+") + ")?"

    patterns = []
    for phrasing in parts["phrasings"]:
        pattern = re.escape(phrasing).replace(re.escape("{genres}"), ".+")
        for name in ("decades", "titles", "avoided"):
            pattern = pattern.replace(re.escape("{" + name + "}"), optional(name))
        patterns.append(re.compile(pattern))
    return tuple(patterns)


def describe_text(text: str, facts: Facts, genres: list[str]) -> dict:
    """Facts of one text about one user, each 0 or 1 except `words` and `copied`.

    genre: names any genre; decade: names one of the history's decades; title: names a listed title; avoided: names a
    genre the user dislikes more than likes after a negation; liked_wrong: names such a genre without one (the claim is
    the opposite of the history; NaN where the user avoids nothing); hedging: names neither genre nor title; mimic: is a
    sentence of the templated profiles with other facts; copied: share of the words that stand among the prompt's facts.
    """
    lower = text.lower()
    negated = " ".join(_NOT.findall(lower))
    plain = _NOT.sub("", lower)
    genre = any(re.search(rf"\b{re.escape(g)}\b", lower) for g in genres)
    title = any(re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", lower) for name in facts.titles)
    avoided = facts.avoided
    stated = (*facts.titles, *(name for pairs in (facts.liked, facts.disliked, facts.decades) for name, _ in pairs))
    known = {word for fact in stated for word in _words(fact)}
    return {
        "words": len(_words(text)),
        "genre": float(genre),
        "decade": float(any(d in lower for d, _ in facts.decades)),
        "title": float(title),
        "avoided": float(any(g in negated for g in avoided)) if avoided else np.nan,
        "liked_wrong": float(any(re.search(rf"\b{re.escape(g)}\b", plain) for g in avoided)) if avoided else np.nan,
        "hedging": float(not genre and not title),
        "mimic": float(any(pattern.fullmatch(text) for pattern in _phrasings())),
        "copied": float(np.mean([word in known for word in _words(text)] or [0])),
    }


def describe_texts(table: pd.DataFrame, facts: list[Facts], genres: list[str]) -> pd.Series:
    """Means of `describe_text` over texts (user, text), and `distinct_texts` and `distinct_bigrams` in [0, 1]."""
    rows = [describe_text(text, facts[user], genres) for user, text in zip(table.user, table.text, strict=True)]
    bigrams = [pair for text in table.text for words in [_words(text)] for pair in zip(words, words[1:], strict=False)]
    means = pd.DataFrame(rows).mean()
    means["distinct_texts"] = table.text.nunique() / max(1, len(table))
    means["distinct_bigrams"] = len(set(bigrams)) / max(1, len(bigrams))
    return means


def changed_words(before: pd.Series, after: pd.Series, top: int = 12) -> pd.DataFrame:
    """Words whose share of texts changed most: word, before, after, change (shares in [0, 1])."""
    share = {}
    for name, texts in (("before", before), ("after", after)):
        counts = pd.Series([word for text in texts for word in set(_words(text))]).value_counts()
        share[name] = counts / len(texts)
    table = pd.DataFrame(share).fillna(0)
    table["change"] = table.after - table.before
    order = table.change.abs().sort_values(ascending=False, kind="stable").index[:top]
    return table.loc[order].sort_values("change").rename_axis("word").reset_index()


def guards_stage(knowledge: Knowledge, name: str, table: pd.DataFrame) -> Stage:
    """`describe_texts` of the texts (user, text) of an arm, as a record's metrics."""

    genres = [genre.lower() for genre in knowledge.data.genres[1]]

    def build(_):
        means = describe_texts(table, knowledge.facts, genres)
        return {"arm": name, "texts": len(table)} | {key: round(float(value), 4) for key, value in means.items()}

    facts = content_key([dataclasses.astuple(knowledge.facts[user]) for user in table.user])
    depends = {
        "texts": fingerprint(table[["user", "text"]]),
        "facts": facts,
        "templates": content_key(templates()),
        "genres": genres,
    }
    return Stage("guards", name, depends, build)


def words_stage(before: tuple[str, pd.Series], after: tuple[str, pd.Series]) -> Stage:
    """`changed_words` between two policies, each a (name, texts), as a record's metrics."""

    def build(_):
        rows = changed_words(before[1], after[1], top=16)
        return {"before": before[0], "after": after[0], "texts": len(after[1]), "rows": rows.to_dict("list")}

    return Stage("words", f"{before[0]}-{after[0]}", {"texts": content_key([list(before[1]), list(after[1])])}, build)


def mean_likes(knowledge: Knowledge) -> np.ndarray:
    """(U, T) unit vectors: the mean item vector of what each user's history likes, of all of it where it likes nothing."""
    threshold, means = knowledge.config.data.like_threshold, []
    for past in knowledge.data.cohort.history:
        liked = past.item[past.rating >= threshold]
        means.append(knowledge.item_vectors[liked if len(liked) else past.item].mean(axis=0))
    return np.array(means) / np.linalg.norm(means, axis=1, keepdims=True)


def similarity_stage(texts: np.ndarray, likes: np.ndarray, other: np.ndarray) -> Stage:
    """Cosines of texts (U, T) with their own user's mean liked item (U, T) and with that of user `other` (U,)."""

    def build(_):
        own, another = (texts * likes).sum(axis=1), (texts * likes[other]).sum(axis=1)
        edges = np.linspace(min(own.min(), another.min()), max(own.max(), another.max()), 31)
        counts = {name: np.histogram(v, edges)[0].tolist() for name, v in (("own", own), ("another", another))}
        means = {"own_mean": float(own.mean()), "another_mean": float(another.mean())}
        share = {"users": len(own), "own_above_another": float((own > another).mean())}
        return {"edges": edges.round(6).tolist()} | counts | means | share

    return Stage("guards", "similarity", {"vectors": fingerprint(texts, likes, other)}, build)
