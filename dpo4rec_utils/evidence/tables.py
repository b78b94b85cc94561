"""The main tables, from the records of own and shared scorers: results, paired differences, power, breakdown."""

import functools
import re

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import LENGTH, REPEATED, REPEATS, comparisons, cut_arms, repeat_name, round_name, table_arms
from dpo4rec_utils.config import PROTOCOLS
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import detectable_difference, holm, paired_differences
from dpo4rec_utils.files import NotAskedError
from dpo4rec_utils.registries import BACKBONES
from dpo4rec_utils.seeds import generator


@functools.lru_cache(maxsize=4)
def scored(records: Records) -> list[dict]:
    """Protocol, scorer and the metrics of every arm: own and shared of each protocol, in order."""
    parts, config = [], records.config
    for protocol in PROTOCOLS:
        if names := table_arms(config["evaluation"], config["alignment"], protocol):
            arms = {}
            for name in names:
                arms |= _arms(records, "own", f"{protocol}-{name}")
            parts.append({"protocol": protocol, "scorer": "own", "arms": arms})
            parts.append({"protocol": protocol, "scorer": "shared", "arms": _arms(records, "shared", protocol)})
    return parts


def user_mean(records: Records, arm: str) -> float:
    """NDCG@7 of an arm: own scorers, popularity negatives, mean over test users and backbones that do not read the
    history."""
    (part,) = [part for part in scored(records) if (part["protocol"], part["scorer"]) == ("popularity", "own")]
    by_user = part["arms"][arm]["by_user"]
    return float(np.mean([by_user[f"{backbone}/ndcg@7"].mean() for backbone in backbone_groups(records)["mean"]]))


def repeats(records: Records) -> pd.DataFrame:
    """Noise that is not of users: NDCG@7 of round 1 when its texts are drawn again, and when it is trained again.

    Own scorers, popularity negatives, mean over users, seeds and backbones that do not read the history. Columns:
    repeated, label, times (round 1 itself counts), mean, std, lowest, highest. Raises `NotAskedError` without repeats.
    """
    numbers = range(1, records.config["evaluation"].get("repeats", 0) + 1)
    if not numbers:
        raise NotAskedError(f"{records.profile} repeats no round (evaluation.repeats).")
    rows, first = [], _mean_ndcg(records, "own", f"popularity-{round_name(1)}", round_name(1))
    for kind, words in REPEATS.items():
        names = [repeat_name(kind, number) for number in numbers]
        values = [first, *(_mean_ndcg(records, "ablation", f"{REPEATED}-popularity-{name}", name) for name in names)]
        row = {"repeated": kind, "label": words, "times": len(values), "mean": np.mean(values)}
        rows.append(row | {"std": np.std(values, ddof=1), "lowest": min(values), "highest": max(values)})
    return pd.DataFrame(rows)


def _mean_ndcg(records: Records, kind: str, name: str, arm: str) -> float:
    means = records.metrics(kind, name)["arms"][arm]["means"]
    return float(np.mean([means[f"{backbone}/ndcg@7"]["user"] for backbone in backbone_groups(records)["mean"]]))


def _arms(records: Records, kind: str, name: str) -> dict[str, dict]:
    """The arms of a record: `means` and `lists` as it holds them, `users`, `by_user` and `validation` from its table.

    by_user: 'backbone/metric' -> (users,), seeds averaged; validation: backbone -> (seeds, validation users) of NDCG@7.
    """
    arms, values = records.metrics(kind, name)["arms"], records.values(kind, name)
    result = {arm: summary | {"by_user": {}, "validation": {}} for arm, summary in arms.items()}
    for (arm, backbone, metric, split), part in values.groupby(["arm", "backbone", "metric", "split"], observed=True):
        by_seed = part.value.to_numpy(float).reshape(part.seed.nunique(), -1)
        if split == "test":
            result[arm]["by_user"][f"{backbone}/{metric}"] = by_seed.mean(axis=0)
            result[arm]["users"] = part.user[: by_seed.shape[1]].tolist()
        else:
            result[arm]["validation"][backbone] = by_seed
    return result


