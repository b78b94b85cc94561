"""The evidence: test users' lists, read once an arm and scorer.

Two scorers. *own* trains a re-ranker per arm on that arm's texts (the paper's way). *shared* trains one re-ranker per
backbone and seed on the arms' texts of train users together and swaps only the user's text at test time: paired by
construction. Validation users' differences are kept beside, for the power analysis.
"""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd

from dpo4rec_utils.artifacts import content_key
from dpo4rec_utils.config import ABLATIONS, PROTOCOLS, as_dict, derive_seed, generator
from dpo4rec_utils.lists import SPLITS
from dpo4rec_utils.metrics import CUTOFFS, METRICS, log_likelihood, ranked_labels, user_means
from dpo4rec_utils.prompts import templates, user_prefix
from dpo4rec_utils.study import Study
from dpo4rec_utils.training import arm_scores, train_all

TEXT_POLICIES = ("zero_shot", "warm_start", "rft", "random_pairs", "dpo_cold")


def arm_names(study: Study, protocol: str = "popularity") -> list[str]:
    """The arms of a protocol's table, in the order they are shown; none of a protocol that no arm is asked for."""
    config, rounds = study.config.evaluation, study.config.alignment.rounds
    names = list(config.arms if protocol == "popularity" else config.uniform_arms)
    if not study.config.alignment.warm_start:
        names = [name for name in names if name != "warm_start"]
    every = [f"dpo_round_{r}" for r in range(1, rounds + 1)]
    return names + (every if protocol == "popularity" else every[-1:] if names else [])


def arm_text(study: Study, arm: str) -> np.ndarray:
    """(U, S, T) user knowledge of an arm: S texts a user; zeros for 'none' and 'item'.

    Two arms are for ablations only: 'user' (the last round's texts, to go without item text) and 'noise' (words drawn
    from all texts of the last round, as many as the user's own text has).
    """
    samples, width = study.config.llm.evaluation_samples, study.item_vectors.shape[1]
    if arm in ("none", "item"):
        return np.zeros((len(study.cohort.users), 1, width), np.float32)
    if arm == "template":
        return study.template_knowledge(samples, full=True)
    if arm == "title_mean":
        return title_mean(study)
    if arm == "user":
        return arm_text(study, study.final.name)
    if arm == "noise":
        return noise(study)
    if arm == "dpo_shuffled":
        return arm_text(study, study.final.name)[shuffled_users(study)]
    return study.knowledge(study.policy(arm), many=study.in_loop(arm), samples=samples)


def arm_items(study: Study, arm: str) -> np.ndarray:
    """(I, T) item knowledge of an arm: zeros for 'none' and 'user'."""
    return np.zeros_like(study.item_vectors) if arm in ("none", "user") else study.item_vectors


def title_mean(study: Study) -> np.ndarray:
    """(U, 1, T) rating-weighted mean of the history's item vectors (no LLM), weight rating - 3 with 3 counted as 0.1."""
    out = []
    for past in study.cohort.history:
        weight = past.rating.to_numpy(np.float32) - 3
        weight[weight == 0] = 0.1
        out.append(weight @ study.item_vectors[past.item] / np.abs(weight).sum())
    return np.array(out, dtype=np.float32)[:, None]


def noise(study: Study) -> np.ndarray:
    """(U, S, T) vectors of random words of the last round's texts, each as long as the text it stands for."""
    table = study.arm_texts(study.final.name)
    table = table[table["sample"] < study.config.llm.evaluation_samples]
    words = [text.split() for text in table.text]
    pool, rng = np.concatenate(words), generator(study.seed, "noise")
    prefix = user_prefix(study.config.llm.prompt)
    texts = [f"{prefix} {' '.join(rng.choice(pool, len(own)))}" for own in words]
    return study.encoder.encode(texts, "encode noise").reshape(len(study.cohort.users), -1, study.item_vectors.shape[1])


