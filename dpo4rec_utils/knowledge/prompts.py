"""Facts of a history, the prompts that state them, and templated profiles (no LLM) that repeat them.

The templates are data: `domains/movies.yaml`. Knowledge prompts follow KAR (arXiv 2306.10933, section 3.2); stating
counts is our measurement: titles alone leave a small model with less of a user signal.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from dpo4rec_utils.config import DataConfig
from dpo4rec_utils.files import StudyError

TEMPLATES = Path(__file__).parent / "domains" / "movies.yaml"
LIMITS = {"titles": 5, "liked": 5, "disliked": 3, "decades": 2}


@cache
def templates() -> dict:
    """The prompt templates, as read from YAML."""
    return yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Facts:
    """What a history says, most frequent first: titles without year; (name, count) for genres and decades.

    No more than a full templated profile states: the prompt is most of what a text costs, and a tokenizer that splits
    numbers into digits spends seven tokens on " (1995)".
    """

    titles: tuple[str, ...]
    liked: tuple[tuple[str, int], ...]
    disliked: tuple[tuple[str, int], ...]
    decades: tuple[tuple[str, int], ...]

    @property
    def avoided(self) -> tuple[str, ...]:
        """The disliked genres: disliked more often than liked, so none of them is among `liked`."""
        return tuple(name for name, _ in self.disliked)


def _most(counts: Counter, limit: int) -> tuple[tuple[str, int], ...]:
    """The `limit` most frequent, by name where they are equally frequent."""
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit])


def _genres(items: pd.DataFrame) -> Counter:
    return Counter(genre.lower() for row in items.genres for genre in row)


def history_facts(history: pd.DataFrame, items: pd.DataFrame, config: DataConfig) -> Facts:
    """Facts of one user's history (item, rating, timestamp); raises `StudyError` if it is empty.

    Liked is rating >= like_threshold, disliked rating <= dislike_threshold; titles are the best rated, latest first. A genre
    is disliked where it was disliked more often than liked, counted over the whole history, and liked elsewhere. A user who
    liked nothing has the best rated third taken as liked: the prompt must say something.
    """
    if history.empty:
        raise StudyError("An empty history has no facts; leave the user out or give one interaction.")
    liked = history[history.rating >= config.like_threshold]
    if liked.empty:
        liked = history.nlargest(max(1, len(history) // 3), "rating", keep="first")
    best = liked.iloc[::-1].sort_values("rating", ascending=False, kind="stable")
    table = items.iloc[liked.item]
    likes, dislikes = _genres(table), _genres(items.iloc[history[history.rating <= config.dislike_threshold].item])
    avoided = {genre for genre, count in dislikes.items() if count > likes[genre]}
    return Facts(
        titles=tuple(plain_title(items.iloc[i]) for i in best.item[: LIMITS["titles"]]),
        liked=_most(Counter({genre: n for genre, n in likes.items() if genre not in avoided}), LIMITS["liked"]),
        disliked=_most(Counter({genre: n for genre, n in dislikes.items() if genre in avoided}), LIMITS["disliked"]),
        decades=_most(Counter(f"{year // 10 * 10}s" for year in table.year.dropna()), LIMITS["decades"]),
    )


def plain_title(item: pd.Series) -> str:
    """The title, a trailing article put first: 'Net, The' becomes 'The Net'."""
    title = item.title
    for article in (", The", ", A", ", An"):
        if title.endswith(article):
            title = f"{article[2:]} {title[: -len(article)]}"
    return title


def titled(item: pd.Series) -> str:
    """'Title (year)', or the title alone where the year is unknown."""
    return plain_title(item) if pd.isna(item.year) else f"{plain_title(item)} ({item.year})"


def user_question(facts: Facts, name: str) -> str:
    """The user message of prompt template `name`: one line a fact, then the question."""
    template = templates()["user"][name]
    shown = {
        "titles": "; ".join(facts.titles),
        "liked": ", ".join(f"{g} {n}" for g, n in facts.liked),
        "disliked": ", ".join(f"{g} {n}" for g, n in facts.disliked),
        "decades": ", ".join(f"{d} {n}" for d, n in facts.decades),
    }
    lines = [line.format(**shown) for fact, line in template["lines"].items() if shown[fact]]
    return "\n".join([*lines, template["question"]])


def user_prefix(name: str) -> str:
    """How the assistant's answer starts."""
    return templates()["user"][name]["prefix"]


def item_question(item: pd.Series) -> str:
    """The user message that asks for factual knowledge of an item."""
    return templates()["item"]["question"].format(**_item_fields(item))


def item_facts(item: pd.Series) -> str:
    """The item's text without an LLM: title, year, genres."""
    return templates()["item"]["facts"].format(**_item_fields(item))


def _item_fields(item: pd.Series) -> dict:
    genres = ", ".join(g.lower() for g in item.genres) or "unclassified"
    return {"title": plain_title(item), "year": "year unknown" if pd.isna(item.year) else item.year, "genres": genres}


def render(tokenizer, question: str, prefix: str) -> str:
    """The full prompt text: chat template, assistant turn opened, prefix begun.

    The `system` template, where it is not null, replaces what the chat template says by itself about the assistant.
    """
    system = templates()["system"]
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": question})
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + prefix


def _listed(names) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def templated_profile(facts: Facts, rng: np.random.Generator, full: bool = False) -> str:
    """A profile written from facts that stand in the prompt, continuing the prefix; no LLM, nothing of the future.

    Randomised (default): 2-4 of the top genres; sometimes a decade, one or two titles, one or two avoided genres; one of
    five phrasings. Short enough for the sampling limit, so that a policy trained on it learns to end its sentence.
    `full` states the five top genres, two decades, three titles and all avoided genres; only the phrasing is drawn.
    """
    parts = templates()["profile"]

    def some(names, low, high, most, chance):
        """All of the first `most` names if `full`, else `low` to `high` of the first `high` + 1, with this chance."""
        if full:
            return list(names)[:most]
        if rng.random() >= chance:
            return []
        pool = list(names)[: high + 1]
        count = min(len(pool), int(rng.integers(low, high + 1)))
        return [pool[i] for i in sorted(rng.choice(len(pool), count, replace=False))] if pool else []

    genres = some([g for g, _ in facts.liked], 2, 4, 5, 1.0) or ["many kinds of"]
    decades = some([d for d, _ in facts.decades], 1, 1, 2, 0.5)
    titles = some(facts.titles, 1, 2, 3, 0.7)
    avoided = some(facts.avoided, 1, 2, 4, 0.7)
    phrasing = parts["phrasings"][int(rng.integers(len(parts["phrasings"])))]
    return phrasing.format(
        genres=_listed(genres),
        decades=parts["decades"].format(decades=_listed(decades)) if decades else "",
        titles=parts["titles"].format(titles=_listed(titles)) if titles else "",
        avoided=parts["avoided"].format(avoided=_listed(avoided)) if avoided else "",
    )