def main_results(records: Records) -> pd.DataFrame:
    """protocol, backbone, scorer, arm, metric, k, averaging, seeds, mean, std (over seeds)."""
    rows = []
    for part in scored(records):
        for arm, summary in part["arms"].items():
            for cell, means in summary["means"].items():
                backbone, metric, k = re.split("[/@]", cell)
                for averaging, values in means.items():
                    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                    row = (part["protocol"], backbone, part["scorer"], arm, metric, int(k), averaging)
                    rows.append((*row, len(values), np.mean(values), spread))
    columns = ["protocol", "backbone", "scorer", "arm", "metric", "k", "averaging", "seeds", "mean", "std"]
    return pd.DataFrame(rows, columns=columns)


def quotable(records: Records) -> pd.DataFrame:
    """One table a reader can quote: NDCG@7, mean over lists, arm by backbone, 'mean ± std over seeds', for each
    protocol and scorer."""
    results = main_results(records)
    part = results[(results.metric == "ndcg") & (results.k == 7) & (results.averaging == "list")]
    cell = part["mean"].map("{:.4f}".format) + " ± " + part["std"].map("{:.4f}".format)
    wide = part.assign(cell=cell).pivot_table(
        index=["protocol", "scorer", "arm"], columns="backbone", values="cell", aggfunc="first", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)


def _seed_means(summary: dict, backbone: str, metric: str) -> np.ndarray:
    """(S,) mean over users of a metric at 7 with each training seed, in the order of seeds."""
    return np.array(summary["means"][f"{backbone}/{metric}@7"]["user"])


def _by_user(summary: dict, backbone: str, metric: str) -> np.ndarray:
    """(U,) a metric at 7 of every test user, seeds averaged."""
    return summary["by_user"][f"{backbone}/{metric}@7"]


@functools.lru_cache(maxsize=4)
def paired_differences_table(records: Records) -> pd.DataFrame:
    """Differences of NDCG@7 and MAP@7 paired by user, user values averaged over seeds, with Holm-adjusted p.

    Intervals and p-values are of a bootstrap over users and training seeds. A Holm family is one protocol, scorer and
    metric: all comparisons and backbones together. Columns: protocol, backbone, scorer, arm, baseline, metric, k,
    users, difference, ci_low, ci_high, p_holm.
    """
    rows = []
    for part in scored(records):
        arms = part["arms"]
        if not (pairs := comparisons(list(arms), records.last, records.start)):
            continue
        names = [(b, m, a, c) for m in ("ndcg", "map") for b in records.backbones for a, c in pairs]
        columns = [_by_user(arms[a], b, m) - _by_user(arms[c], b, m) for b, m, a, c in names]
        seeds = [_seed_means(arms[a], b, m) - _seed_means(arms[c], b, m) for b, m, a, c in names]
        rng, draws = generator(records.seed, "bootstrap", part["protocol"], part["scorer"]), _draws(records)
        results = paired_differences(np.stack(columns, axis=1), draws, rng, np.stack(seeds, axis=1))
        for (b, m, a, c), result in zip(names, results, strict=True):
            row = {"protocol": part["protocol"], "backbone": b, "scorer": part["scorer"], "arm": a, "baseline": c}
            rows.append(row | {"metric": m, "k": 7} | result)
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby(["protocol", "scorer", "metric"]).p.transform(lambda p: holm(p.to_numpy()))
    return table.drop(columns="p")


def _draws(records: Records) -> int:
    return records.config["evaluation"]["bootstrap"]


@functools.lru_cache(maxsize=4)
def power(records: Records) -> pd.DataFrame:
    """How large a difference in NDCG@7 the study can see, simulated from validation users under popularity negatives.

    For the last round against each baseline with this study's test users, and against zero-shot in studies of 100,
    twice and four times as many: `alone` at alpha 0.05, `holm` at 0.05 over the comparisons of the Holm family (the
    strictest step), both with power 0.8. Backbone 'mean' is the users' mean over backbones, as in `headline`; its
    family is the comparisons alone. For policies as they were trained: training the LLM again is in no spread.
    Columns: scorer, backbone, baseline, seeds, validation_users, users, alone, holm.
    """
    rows, last = [], records.last
    for part in (p for p in scored(records) if p["protocol"] == "popularity"):
        arms, users = part["arms"], count_test_users(records)
        pairs = comparisons(list(arms), last, records.start)
        for baseline in (b for a, b in pairs if a == last):
            change = {
                b: np.subtract(*(arms[arm]["validation"][b] for arm in (last, baseline))) for b in records.backbones
            }
            change["mean"] = np.mean([change[b] for b in backbone_groups(records)["mean"]], axis=0)
            for backbone, values in change.items():
                family = len(pairs) * (1 if backbone == "mean" else len(records.backbones))
                row = {"scorer": part["scorer"], "backbone": backbone, "baseline": baseline}
                row |= {"seeds": len(values), "validation_users": values.shape[1]}
                others = (100, 2 * users, 4 * users) if baseline == "zero_shot" else ()
                for size in dict.fromkeys((users, *others)):
                    rng = generator(records.seed, "power", part["scorer"], backbone, baseline, size)
                    alone, strict = detectable_difference(values, size, rng, (0.05, 0.05 / family))
                    rows.append(row | {"users": size, "alone": alone, "holm": strict})
    return pd.DataFrame(rows)


