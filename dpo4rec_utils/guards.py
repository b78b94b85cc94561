"""Guards: what texts say, before and after alignment, so that a higher reward is not mistaken for a better text."""

import functools
import re

import numpy as np
import pandas as pd

from dpo4rec_utils.alignment import completion_log_probs
from dpo4rec_utils.artifacts import content_key
from dpo4rec_utils.config import as_dict
from dpo4rec_utils.lists import genre_matrix
from dpo4rec_utils.policies import Policy
from dpo4rec_utils.prompts import Facts, templates
from dpo4rec_utils.study import Study

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


def text_profile(study: Study, name: str) -> dict:
    """`describe_texts` of an arm's texts ('template' or a policy's name) for validation users, as a record's metrics."""
    users = study.cohort.of("validation")

    def build(_):
        genres = [genre.lower() for genre in genre_matrix(study.dataset)[1]]
        if name == "template":
            drawn = study.template_texts(study.config.llm.evaluation_samples, full=True)
            table = pd.DataFrame([(u, text) for u in users for text in drawn[u]], columns=["user", "text"])
        else:
            table = study.arm_texts(name)
            table = table[table.user.isin(users)]
        means = describe_texts(table, study.facts, genres)
        return {"arm": name, "texts": len(table)} | {key: round(float(value), 4) for key, value in means.items()}

    if name != "template":
        study.arm_texts(name)
    depends = {"data": as_dict(study.config.data), "seed": study.seed, "templates": content_key(templates())}
    if name == "template":
        depends["samples"] = study.config.llm.evaluation_samples
    else:
        depends |= study.texts_depend_on(study.policy(name), study.in_loop(name))
    study.store.stage("guards", name, depends, build)
    return study.store.record("guards", name)["metrics"]


def log_ratio(study: Study, policy: Policy, reference: Policy, users, limit: int = 32) -> float:
    """Mean log-ratio of policy and reference in nats per text, over one text of up to `limit` users.

    An estimate of KL(policy || reference) for texts sampled as the study does (temperature, top-p), without the end.
    """
    table = study.arm_texts(policy.name)
    table = table[(table["sample"] == 0) & table.user.isin(list(users)[:limit])]
    prompt = [study.prompts[u] for u in table.user]
    mine, theirs = (completion_log_probs(p, prompt, list(table.text)) for p in (policy, reference))
    return float(np.mean(mine - theirs))
