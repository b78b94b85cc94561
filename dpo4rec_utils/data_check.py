"""`data check`: what a profile's data are and what a run on them will take, before anything is run."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dpo4rec_utils.config import SPLITS, Config, as_dict
from dpo4rec_utils.cost import cost_sentences
from dpo4rec_utils.data.domain import render_words
from dpo4rec_utils.knowledge.prompts import every_fact
from dpo4rec_utils.store import Store
from dpo4rec_utils.study import Study


def described(config: Config) -> Iterator[str]:
    """Sentences about data, one user and cost. The trial samples texts for a few users and keeps none."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(config, Store(Path(folder), as_dict(config)))
        yield from _tables(study)
        yield from _user(study)
        yield _templates(study)
        yield "\n" + "\n".join(cost_sentences(study))


def _tables(study: Study) -> Iterator[str]:
    tables, cohort = study.data.dataset, study.data.cohort
    inter = tables.interactions
    order = "in an arbitrary order" if tables.order == "arbitrary" else f"ordered by {tables.order}"
    yield f"{tables.name}: {len(inter)} interactions of {inter.user_id.nunique()} users with {len(tables.items)} items, {order}"
    for reason, count in tables.dropped.items():
        yield f"dropped: {count} rows {reason}"
    yield from tables.notes
    counts = inter.user_id.value_counts().to_numpy()
    quantiles = ", ".join(f"{share} % have {int(np.percentile(counts, 100 - share))} or more" for share in (90, 50, 10))
    yield f"interactions a user: {quantiles}"
    sizes = ", ".join(f"{len(cohort.of(split))} {split}" for split in SPLITS)
    lists = study.data.lists("popularity")
    limit = study.config.data.max_users
    limited = f", data.max_users = {limit}" if limit else ""
    yield f"users of the study: {len(cohort.users)} ({sizes}), those with enough interactions for a list to rank{limited}"
    yield f"lists to rank: {len(lists)}, {lists.labels.sum(axis=1).mean():.2f} liked items of {lists.items.shape[1]} each"
    attributes = ", ".join(f"{name} of {sum(map(bool, tables.values(name)))} items" for name in tables.attributes)
    yield f"attributes: {attributes or 'no column is named'}; years: of {int(tables.items.year.notna().sum())} items"
    for name in tables.attributes:
        frequent = Counter(value for values in tables.values(name) for value in values)
        few = ", ".join(f"{value} ({count})" for value, count in frequent.most_common(5))
        yield f"{name}: {len(frequent)} values, the most frequent {few or 'none'}"
    counted = study.data.domain.attribute
    if counted not in tables.attributes:
        reason = f"it counts {counted!r}, which data.columns.attributes does not name" if counted else "it names none"
        yield f"no attribute is counted as liked or disliked: domain {study.config.data.domain}, {reason}"


MOST_RENDERED = 500  # users and items that every template is written for


def _templates(study: Study) -> str:
    """Every template of the domain, written for real users and items; `StudyError` for one that cannot be."""
    knowledge, domain = study.knowledge, study.data.domain
    users, items = knowledge.facts[:MOST_RENDERED], range(min(MOST_RENDERED, len(study.data.dataset.items)))
    for name in domain.user:
        for facts in users:
            knowledge.prompt(facts, name)
    for facts in users:
        for phrasing in domain.profile:
            render_words(phrasing, every_fact(facts))
    for item in items:
        knowledge.item_text(item)
        knowledge.item_question(item)
    return f"templates: all of the domain can be written for {len(users)} users and {len(items)} items"


def _user(study: Study) -> Iterator[str]:
    user = int(study.data.cohort.of("train")[0])
    yield f"\nprompt of one user:\n{study.knowledge.question(user)}\n{study.knowledge.prefix} ..."
    yield f"templated profile:\n{study.knowledge.prefix}{study.knowledge.template_texts(1, full=True)[user][0]}"
    yield f"text of one item:\n{study.knowledge.item_text(int(study.data.cohort.history[user].item.iloc[0]))}"