def count_test_users(records: Records) -> int:
    """How many test users there are."""
    return records.metrics("data", "cohort")["users"]["test"]


def _mean_differences(arms: dict, pairs: list[tuple[str, str]], backbones: list[str], draws: int, rng) -> list[dict]:
    """`paired_differences` of NDCG@7, the users' mean over backbones (seeds averaged), a pair of arms each, the same
    resamples."""
    names = {name for pair in pairs for name in pair}
    by_user = {a: np.mean([_by_user(arms[a], b, "ndcg") for b in backbones], axis=0) for a in names}
    by_seed = {a: np.mean([_seed_means(arms[a], b, "ndcg") for b in backbones], axis=0) for a in names}
    changes, seeds = (np.stack([part[a] - part[c] for a, c in pairs], axis=1) for part in (by_user, by_seed))
    results = paired_differences(changes, draws, rng, seeds)
    return [
        result | {"value": float(by_user[a].mean()), "baseline_value": float(by_user[c].mean())}
        for (a, c), result in zip(pairs, results, strict=True)
    ]


def backbone_groups(records: Records) -> dict[str, list[str]]:
    """The backbones whose mean is the headline, as 'mean', and each that reads the history by itself: beside the mean
    of the others, never inside it."""
    others = [name for name in records.backbones if not BACKBONES[name].reads_history]
    readers = {name: [name] for name in records.backbones if BACKBONES[name].reads_history}
    return {"mean": others or records.backbones} | (readers if others else {})


HEADLINE = ("users", "value", "baseline_value", "difference", "ci_low", "ci_high")


@functools.lru_cache(maxsize=4)
def headline(records: Records) -> pd.DataFrame:
    """Every comparison in a line: protocol, scorer, arm, baseline, group, users, value (of the arm), baseline_value,
    difference, ci_low, ci_high, better, worse, backbones, detectable.

    group: 'mean' of the backbones that do not read the history, or one that does. The difference is of NDCG@7,
    users' values averaged over seeds and backbones before they are subtracted. `better` and `worse` count the
    backbones of the group whose own difference is above or below zero with Holm p < 0.05. `detectable` is the
    smallest true difference of the mean that one test finds four times out of five (popularity, last round; else
    missing).
    """
    rows, paired = [], paired_differences_table(records)
    paired = paired[paired.metric == "ndcg"].set_index(["protocol", "scorer", "arm", "baseline"]).sort_index()
    for part in scored(records):
        arms, place = part["arms"], (part["protocol"], part["scorer"])
        if not (pairs := comparisons(list(arms), records.last, records.start)):
            continue
        for group, backbones in backbone_groups(records).items():
            rng = generator(records.seed, "headline", *place, group)
            results = _mean_differences(arms, pairs, backbones, _draws(records), rng)
            for pair, result in zip(pairs, results, strict=True):
                key = dict(zip(("protocol", "scorer", "arm", "baseline"), (*place, *pair), strict=True)) | {
                    "group": group
                }
                by_backbone = paired.loc[[(*place, *pair)]]
                row = key | {name: result[name] for name in HEADLINE}
                rows.append(row | counts_of(by_backbone[by_backbone.backbone.isin(backbones)]))
    powers = power(records)
    detectable = powers[(powers.backbone == "mean") & (powers.users == rows[0]["users"])]
    detectable = detectable.assign(protocol="popularity", arm=records.last, group="mean").rename(
        columns={"alone": "detectable"}
    )
    return pd.DataFrame(rows).merge(
        detectable[["protocol", "scorer", "arm", "baseline", "group", "detectable"]], how="left"
    )


