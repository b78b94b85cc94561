"""The evidence. The one module that reads test users' lists, once an arm and scorer.

Two scorers. *own* trains a re-ranker per arm on that arm's texts (the paper's way). *shared* trains one re-ranker per
backbone and seed on the union of every arm's texts of train users and swaps only the user's text at test time: paired by
construction. Referees are shared scorers that saw zero-shot texts and templates only and never gave a reward.
"""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd

from dpo4rec_utils import rewards
from dpo4rec_utils.artifacts import StudyError
from dpo4rec_utils.config import PROTOCOLS, as_dict, derive_seed, generator
from dpo4rec_utils.lists import SPLITS
from dpo4rec_utils.metrics import CUTOFFS, METRICS, log_likelihood, ranked_labels, user_means
from dpo4rec_utils.statistics import holm, paired_differences, t_of_mean
from dpo4rec_utils.study import Study
from dpo4rec_utils.training import load_reranker, score_lists, score_texts, train_all

TEXT_POLICIES = ("zero_shot", "warm_start", "rft", "random_pairs", "dpo_cold")


def arm_names(study: Study, protocol: str = "popularity") -> list[str]:
    """The arms of a protocol's table, in the order they are shown."""
    config, rounds = study.config.evaluation, study.config.alignment.rounds
    names = list(config.arms if protocol == "popularity" else config.uniform_arms)
    if not study.config.alignment.warm_start:
        names = [name for name in names if name != "warm_start"]
    every = [f"dpo_round_{r}" for r in range(1, rounds + 1)]
    return names + (every if protocol == "popularity" else every[-1:])


def arm_text(study: Study, arm: str) -> np.ndarray:
    """(U, S, T) user knowledge of an arm: S texts a user; zeros for 'none' and 'item'."""
    samples, width = study.config.llm.evaluation_samples, study.item_vectors.shape[1]
    if arm in ("none", "item"):
        return np.zeros((len(study.cohort.users), 1, width), np.float32)
    if arm == "template":
        return study.template_knowledge(samples, full=True)
    if arm == "title_mean":
        return title_mean(study)
    if arm == "dpo_shuffled":
        return arm_text(study, study.final.name)[shuffled_users(study)]
    return study.knowledge(study.policy(arm), many=study.in_loop(arm), samples=samples)


def arm_items(study: Study, arm: str) -> np.ndarray:
    """(I, T) item knowledge of an arm: zeros for 'none'."""
    return np.zeros_like(study.item_vectors) if arm == "none" else study.item_vectors


def title_mean(study: Study) -> np.ndarray:
    """(U, 1, T) rating-weighted mean of the history's item vectors (no LLM), weight rating - 3 with 3 counted as 0.1."""
    out = []
    for past in study.cohort.history:
        weight = past.rating.to_numpy(np.float32) - 3
        weight[weight == 0] = 0.1
        out.append(weight @ study.item_vectors[past.item] / np.abs(weight).sum())
    return np.array(out, dtype=np.float32)[:, None]


def shuffled_users(study: Study) -> np.ndarray:
    """(U,) whose text each user gets: another user of the same split, nobody their own."""
    other = np.arange(len(study.cohort.users))
    for split in SPLITS:
        users = study.cohort.of(split)
        order = generator(study.seed, "shuffle", split).permutation(users)
        other[order] = np.roll(order, 1)
    return other


def _keep_scores(task, trained, lists, texts: dict) -> dict:
    """Run in a worker: test scores (L, C) under each arm's text, and the best validation log-likelihood."""
    model = load_reranker(task, trained)
    scores = {f"scores/{arm}": score_lists(model, task, lists, text) for arm, text in texts.items()}
    return scores | {"validation": np.array(max(trained.validation)), "epoch": np.array(trained.epoch)}


def _summary(cells: dict[tuple, np.ndarray], lists) -> dict:
    """Metrics from test scores {(backbone, seed): (L, C)}: list and user means a seed, user values averaged over seeds."""
    users = np.unique(lists.user)
    seeds: list[dict] = []
    by_user: dict[str, list] = {}
    for (backbone, seed), scores in cells.items():
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


