"""Facts of a history, the prompts that state them, and templated profiles (no LLM) that repeat them.

The words are data: `domains/*.yaml`, read by data/domain.py. Knowledge prompts follow KAR (arXiv 2306.10933, section 3.2);
stating counts is our measurement: titles alone leave a small model with less of a user signal.
"""

import functools
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jinja2 import TemplateError

from dpo4rec_utils.config import Config
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.domain import Domain, render_words
from dpo4rec_utils.data.feedback import disliked, liked
from dpo4rec_utils.files import StudyError

LIMITS = {"liked": 5, "disliked": 3, "decades": 2}


@dataclass(frozen=True)
class Facts:
    """What a prompt says of a history, most frequent first: titles without year; (name, count) for values of the attribute
    and decades; `items`, the positions of the items whose titles these are. `demographics`: words about the user, for a
    template that asks for them.

    A prompt is most of what a text costs, and a tokenizer that splits numbers into digits spends seven tokens on " (1995)".
    """

    titles: tuple[str, ...]
    liked: tuple[tuple[str, int], ...]
    disliked: tuple[tuple[str, int], ...]
    decades: tuple[tuple[str, int], ...]
    items: tuple[int, ...] = ()
    demographics: tuple[str, ...] = ()

    @property
    def avoided(self) -> tuple[str, ...]:
        """The disliked values: disliked more often than liked, so none of them is among `liked`."""
        return tuple(name for name, _ in self.disliked)


def _most(counts: Counter, limit: int) -> tuple[tuple[str, int], ...]:
    """The `limit` most frequent, by name where they are equally frequent."""
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit])


