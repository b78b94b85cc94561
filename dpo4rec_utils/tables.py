"""The tables of the evidence, from the records of `own` and `shared`: main results, paired differences, power."""

import functools

import numpy as np
import pandas as pd

from dpo4rec_utils.config import PROTOCOLS, generator
from dpo4rec_utils.evaluation import arm_names, own, shared
from dpo4rec_utils.metrics import CUTOFFS
from dpo4rec_utils.statistics import detectable_difference, holm, paired_differences
from dpo4rec_utils.study import Study


@functools.lru_cache(maxsize=1)
def evidence(study: Study) -> list[dict]:
    """The metrics of every own and shared record of this configuration, folds pooled, in order; what is missing is made."""
    folds = [fold_evidence(fold) for fold in study.folds]
    return folds[0] if len(folds) == 1 else [_pooled(parts) for parts in zip(*folds, strict=True)]


def fold_evidence(study: Study) -> list[dict]:
    """The metrics of every own and shared record of one fold: protocol, scorer, arms."""
    found = []
    for protocol in PROTOCOLS:
        if arms := arm_names(study, protocol):
            merged = {"protocol": protocol, "scorer": "own", "arms": {}}
            for arm in arms:
                merged["arms"] |= own(study, protocol, arm)["arms"]
            found += [merged, shared(study, protocol)]
    return found


def _pooled(parts: tuple[dict, ...]) -> dict:
    """One protocol's and scorer's metrics of several folds as if their test users were one group.

    Test users differ between folds, so values by user are put behind each other, and a seed's mean is that of all lists
    or users, over its trainings in all folds: a deviation over seeds is of such means, smaller than that of one training.
    Validation users are the same: they stand here once a fold, as read by that fold's policies and re-rankers.
    """
    arms = {}
    for arm in parts[0]["arms"]:
        mine = [part["arms"][arm] for part in parts]
        frame = pd.concat(
            [pd.DataFrame(one["seeds"]).assign(lists=one["lists"], users=len(one["users"])) for one in mine]
        )
        frame = frame.assign(list=frame.list * frame.lists, user=frame.user * frame.users)
        seeds = frame.groupby(["backbone", "seed", "metric"], sort=False).sum().reset_index()
        seeds = seeds.assign(list=seeds.list / seeds.lists, user=seeds.user / seeds.users)
        arms[arm] = {
            "seeds": seeds.drop(columns=["lists", "users"]).to_dict("records"),
            "by_user": {name: sum((one["by_user"][name] for one in mine), []) for name in mine[0]["by_user"]},
            "users": sum((one["users"] for one in mine), []),
            "lists": sum(one["lists"] for one in mine),
            "validation": {
                b: np.concatenate([one["validation"][b] for one in mine], axis=1).tolist()
                for b in mine[0]["validation"]
            },
        }
    return {"protocol": parts[0]["protocol"], "scorer": parts[0]["scorer"], "arms": arms}


def main_results(study: Study, parts: list[dict] | None = None) -> pd.DataFrame:
    """protocol, backbone, scorer, arm, metric, k, averaging, seeds, mean, std (over seeds), from records alone.

    Of all folds, or of `parts`: what `fold_evidence` returns.
    """
    rows = []
    for part in parts or evidence(study):
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
    asked = [
        (last, b)
        for b in ("zero_shot", "dpo_shuffled", "random_pairs", "rft", "warm_start", "template", "title_mean", "item")
    ]
    asked += [("dpo_cold", "zero_shot"), ("warm_start", "zero_shot"), ("zero_shot", "item"), ("template", "item")]
    asked += [("title_mean", "item"), ("item", "none")]
    return [(a, b) for a, b in asked if a in arms and b in arms]


def _seed_means(summary: dict, backbone: str, metric: str) -> np.ndarray:
    """(S,) mean over users of a metric with each training seed, in the order of seeds."""
    mine = (row for row in summary["seeds"] if (row["backbone"], row["metric"]) == (backbone, metric))
    return np.array([row["user"] for row in sorted(mine, key=lambda row: row["seed"])])