def last_round(records: Records, group: str = "mean") -> pd.DataFrame:
    """The lines of `headline` about the last round, popularity negatives, one group of backbones."""
    rows = headline(records)
    return rows[(rows.protocol == "popularity") & (rows.arm == records.last) & (rows.group == group)]


def counts_of(rows: pd.DataFrame) -> dict[str, int]:
    """better, worse, backbones: how many of these differences are clearly above and below zero, by Holm p < 0.05."""
    clear = rows.p_holm < 0.05
    better, worse = ((clear & side).sum() for side in (rows.difference > 0, rows.difference < 0))
    return {"better": int(better), "worse": int(worse), "backbones": len(rows)}


def ablation_length(records: Records) -> pd.DataFrame:
    """Texts of two policies, each cut to the shorter of the two: the first's against the second's and against their
    own whole. Own scorers, popularity negatives.

    Columns: arm, baseline, whole (whether the baseline is its own whole), words, baseline_words (means), users,
    difference (of NDCG@7, the users' mean over backbones as in `headline`), ci_low, ci_high. Raises `NotAskedError`
    where no texts were cut.
    """
    rows, backbones = [], backbone_groups(records)["mean"]
    for entry in cut_arms(records.config["evaluation"]["arms"]):
        if not entry.against or f"lengths-{entry.name}" not in records.listed:
            continue
        other, uncut = entry.against[0], records.last if entry.policy == "dpo" else entry.policy
        words = records.metrics("lengths", entry.name)
        arms = _arms(records, "own", f"popularity-{uncut}")
        for name in (entry.name, other):
            arms |= _arms(records, "ablation", f"{LENGTH}-popularity-{name}")
        pairs, rng = [(entry.name, other), (entry.name, uncut)], generator(records.seed, LENGTH, entry.name)
        results = _mean_differences(arms, pairs, backbones, _draws(records), rng)
        counts = [records.metrics("lengths", other)["cut"], words["whole"]]
        for (arm, baseline), count, result in zip(pairs, counts, results, strict=True):
            row = {"arm": arm, "baseline": baseline, "whole": baseline == uncut}
            rows.append(row | {"words": words["cut"], "baseline_words": count} | result)
    if not rows:
        raise NotAskedError(f"{records.profile} holds no texts that are cut to the length of others.")
    return pd.DataFrame(rows).drop(columns=["p", "value", "baseline_value"])


def breakdown(records: Records) -> pd.DataFrame:
    """Where the last round's difference comes from: thirds of the test users by three facts about them, popularity.

    Per-user NDCG@7 differences, mean over seeds and over backbones that do not read the history. Facts: interactions
    in all, mean popularity of the items they liked later (train users' interactions), liked items a list; a fact that
    is the same for all has no rows. Columns: fact, third, range, users, difference, ci_low, ci_high.
    """
    (part,) = [p for p in scored(records) if (p["protocol"], p["scorer"]) == ("popularity", "shared")]
    arm, baseline, rows = records.last, "zero_shot", []
    values = [
        np.mean([_by_user(part["arms"][name], b, "ndcg") for b in backbone_groups(records)["mean"]], axis=0)
        for name in (arm, baseline)
    ]
    change, users = values[0] - values[1], part["arms"][arm]["users"]
    facts = pd.DataFrame(records.metrics("data", "test_users"))
    if facts.user.tolist() != users:
        raise ValueError("the facts are of other users than the scores")
    rng = generator(records.seed, "breakdown", arm, baseline, "shared")
    for fact in facts.columns.drop("user"):
        if facts[fact].nunique() == 1:
            continue  # thirds of a constant, such as liked items where every list has four, say nothing
        order = np.argsort(facts[fact].to_numpy(), kind="stable")
        for third, members in zip(("low", "middle", "high"), np.array_split(order, 3), strict=True):
            span = facts[fact].to_numpy()[members]
            result = paired_differences(change[members, None], _draws(records), rng)[0]
            row = {"fact": fact, "third": third, "range": f"{span.min():.3g} to {span.max():.3g}"}
            rows.append(row | {k: result[k] for k in ("users", "difference", "ci_low", "ci_high")})
    return pd.DataFrame(rows)