class FactReader:
    """Reads the facts of histories (item, rating, timestamp) over one catalogue.

    `titles`: how many a prompt shows. `tidy` brings a title or value into the shape that prompts can hold: no control words,
    not too long.
    """

    def __init__(self, dataset: Dataset, domain: Domain, config: Config, tidy=lambda text: text):
        self.config, self.shown, attribute = config.data, config.llm.titles, domain.attribute
        tidied = functools.cache(tidy)
        self.values = [tuple(tidied(value) for value in row) for row in dataset.values(attribute)]
        self.titles = [tidied(plain_title(title)) for title in dataset.items.title]
        self.years = dataset.items.year.to_list()

    def facts(self, history: pd.DataFrame) -> Facts:
        """Facts of one user's history; raises `StudyError` if it is empty.

        Titles are the best rated, latest first. A value is disliked where it was disliked more often than liked, counted
        over the whole history, and liked elsewhere. A user who liked nothing has the best rated third taken as liked: the
        prompt must say something.
        """
        if history.empty:
            raise StudyError("An empty history has no facts; leave the user out or give one interaction.")
        liked_rows = history[liked(history.rating, self.config)]
        if liked_rows.empty:
            liked_rows = history.nlargest(max(1, len(history) // 3), "rating", keep="first")
        best = liked_rows.iloc[::-1].sort_values("rating", ascending=False, kind="stable")
        likes = self._count(liked_rows.item)
        dislikes = self._count(history.item[disliked(history.rating, self.config)])
        avoided = {value for value, count in dislikes.items() if count > likes[value]}
        years = [self.years[i] for i in liked_rows.item]
        return Facts(
            titles=tuple(self.titles[i] for i in best.item[: self.shown]),
            liked=_most(Counter({v: n for v, n in likes.items() if v not in avoided}), LIMITS["liked"]),
            disliked=_most(Counter({v: n for v, n in dislikes.items() if v in avoided}), LIMITS["disliked"]),
            decades=_most(Counter(f"{y // 10 * 10}s" for y in years if not pd.isna(y)), LIMITS["decades"]),
            items=tuple(int(i) for i in best.item[: self.shown]),
        )

    def _count(self, items) -> Counter:
        return Counter(value for item in items for value in self.values[item])


def plain_title(title: str) -> str:
    """The title, a trailing article put first: 'Net, The' becomes 'The Net'."""
    for article in (", The", ", A", ", An"):
        if title.endswith(article):
            title = f"{article[2:]} {title[: -len(article)]}"
    return title


def control_words(tokenizer) -> tuple[str, ...]:
    """What a tokenizer takes for control tokens wherever it stands in a text: turns, begin, end, padding, masks."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True))


def as_text(text: str, words: tuple[str, ...]) -> str:
    """Text from data in which no control word is one: a word joiner (U+2060) behind its first character, which does not show.

    Every engine reads prompts as strings, so the words themselves must be harmless: a title that holds "<|im_end|>" would
    end the user's turn, and what follows it would speak as the system.
    """
    for word in words:
        text = text.replace(word, f"{word[0]}\u2060{word[1:]}")
    return text


def shortened(title: str, tokenizer, limit: int) -> str:
    """The words of a title that fit into `limit` tokens, all of it if it fits, its first word at least; no word is cut."""
    words = title.split()
    while len(words) > 1 and len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) > limit:
        words.pop()
    return " ".join(words).rstrip(",:;-–(") if len(words) < len(title.split()) else title


def titled(item: pd.Series) -> str:
    """'Title (year)', or the title alone where the year is unknown."""
    title = plain_title(item.title)
    return title if pd.isna(item.year) else f"{title} ({item.year})"


def user_question(facts: Facts, domain: Domain, name: str) -> str:
    """The user message by user template `name`; `StudyError` for a template that the domain lacks."""
    return render_words(user_words(domain, name).question, asdict(facts))


def user_words(domain: Domain, name: str):
    """Question and prefix of a domain by name; `StudyError` for one that it lacks."""
    if name not in domain.user:
        raise StudyError(f"llm.prompt = {name!r} is no user template of the domain; allowed: {', '.join(domain.user)}.")
    return domain.user[name]


def item_words(item: pd.Series, dataset: Dataset, tidy=lambda text: text) -> dict:
    """What item templates know: title, year (None where unknown) and every attribute as a list; `tidy` as of `FactReader`."""
    year = None if pd.isna(item.year) else int(item.year)
    attributes = {name: [tidy(value) for value in item[name]] for name in dataset.attributes}
    return {"title": tidy(plain_title(item.title)), "year": year} | attributes


def render(tokenizer, domain: Domain, question: str, prefix: str) -> str:
    """The full prompt text, whatever begins a text included: chat template, assistant turn opened, prefix begun.

    A system turn of the domain replaces what the template says by itself about the assistant. Without a chat template it is
    the domain's completion prompt. Raises `StudyError` for a template that refuses the domain's turns.
    """
    if not tokenizer.chat_template:
        begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        words = {"system": domain.system or "", "question": question}
        return (tokenizer.bos_token if begins else "") + render_words(domain.completion, words) + "\n" + prefix
    turns = [{"role": "user", "content": question}]
    system = [] if domain.system is None else [{"role": "system", "content": domain.system}]
    try:
        return _chat(tokenizer, system + turns) + prefix
    except TemplateError as error:
        if domain.system:
            raise StudyError(
                f"The LLM's chat template refuses a system turn ({error}); put the domain's system words into its questions "
                "and set system: null."
            ) from None
        return _chat(tokenizer, turns) + prefix  # an empty system turn only silences the template's own


def _chat(tokenizer, turns: list[dict]) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def templated_profile(facts: Facts, domain: Domain, rng: np.random.Generator, fits, full: bool = False) -> str:
    """A profile written from facts that stand in the prompt, continuing the prefix; no LLM, nothing of the future.

    Randomised (default): 2-4 of the top values; sometimes a decade, one to four titles, one or two avoided values; one of
    the domain's phrasings. `full` states all facts; only the phrasing is drawn. While `fits(text)` says no, the longest
    list of facts loses its last: a template lives within the LLM's own limit.
    """
    facts_of = _all_facts(facts) if full else _some_facts(facts, rng)
    phrasing = domain.profile[int(rng.integers(len(domain.profile)))]
    text = render_words(phrasing, facts_of)
    while not fits(text) and any(facts_of.values()):
        longest = max(facts_of, key=lambda name: len(facts_of[name]))
        facts_of[longest] = facts_of[longest][:-1]
        text = render_words(phrasing, facts_of)
    return text


def _all_facts(facts: Facts) -> dict[str, list[str]]:
    """What a full profile states; of lists that are equally long the titles are shortened first."""
    values, decades = ([name for name, _ in pairs] for pairs in (facts.liked, facts.decades))
    return {"titles": list(facts.titles), "values": values, "avoided": list(facts.avoided), "decades": decades}


def _some_facts(facts: Facts, rng: np.random.Generator) -> dict[str, list[str]]:
    def some(names, low, high, chance):
        """`low` to `high` of the names, with this chance."""
        if rng.random() >= chance or not names:
            return []
        count = min(len(names), int(rng.integers(low, high + 1)))
        return [names[i] for i in sorted(rng.choice(len(names), count, replace=False))]

    every = _all_facts(facts)
    return {
        "values": some(every["values"], 2, 4, 1.0),
        "decades": some(every["decades"], 1, 1, 0.5),
        "titles": some(every["titles"], 1, 4, 0.85 if every["values"] else 1.0),
        "avoided": some(every["avoided"][:3], 1, 2, 0.7),
    }
