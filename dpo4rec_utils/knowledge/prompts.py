"""Prompts that state the facts of a history, and templated profiles (no LLM) that repeat them.

The words are data: `domains/*.yaml`, read by data/domain.py. Knowledge prompts follow KAR (arXiv 2306.10933, section
3.2); stating counts is our measurement: titles alone leave a small model with less of a user signal.
"""

from dataclasses import asdict

import numpy as np
import pandas as pd
from jinja2 import TemplateError

from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.domain import Domain, render_words
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.facts import Facts, plain_title


def control_words(tokenizer) -> tuple[str, ...]:
    """What a tokenizer takes for control tokens wherever it stands in a text: turns, begin, end, padding, masks."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True))


def as_text(text: str, words: tuple[str, ...]) -> str:
    """Text from data in which no control word is one: a word joiner (U+2060) behind its first character, which does
    not show.

    Every engine reads prompts as strings, so the words themselves must be harmless: a title that holds "<|im_end|>"
    would end the user's turn, and what follows it would speak as the system.
    """
    for word in words:
        text = text.replace(word, f"{word[0]}\u2060{word[1:]}")
    return text


def shortened(title: str, tokenizer, limit: int) -> str:
    """The words of a title that fit into `limit` tokens, all of it if it fits, its first word at least; no word is
    cut."""
    words = title.split()
    few = words[: limit + 1]  # a word has a token at least
    while len(few) > 1 and len(tokenizer(" ".join(few), add_special_tokens=False).input_ids) > limit:
        few.pop()
    return " ".join(few).rstrip(",:;-–(") if len(few) < len(words) else title


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
    """What item templates know: title, year (None where unknown) and every attribute as a list; `tidy` as of
    `FactReader`."""
    year = None if pd.isna(item.year) else int(item.year)
    attributes = {name: [tidy(value) for value in item[name]] for name in dataset.attributes}
    return {"title": tidy(plain_title(item.title)), "year": year} | attributes


def render(tokenizer, domain: Domain, question: str, prefix: str) -> str:
    """The full prompt text, whatever begins a text included: chat template, assistant turn opened, prefix begun.

    A system turn of the domain replaces what the template says by itself about the assistant. Without a chat template
    it is the domain's completion prompt. Raises `StudyError` for a template that refuses the domain's turns.
    """
    if not tokenizer.chat_template:
        begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        words = {"system": domain.system or "", "question": question}
        return (tokenizer.bos_token if begins else "") + render_words(domain.completion, words) + "\n" + prefix
    turns = [{"role": "user", "content": question}]
    system = [] if domain.system is None else [{"role": "system", "content": domain.system}]
    try:
        return _chat(tokenizer, system + turns) + prefix
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise StudyError(f"The LLM's chat template fails: {' '.join(str(error).split())[:160]}; mend it.") from None
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

    Randomised (default): 2-4 of the top values; sometimes a decade, one to four titles, one or two avoided values;
    one of the domain's phrasings. `full` states all facts; only the phrasing is drawn. While `fits(text)` says no,
    the longest list of facts loses its last: a template lives within the LLM's own limit.
    """
    facts_of = every_fact(facts) if full else _some_facts(facts, rng)
    phrasing = domain.profile[int(rng.integers(len(domain.profile)))]
    text = render_words(phrasing, facts_of)
    while not fits(text) and any(facts_of.values()):
        longest = max(facts_of, key=lambda name: len(facts_of[name]))
        facts_of[longest] = facts_of[longest][:-1]
        text = render_words(phrasing, facts_of)
    return text


def every_fact(facts: Facts) -> dict[str, list[str]]:
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

    every = every_fact(facts)
    return {
        "values": some(every["values"], 2, 4, 1.0),
        "decades": some(every["decades"], 1, 1, 0.5),
        "titles": some(every["titles"], 1, 4, 0.85 if every["values"] else 1.0),
        "avoided": some(every["avoided"][:3], 1, 2, 0.7),
    }