def _depends(study: Study, protocol: str, arms, **more) -> dict:
    texts = {arm: study.policy(arm).key for arm in arms if arm in TEXT_POLICIES or arm.startswith("dpo_round_")}
    if "dpo_shuffled" in arms:
        texts["dpo_shuffled"] = study.final.key
    parts = ("data", "llm", "encoder", "reranker")
    return {
        "protocol": protocol,
        "arms": list(arms),
        "policies": texts,
        "config": {part: as_dict(getattr(study.config, part)) for part in parts},
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
        finish = functools.partial(_keep_scores, lists=test, texts={arm: text})
        done = train_all(
            tasks, folder / "models", config.workers, f"own {protocol} {arm}", dict.fromkeys(tasks, finish)
        )
        summary = _summary({(b, s): done[f"{b}-{s}"][f"scores/{arm}"] for b, s in cells}, test)
        epochs = {name: int(arrays["epoch"]) for name, arrays in done.items()}
        return {"protocol": protocol, "scorer": "own", "arms": {arm: summary}, "epochs": epochs}

    study.store.stage(
        kind,
        name,
        _depends(study, protocol, [arm], seeds=config.seeds, backbones=backbones, reranker=as_dict(reranker)),
        build,
    )
    return study.store.record(kind, name)["metrics"]


def shared(study: Study, protocol: str) -> dict:
    """Metrics of all arms but 'none' with one re-ranker a backbone and seed, trained on the union of their texts."""
    config = study.config.evaluation
    arms = [arm for arm in arm_names(study, protocol) if arm != "none"]

    def build(folder):
        test = study.lists(protocol).of_users(study.cohort.of("test"))
        texts = {arm: arm_text(study, arm) for arm in arms}
        union = np.concatenate([text for arm, text in texts.items() if arm != "dpo_shuffled"], axis=1)
        cells = [(b, s) for b in config.backbones for s in range(config.shared_seeds)]
        tasks = {
            f"{b}-{s}": study.task(b, protocol, union, derive_seed(study.seed, "shared", protocol, b, s))
            for b, s in cells
        }
        finish = functools.partial(_keep_scores, lists=test, texts=texts)
        done = train_all(tasks, folder / "models", config.workers, f"shared {protocol}", dict.fromkeys(tasks, finish))
        summary = {arm: _summary({(b, s): done[f"{b}-{s}"][f"scores/{arm}"] for b, s in cells}, test) for arm in arms}
        return {"protocol": protocol, "scorer": "shared", "arms": summary}

    study.store.stage("shared", protocol, _depends(study, protocol, arms, seeds=config.shared_seeds), build)
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


def samples_table(study: Study) -> pd.DataFrame:
    """What the best of N texts gains over the mean text, chosen on half of a user's lists and read on the other half.

    From the rewards of round 1's texts, train users. Columns: samples, reward, r, gain, users.
    """
    policy, seen = study.start, study.chain(0)

    def build(_):
        merged, lists = study.rewards(policy, seen), study.lists("popularity")
        lists = lists.of_users(study.cohort.of("train", "validation"))
        rows = []
        for n in range(2, study.config.llm.train_samples + 1):
            for kind in rewards.KINDS:
                half = rewards.split_half(merged[kind][:, :n], lists, study.cohort.of("train"))
                rows.append({"samples": n, "reward": kind} | {k: half[k] for k in ("r", "gain", "users")})
        return {"rows": rows}

    study.rewards(policy, seen)
    depends = {"reward": study.store.record("reward", policy.name)["key"]}
    study.store.stage("samples", "gain", depends, build)
    return pd.DataFrame(study.store.record("samples", "gain")["metrics"]["rows"])


def evidence(study: Study) -> list[dict]:
    """The metrics of every own and shared record of this configuration's table, in order; missing ones are errors."""
    found = []
    for protocol in ("popularity", "uniform"):
        arms = arm_names(study, protocol)
        merged = {"protocol": protocol, "scorer": "own", "arms": {}}
        for arm in arms:
            merged["arms"] |= study.store.record("own", f"{protocol}-{arm}")["metrics"]["arms"]
        found += [merged, study.store.record("shared", protocol)["metrics"]]
    return found


def main_results(study: Study) -> pd.DataFrame:
    """protocol, backbone, scorer, arm, metric, k, averaging, seeds, mean, std (over seeds), from records alone."""
    rows = []
    for part in evidence(study):
        for arm, summary in part["arms"].items():
            frame = pd.DataFrame(summary["seeds"])
            for (backbone, name), cell in frame.groupby(["backbone", "metric"], sort=False):
                metric, k = name.split("@")
                for averaging in ("list", "user"):
                    values = cell[averaging]
                    spread = values.std(ddof=1) if len(values) > 1 else 0.0
                    row = (part["protocol"], backbone, part["scorer"], arm, metric, int(k), averaging)
                    rows.append((*row, len(values), values.mean(), spread))
    columns = ["protocol", "backbone", "scorer", "arm", "metric", "k", "averaging", "seeds", "mean", "std"]
    return pd.DataFrame(rows, columns=columns)


def comparisons(study: Study, arms) -> list[tuple[str, str]]:
    """(arm, baseline) pairs that the study asks about, where both arms are there."""
    last = study.final.name
    asked = [(last, b) for b in ("zero_shot", "dpo_shuffled", "random_pairs", "rft", "warm_start", "template", "item")]
    asked += [("dpo_cold", "zero_shot"), ("warm_start", "zero_shot"), ("zero_shot", "item"), ("template", "item")]
    asked += [("title_mean", "item"), ("item", "none")]
    return [(a, b) for a, b in asked if a in arms and b in arms]


def paired_table(study: Study) -> pd.DataFrame:
    """Differences paired by user, user values averaged over seeds, with bootstrap intervals and Holm-adjusted p.

    A Holm family is one protocol, scorer, metric and k: all comparisons and backbones together.
    """
    rows = []
    for part in evidence(study):
        arms = part["arms"]
        pairs = comparisons(study, arms)
        cells = [(b, m, k) for m in ("ndcg", "map") for k in CUTOFFS for b in study.config.evaluation.backbones]
        columns = [
            np.array(arms[a]["by_user"][f"{b}/{m}@{k}"]) - np.array(arms[c]["by_user"][f"{b}/{m}@{k}"])
            for b, m, k in cells
            for a, c in pairs
        ]
        rng = generator(study.seed, "bootstrap", part["protocol"], part["scorer"])
        results = paired_differences(np.stack(columns, axis=1), study.config.evaluation.bootstrap, rng)
        names = [(b, m, k, a, c) for b, m, k in cells for a, c in pairs]
        for (b, m, k, a, c), result in zip(names, results, strict=True):
            row = {"protocol": part["protocol"], "backbone": b, "scorer": part["scorer"], "arm": a, "baseline": c}
            rows.append(row | {"metric": m, "k": k} | result)
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby(["protocol", "scorer", "metric", "k"]).p.transform(lambda p: holm(p.to_numpy()))
    return table


def referees(study: Study) -> dict:
    """Rewards that scorers who never gave one assign to every policy of the loop, by split; and the reward models' claim.

    Per split and policy: user means of log-likelihood and NDCG@10, averaged over backbones and seeds. The claim of round
    r is what the reward model that made its pairs gives to the texts of policy r less those of policy r - 1.
    """
    config = study.config
    chain = study.chain(config.alignment.rounds)
    loop = [p for p in chain if p.name != "zero_shot"] if config.alignment.warm_start else chain
    depends = _depends(study, "popularity", [p.name for p in chain], reward=as_dict(config.reward))

    def build(folder):
        texts = {p.name: arm_text(study, p.name) for p in chain}
        trained_on = study.mixture([study.zero_shot])
        lists = study.lists("popularity")
        cells = [(b, s) for b in config.evaluation.backbones for s in range(config.reward.referee_seeds)]
        tasks = {
            f"{b}-{s}": study.task(b, "popularity", trained_on, derive_seed(study.seed, "referee", b, s))
            for b, s in cells
        }
        finish = functools.partial(_keep_rewards, lists=lists, texts=texts)
        done = train_all(tasks, folder / "models", config.evaluation.workers, "referees", dict.fromkeys(tasks, finish))
        out = {}
        for name in texts:
            for kind in ("log_likelihood", "ndcg"):
                mean = np.mean([arrays[f"{kind}/{name}"] for arrays in done.values()], axis=0)
                for split in SPLITS:
                    users = study.cohort.of(split)
                    value = rewards.user_rewards(mean[:, None], lists, users)[:, 0]
                    out[f"{name}/{split}/{kind}"] = value.round(6).tolist()
        return {"policies": [p.name for p in chain], "loop": [p.name for p in loop], "values": out} | _claims(
            study, loop
        )

    study.store.stage("referees", "rounds", depends, build)
    return study.store.record("referees", "rounds")["metrics"]


def _keep_rewards(task, trained, lists, texts: dict) -> dict:
    """Run in a worker: (L,) rewards of each policy's texts, averaged over the texts of a user."""
    model = load_reranker(task, trained)
    out = {}
    for name, text in texts.items():
        scores = score_texts(model, task, lists, text)
        for kind in ("log_likelihood", "ndcg"):
            out[f"{kind}/{name}"] = np.nanmean(rewards.list_rewards(scores, lists.labels, kind), axis=1)
    return out


def _claims(study: Study, loop) -> dict:
    """Per round and split, the user means of reward(policy r) - reward(policy r - 1) by the models of round r."""
    users = {split: study.cohort.of(split) for split in ("train", "validation")}
    lists = study.lists("popularity").of_users(np.concatenate(list(users.values())))
    claims = {}
    for number in range(1, len(loop)):
        parent, child = loop[number - 1], loop[number]
        folder, base, fold = study.reward_model(parent, study.chain(number - 1))
        gain, count = np.zeros(len(lists)), np.zeros(len(lists))
        for k in range(study.config.reward.folds):
            held_out = np.isin(lists.user, np.concatenate([users["train"][fold == k], users["validation"]]))
            part = lists.of_users(np.unique(lists.user[held_out]))
            for s in range(study.config.reward.seeds):
                with np.load(folder / "models" / f"fold{k}-seed{s}.npz") as arrays:
                    both = [
                        np.nanmean(
                            rewards.rescore(base, dict(arrays), part, arm_text(study, p.name))["log_likelihood"], 1
                        )
                        for p in (parent, child)
                    ]
                gain[held_out] += both[1] - both[0]
                count[held_out] += 1
        for split, of in users.items():
            value = rewards.user_rewards((gain / count)[:, None], lists, of)[:, 0]
            claims[f"{child.name}/{split}"] = value.round(6).tolist()
    return {"claims": claims}


def rounds_table(study: Study) -> pd.DataFrame:
    """round, split, reward, mean, difference_to_round_0, t, mean_tokens, distinct_texts, from records alone.

    Round 0 is the policy before the first DPO round; -1 is the zero-shot LLM where a warm start precedes it. `reward` is
    'independent_log_likelihood', 'independent_ndcg' (referees) or 'claimed_log_likelihood' (the reward models' own view,
    its differences summed over rounds; the level has no meaning across models and is left out).
    """
    metrics = study.store.record("referees", "rounds")["metrics"]
    loop, rows = metrics["loop"], []
    for name in metrics["policies"]:
        number = loop.index(name) if name in loop else -1
        texts = study.store.record("texts", name)["metrics"]
        shape = (texts["tokens"] / texts["texts"], texts["distinct"] / texts["texts"])
        for split in SPLITS:
            for kind in ("log_likelihood", "ndcg"):
                value = np.array(metrics["values"][f"{name}/{split}/{kind}"])
                change = value - np.array(metrics["values"][f"{loop[0]}/{split}/{kind}"])
                row = (number, split, f"independent_{kind}", value.mean(), change.mean(), t_of_mean(change))
                rows.append((*row, *shape))
            if number > 0 and split != "test":
                claim = sum(np.array(metrics["claims"][f"{p}/{split}"]) for p in loop[1 : number + 1])
                row = (number, split, "claimed_log_likelihood", float("nan"), claim.mean(), t_of_mean(claim))
                rows.append((*row, *shape))
    columns = ["round", "split", "reward", "mean", "difference_to_round_0", "t", "mean_tokens", "distinct_texts"]
    if not rows:
        raise StudyError("There are no rounds to tabulate; run notebook 04 first.")
    return pd.DataFrame(rows, columns=columns).sort_values(["round", "split", "reward"], ignore_index=True)