def paired_table(study: Study) -> pd.DataFrame:
    """Differences paired by user, user values averaged over seeds, with Holm-adjusted p.

    Intervals and p-values are of a bootstrap over users and training seeds. A Holm family is one protocol, scorer, metric
    and k: all comparisons and backbones together.
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
        seeds = [
            _seed_means(arms[a], b, f"{m}@{k}") - _seed_means(arms[c], b, f"{m}@{k}")
            for b, m, k in cells
            for a, c in pairs
        ]
        rng = generator(study.seed, "bootstrap", part["protocol"], part["scorer"])
        draws = study.config.evaluation.bootstrap
        results = paired_differences(np.stack(columns, axis=1), draws, rng, np.stack(seeds, axis=1))
        names = [(b, m, k, a, c) for b, m, k in cells for a, c in pairs]
        for (b, m, k, a, c), result in zip(names, results, strict=True):
            row = {"protocol": part["protocol"], "backbone": b, "scorer": part["scorer"], "arm": a, "baseline": c}
            rows.append(row | {"metric": m, "k": k} | result)
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby(["protocol", "scorer", "metric", "k"]).p.transform(lambda p: holm(p.to_numpy()))
    return table


def power_table(study: Study, users: int, sizes: tuple[int, ...]) -> pd.DataFrame:
    """How large a difference in NDCG@7 the study can see, simulated from validation users under popularity negatives.

    For the last round against each baseline with `users` users, and against zero-shot in studies of other `sizes`: `alone`
    at alpha 0.05, `holm` at 0.05 over the comparisons of the Holm family (the strictest step), both with power 0.8.
    Backbone 'mean' is the users' mean over backbones, as in `headline`; its family is the comparisons alone. For policies
    as they were trained: training the LLM again is in no spread, and validation users count once a fold. Columns:
    scorer, backbone, baseline, seeds, validation_users, users, alone, holm.
    """
    rows, last, backbones = [], study.final.name, study.config.evaluation.backbones
    for part in evidence(study):
        if part["protocol"] != "popularity":
            continue
        arms = part["arms"]
        asked = comparisons(study, arms)
        for baseline in (b for a, b in asked if a == last):
            change = {b: np.subtract(*(arms[arm]["validation"][b] for arm in (last, baseline))) for b in backbones}
            change["mean"] = np.mean(list(change.values()), axis=0)
            for backbone, values in change.items():
                family = len(asked) * (1 if backbone == "mean" else len(backbones))
                row = {"scorer": part["scorer"], "backbone": backbone, "baseline": baseline}
                row |= {"seeds": len(values), "validation_users": values.shape[1] // len(study.folds)}
                for size in (users, *(sizes if baseline == "zero_shot" else ())):
                    rng = generator(study.seed, "power", part["scorer"], backbone, baseline, size)
                    alone, strict = detectable_difference(values, size, rng, (0.05, 0.05 / family))
                    rows.append(row | {"users": size, "alone": alone, "holm": strict})
    return pd.DataFrame(rows)


def _mean_difference(study: Study, arms: dict, arm: str, baseline: str, metric: str, rng) -> dict:
    """`paired_differences` of the users' mean over backbones (seeds averaged): users, difference, ci_low, ci_high, p."""
    backbones, draws = study.config.evaluation.backbones, study.config.evaluation.bootstrap
    by_user = {a: np.mean([arms[a]["by_user"][f"{b}/{metric}"] for b in backbones], axis=0) for a in (arm, baseline)}
    by_seed = {a: np.mean([_seed_means(arms[a], b, metric) for b in backbones], axis=0) for a in (arm, baseline)}
    change, seeds = by_user[arm] - by_user[baseline], by_seed[arm] - by_seed[baseline]
    return paired_differences(change[:, None], draws, rng, seeds[:, None])[0]


def fold_table(study: Study, metric: str = "ndcg", k: int = 7) -> pd.DataFrame:
    """The last round against each baseline fold by fold, popularity negatives: scorer, baseline, fold, users, difference,
    ci_low, ci_high.

    Of the users' mean over backbones, as in `headline`. Each fold has other test users, and an LLM, reward models and
    re-rankers of its own; any two folds share half of their train users (with the default shares) and all seeds.
    """
    rows, last = [], study.final.name
    for number, fold in enumerate(study.folds):
        for part in (p for p in fold_evidence(fold) if p["protocol"] == "popularity"):
            rng = generator(study.seed, "folds", part["scorer"], number)
            for baseline in (b for a, b in comparisons(study, part["arms"]) if a == last):
                result = _mean_difference(study, part["arms"], last, baseline, f"{metric}@{k}", rng)
                rows.append({"scorer": part["scorer"], "baseline": baseline, "fold": f"fold {number}"} | result)
    return pd.DataFrame(rows).drop(columns="p")


def headline(study: Study, paired: pd.DataFrame, power: pd.DataFrame, metric: str = "ndcg", k: int = 7) -> pd.DataFrame:
    """The last round against each baseline in a line: protocol, scorer, baseline, users, difference, ci_low, ci_high,
    significant, seen_from.

    Users' values are averaged over seeds and backbones before they are subtracted; `significant` counts the backbones
    whose own difference in `paired` is positive with Holm p < 0.05; `seen_from` is what `power` finds detectable for that
    mean in one test (popularity negatives, else missing).
    """
    rows, last = [], study.final.name
    for part in evidence(study):
        arms = part["arms"]
        rng = generator(study.seed, "headline", part["protocol"], part["scorer"])
        for _, baseline in (pair for pair in comparisons(study, arms) if pair[0] == last):
            result = _mean_difference(study, arms, last, baseline, f"{metric}@{k}", rng)
            key = {"protocol": part["protocol"], "scorer": part["scorer"], "arm": last, "baseline": baseline}
            mine = paired[(paired[[*key, "metric", "k"]] == pd.Series(key | {"metric": metric, "k": k})).all(axis=1)]
            count = int(((mine.p_holm < 0.05) & (mine.difference > 0)).sum())
            row = key | {name: result[name] for name in ("users", "difference", "ci_low", "ci_high")}
            rows.append(row | {"significant": f"{count} of {len(mine)}"})
    asked = power[(power.backbone == "mean") & (power.users == rows[0]["users"])].assign(protocol="popularity")
    seen = asked[["protocol", "scorer", "baseline", "alone"]].rename(columns={"alone": "seen_from"})
    return pd.DataFrame(rows).merge(seen, how="left")
