"""`data check`: what a profile's data are and what a run on them will take, before anything is run."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dpo4rec_utils.arms import arm
from dpo4rec_utils.config import SPLITS, Config
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.study import Study

TRIAL_USERS = 16
# Minutes of everything else for a minute of sampling: measured on the default study, both kinds of CPU (docs/results.md).
REST = 1.75


def described(config: Config) -> Iterator[str]:
    """Sentences about data, one user and cost. The trial samples texts for a few users and keeps none."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(config, Path(folder))
        yield from _tables(study)
        yield from _user(study)
        yield from _cost(study, Path(folder))


def _tables(study: Study) -> Iterator[str]:
    tables, cohort = study.data.dataset, study.data.cohort
    inter = tables.interactions
    yield (
        f"{tables.name}: {len(inter)} interactions of {inter.user_id.nunique()} users with {len(tables.items)} items, in order "
        f"of {tables.order}"
    )
    for reason, count in tables.dropped.items():
        yield f"dropped: {count} rows {reason}"
    yield from tables.notes
    counts = inter.user_id.value_counts().to_numpy()
    shown = ", ".join(f"{share} % have {int(np.percentile(counts, 100 - share))} or more" for share in (90, 50, 10))
    yield f"interactions a user: {shown}"
    sizes = ", ".join(f"{len(cohort.of(split))} {split}" for split in SPLITS)
    lists = study.data.lists("popularity")
    yield f"users with a list: {len(cohort.users)} ({sizes})"
    yield f"candidate lists: {len(lists)}, {lists.labels.sum(axis=1).mean():.2f} liked items of {lists.items.shape[1]} each"
    attributes = ", ".join(f"{name} of {sum(map(bool, tables.values(name)))} items" for name in tables.attributes)
    yield f"attributes: {attributes or 'none'}; years of {int(tables.items.year.notna().sum())} items"


def _user(study: Study) -> Iterator[str]:
    user = int(study.data.cohort.of("train")[0])
    yield f"\nprompt of one user:\n{study.knowledge.question(user)}\n{study.knowledge.prefix} ..."
    yield f"templated profile:\n{study.knowledge.prefix}{study.knowledge.template_texts(1, full=True)[user][0]}"
    yield f"text of one item:\n{study.knowledge.item_text(int(study.data.cohort.history[user].item.iloc[0]))}"


def _cost(study: Study, folder: Path) -> Iterator[str]:
    """Texts and tokens of a whole run, and minutes by a trial: sampling as measured now, the rest in proportion."""
    config, users = study.config, len(study.data.cohort.users)
    few, many = config.llm.evaluation_samples, config.llm.train_samples
    paired = min(config.alignment.pair_users or users, len(study.data.cohort.of("train")))
    controls = sum(arm(name).control for name in config.evaluation.arms)
    loop = 1 + config.alignment.warm_start + config.alignment.rounds
    variants = len(config.evaluation.ablations) * (1 - config.data.train_share)
    texts = round(
        config.evaluation.folds * (users * few * (loop + controls + variants) + paired * (many - few) * (loop - 1))
    )
    chosen = [study.knowledge.prompts()[i] for i in study.data.cohort.of("validation")[:TRIAL_USERS]]
    sampler = open_sampler(study.zero_shot, config.llm, folder)
    sampler.sample(chosen[:2], [1, 1], [0, 1])  # what the first call compiles is no part of the speed
    start = time.perf_counter()
    answers = sampler.sample(chosen, [few] * len(chosen), list(range(len(chosen))))
    seconds = (time.perf_counter() - start) / sum(map(len, answers))
    tokens = np.mean([completion.tokens for answer in answers for completion in answer])
    minutes = texts * seconds / 60
    yield (
        f"\na run: {texts} texts of about {tokens:.0f} tokens, {minutes:.0f} minutes of sampling on this machine (a trial of "
        f"{len(chosen)} users), {minutes * (1 + REST):.0f} in all; 5 GiB of memory for the default LLM, 5 GiB of disk"
    )