def shuffled_users(study: Study) -> np.ndarray:
    """(U,) whose text each user gets: another user of the same split, nobody their own."""
    other = np.arange(len(study.cohort.users))
    for split in SPLITS:
        users = study.cohort.of(split)
        order = generator(study.seed, "shuffle", split).permutation(users)
        other[order] = np.roll(order, 1)
    return other


def _validation(done: dict, cells, arm: str, lists) -> dict:
    """Validation users' NDCG@7 a backbone: (seeds, users), for recipe choices and the power analysis."""
    users, out = np.unique(lists.user), {}
    for backbone, seed in cells:
        ranked = ranked_labels(done[f"{backbone}-{seed}"][f"validation/{arm}"], lists.labels)
        value = user_means(METRICS["ndcg"](ranked, 7), lists.user, users)
        out.setdefault(backbone, []).append(value.round(6).tolist())
    return out


def _summary(done: dict, names, arm: str, lists) -> dict:
    """Metrics from test scores (L, C): list and user means a seed, user values averaged over seeds."""
    users = np.unique(lists.user)
    seeds: list[dict] = []
    by_user: dict[str, list] = {}
    for backbone, seed in names:
        scores = done[f"{backbone}-{seed}"][f"scores/{arm}"]
        ranked = ranked_labels(scores, lists.labels)
        values = {f"{m}@{k}": f(ranked, k) for m, f in METRICS.items() for k in CUTOFFS}
        values["log_likelihood@10"] = log_likelihood(scores, lists.labels)
        for name, value in values.items():
            mean = user_means(value, lists.user, users)
            by_user.setdefault(f"{backbone}/{name}", []).append(mean)
            seeds.append(
                {"backbone": backbone, "seed": seed, "metric": name, "list": value.mean(), "user": mean.mean()}
            )
    averaged = {name: np.mean(values, axis=0).round(6).tolist() for name, values in by_user.items()}
    return {"seeds": seeds, "by_user": averaged, "users": users.tolist(), "lists": len(lists)}


def depends_on(study: Study, protocol: str, arms, **more) -> dict:
    """What decides an arm's metrics: its texts, the prompt templates, lists, re-rankers and seeds, and `more`."""
    written = {arm: study.final.name if arm in ("dpo_shuffled", "user", "noise") else arm for arm in arms}
    by_policy = (*TEXT_POLICIES, *ABLATIONS)
    texts = {
        arm: study.texts_depend_on(study.policy(name), study.in_loop(name))
        for arm, name in written.items()
        if name in by_policy or name.startswith("dpo_round_")
    }
    parts = ("data", "llm", "reranker")
    return {
        "protocol": protocol,
        "arms": list(arms),
        "texts": texts,
        "templates": content_key(templates()),
        "config": {part: as_dict(getattr(study.config, part)) for part in parts},
        "encoder": study.encoder_identity,
        "backbones": study.config.evaluation.backbones,
        "seed": study.seed,
    } | more


def own(study: Study, protocol: str, arm: str, ablation: str = "", backbones=None, **change) -> dict:
    """Metrics of one arm with re-rankers of its own: every backbone and seed.

    `ablation` names a variant: `backbones` and fields of the re-ranker's configuration (`change`) differ, the texts do
    not, and the record is kept apart from the main table's.
    """
    kind, name = ("ablation", f"{ablation}-{protocol}-{arm}") if ablation else ("own", f"{protocol}-{arm}")
    config, reranker = study.config.evaluation, replace(study.config.reranker, **change)
    backbones = backbones or config.backbones

    def build(folder):
        text, test = arm_text(study, arm), study.lists(protocol).of_users(study.cohort.of("test"))
        cells = [(b, s) for b in backbones for s in range(config.seeds)]
        tasks = {}
        for b, s in cells:
            seed = derive_seed(study.seed, "own", protocol, b, s)
            tasks[f"{b}-{s}"] = replace(study.task(b, protocol, text, seed, arm_items(study, arm)), config=reranker)
        finish = functools.partial(arm_scores, lists=test, texts={arm: text})
        done = train_all(
            tasks, folder / "models", config.workers, f"own {protocol} {arm}", dict.fromkeys(tasks, finish)
        )
        summary = _summary(done, cells, arm, test)
        summary["validation"] = _validation(done, cells, arm, next(iter(tasks.values())).validation)
        return {"protocol": protocol, "scorer": "own", "arms": {arm: summary}}

    study.store.stage(
        kind,
        name,
        depends_on(study, protocol, [arm], seeds=config.seeds, backbones=backbones, reranker=as_dict(reranker)),
        build,
    )
    return study.store.record(kind, name)["metrics"]


def shared(study: Study, protocol: str) -> dict:
    """Metrics of all arms but 'none' with one re-ranker a backbone and seed, trained on the union of their texts.

    Every arm has as many texts of a user in the union, and of the rounds only the last one is in it: an arm that the
    re-rankers read more often would be known better, not be better.
    """
    config = study.config.evaluation
    arms = [arm for arm in arm_names(study, protocol) if arm != "none"]
    left_out = {"dpo_shuffled", *(f"dpo_round_{r}" for r in range(1, study.config.alignment.rounds))}
    learnt = [arm for arm in arms if arm not in left_out]

    def build(folder):
        test = study.lists(protocol).of_users(study.cohort.of("test"))
        texts = {arm: arm_text(study, arm) for arm in arms}
        place = np.arange(study.config.llm.evaluation_samples)
        union = np.concatenate([texts[arm][:, place % texts[arm].shape[1]] for arm in learnt], axis=1)
        cells = [(b, s) for b in config.backbones for s in range(config.shared_seeds)]
        tasks = {
            f"{b}-{s}": study.task(b, protocol, union, derive_seed(study.seed, "shared", protocol, b, s))
            for b, s in cells
        }
        finish = functools.partial(arm_scores, lists=test, texts=texts)
        done = train_all(tasks, folder / "models", config.workers, f"shared {protocol}", dict.fromkeys(tasks, finish))
        validation = next(iter(tasks.values())).validation
        summary = {
            arm: _summary(done, cells, arm, test) | {"validation": _validation(done, cells, arm, validation)}
            for arm in arms
        }
        return {"protocol": protocol, "scorer": "shared", "arms": summary}

    study.store.stage(
        "shared", protocol, depends_on(study, protocol, arms, seeds=config.shared_seeds, union=learnt), build
    )
    return study.store.record("shared", protocol)["metrics"]


def sanity_rankers(study: Study) -> pd.DataFrame:
    """NDCG and MAP of random, popularity and mean-rating rankers on validation lists: numbers with a known order.

    Popularity and mean rating count train users' interactions only. Columns: protocol, ranker, metric, k, mean, lists.
    """

    def build(_):
        users = set(study.cohort.users[study.cohort.of("train")])
        table = study.dataset.interactions[study.dataset.interactions.user_id.isin(users)]
        order, grouped = study.dataset.items.item_id, table.groupby("item_id").rating
        popularity = grouped.size().reindex(order, fill_value=0).to_numpy(float)
        rating = grouped.mean().reindex(order, fill_value=0).to_numpy(float)
        rng, rows = generator(study.seed, "random ranker"), []
        for protocol in PROTOCOLS:
            lists = study.lists(protocol).of_users(study.cohort.of("validation"))
            rankers = {
                "random": rng.random(lists.items.shape),
                "popularity": popularity[lists.items],
                "mean rating": rating[lists.items],
            }
            for name, scores in rankers.items():
                ranked = ranked_labels(scores, lists.labels)
                for metric, k in (("ndcg", 7), ("ndcg", 10), ("map", 7), ("map", 10)):
                    value = METRICS[metric](ranked, k).mean()
                    row = {"protocol": protocol, "ranker": name, "metric": metric, "k": k}
                    rows.append(row | {"mean": round(float(value), 6), "lists": len(lists)})
        return {"rows": rows}

    depends = {"data": as_dict(study.config.data), "seed": study.seed}
    study.store.stage("data", "sanity", depends, build)
    return pd.DataFrame(study.store.record("data", "sanity")["metrics"]["rows"])
