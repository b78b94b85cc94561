"""Figures of the study: each function takes the records and returns the figure and its one-sentence finding."""

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence import loop_tables, plots, tables
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import MissingRecordError

KINDS = {"log_likelihood": "log-likelihood", "ndcg": "NDCG@10", "map": "MAP@10"}
BACKBONES = {"dlcm": "DLCM", "prm": "PRM", "setrank": "SetRank", "mir": "MIR", "dasalc": "DASALC"}


def backbone_label(name: str) -> str:
    """How a backbone is written in figures."""
    return BACKBONES.get(name, name)


# Notebook 01


def distributions(records: Records):
    """Histogram of history lengths beside the popularity of items by rank (log-log)."""
    metrics, limit = records.metrics("data", "cohort"), records.config["data"]["history_limit"]
    counts, popularity = np.array(metrics["history_lengths"]), metrics["popularity"]
    figure, (left, right) = plots.blank(8, 3.4, 2)
    left.bar(np.arange(len(counts)), counts, width=1, color="0.45")
    left.set(xlabel="history length (interactions)", ylabel=f"users (n = {counts.sum()})")
    right.loglog(popularity["rank"], popularity["interactions"], color="0.25")
    right.set(xlabel=f"item by popularity (rank of {popularity['rank'][-1]})", ylabel="interactions")
    return figure, (
        f"Histories are cut at {limit} interactions, which {counts[limit:].sum() / counts.sum():.0%} of the {counts.sum()} "
        f"users reach, and the most popular tenth of the items has {metrics['top_tenth_share']:.0%} of the interactions."
    )


def sanity_rankers(records: Records):
    """NDCG@7 of three simple rankers on validation lists, a marker a kind of negatives."""
    table = loop_tables.sanity_rankers(records)
    shown = table[(table.metric == "ndcg") & (table.k == 7)]
    figure, _ = plots.dots(shown, "ranker", "mean", "protocol")
    plots.below(figure, f"NDCG@7, validation users' lists (n = {shown.lists.max()})")
    wide = shown.pivot(index="protocol", columns="ranker", values="mean")
    gain = wide["popularity"] - wide["random"]
    return figure, (
        f"Over a random order, ranking by popularity gains {gain['uniform']:+.3f} NDCG@7 where negatives are drawn uniformly and "
        f"{gain['popularity']:+.3f} where they are drawn by popularity (validation users, n = {shown.lists.max()} lists)."
    )


# Notebook 02


def similarity(records: Records):
    """Cosine of a zero-shot text with its own user's mean liked item beside that with another user's."""
    found = records.metrics("guards", "similarity")
    figure, axis = plots.blank(5.6, 3.6)
    plots.histogram(axis, found["edges"], found["another"], f"another user (mean {found['another_mean']:.3f})", True)
    plots.histogram(axis, found["edges"], found["own"], f"own user (mean {found['own_mean']:.3f})", False)
    axis.set(xlabel="cosine of text and mean liked item", ylabel=f"texts (n = {found['users']})")
    axis.legend(fontsize=9)
    return figure, (
        f"A zero-shot text is closer to its own user's liked items than to another user's for {found['own_above_another']:.0%} of "
        f"{found['users']} users (50 % would be no signal)."
    )


# Notebook 03


def split_half(records: Records):
    """Deviation of each text's reward on one half of a user's lists against the other half, as densities, a panel a kind."""
    found = records.metrics("reward", loop_tables.start(records)).get("split_half")
    if found is None:
        raise MissingRecordError(f"The reward record of {records.profile} is of before reward densities were kept.")
    figure, axes = plots.blank(3.1 * len(found), 3.3, len(found), squeeze=False)
    for axis, (kind, half) in zip(axes[0], found.items(), strict=True):
        ends = [half["edges"][0], half["edges"][-1]] if half["edges"] else [0, 1]
        counts = np.array(half["counts"] or [[0]])
        axis.imshow(np.sqrt(counts), origin="lower", extent=ends * 2, cmap="gray_r", aspect="equal")
        axis.set_title(f"{KINDS[kind]}: r = {half['r']:.2f}", fontsize=10)
        axis.set(xlabel="even lists, deviation", ylabel="odd lists, deviation" if axis is axes[0][0] else "")
        axis.tick_params(labelsize=8)
        axis.grid(False)
    return figure, (
        "A text's reward on half of a user's lists repeats on the other half with "
        + ", ".join(f"r = {half['r']:.2f} ({KINDS[kind]})" for kind, half in found.items())
        + f" (n = {found['ndcg']['users']} train users with two lists or more)."
    )


def reliability(records: Records):
    """Split-half correlation of each reward, by what the reward model was trained on."""
    table, begin = loop_tables.reward_reliability(records), loop_tables.start(records)
    records.get("reward", f"{begin}-llm-only")
    table = table[(table.split == "train") & table.reward_model.isin([begin, f"{begin}-llm-only"])].copy()
    table["trained"] = np.where(table.reward_model == begin, "trained on LLM texts and templates", "on LLM texts alone")
    figure, axis = plots.bars(table.assign(reward=table.reward.map(KINDS)), "reward", "r", "trained")
    axis.set(
        ylabel=f"split-half correlation (n = {table.users.max()} train users)", xlabel="reward (no interval shown)"
    )
    likely = table[table.reward == "log_likelihood"].set_index("reward_model").r
    return figure, (
        f"The log-likelihood reward of {label(begin)} texts repeats with r = {likely[begin]:.2f} when the reward model read templates "
        f"too and {likely[f'{begin}-llm-only']:.2f} when it read LLM texts alone (n = {table.users.max()} train users)."
    )


# Notebook 04


def training(records: Records):
    """DPO loss and margin a step, one line a run; the loss starts at ln 2."""
    names = [name for name in loop_tables.rounds_and_controls(records) if name != "rft"]
    logs = {name: records.metrics("policy", name)["log"] for name in names}
    figure, (left, right) = plots.blank(8, 3.4, 2)
    for i, (name, log) in enumerate(logs.items()):
        steps = [row["step"] for row in log]
        plots.line(left, (steps, [row["loss"] for row in log]), i, label(name))
        plots.line(right, (steps, [row["rewards/margins"] for row in log]), i)
    left.axhline(np.log(2), linestyle=":", color="black")
    right.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="step", ylabel="DPO loss (dotted: ln 2)")
    right.set(xlabel="step", ylabel="margin (nats times beta)")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    tail = {name: np.mean([row["rewards/margins"] for row in log[-3:]]) for name, log in logs.items()}
    return figure, (
        f"The loss starts at {logs[names[0]][0]['loss']:.4f} (ln 2 is 0.6931); the mean margin of the last three steps is "
        + ", ".join(f"{value:.2f} ({label(name)})" for name, value in tail.items())
        + ", in nats times beta."
    )


def texts(records: Records):
    """Shares of texts that say three things, a row a policy."""
    facts = {"decade": "a decade", "title": "a title of the history", "liked_wrong": "something disliked as liked"}
    guards = loop_tables.text_guards(records)
    shown = [
        "zero_shot",
        loop_tables.start(records),
        *(a for a in guards.arm if a.startswith("dpo_round_")),
        "template",
    ]
    table = guards[guards.arm.isin(shown)].melt("arm", list(facts), "says", "share")
    table = table.assign(arm=table.arm.map(label), says=table.says.map(facts))
    figure, axis = plots.dots(table, "arm", "share", "says")
    plots.below(figure, "share of texts (no interval shown)")
    axis.set_xlim(-0.03, 1.03)
    by_arm = guards.set_index("arm")
    last, template = by_arm.loc[records.last], by_arm.loc["template"]
    return figure, (
        f"After the last round {last.decade:.0%} of the texts name a decade, {last.title:.0%} a title of the history, and "
        f"{last.liked_wrong:.0%} call liked what the user avoids (templates: {template.liked_wrong:.0%}; validation users, "
        f"n = {int(last.texts)} texts)."
    )


def words(records: Records):
    """The words whose share of texts changed most from the start to the last round."""
    begin, last = loop_tables.start(records), records.last
    found = records.metrics("words", f"{begin}-{last}")
    table = pd.DataFrame(found["rows"])
    figure, axis = plots.before_and_after(table, "word")
    axis.set(xlabel=f"share of texts that hold the word (n = {found['texts']})")
    gained, lost = table[table.change > 0].iloc[::-1], table[table.change < 0]
    phrase = "'{0.word}' ({0.before:.0%} to {0.after:.0%})".format
    parts = [", ".join(phrase(row) for row in part.head(3).itertuples()) or "nothing" for part in (gained, lost)]
    return figure, (
        f"From {label(begin)} to {label(last)} the texts gain {parts[0]} and lose {parts[1]} "
        f"(share of texts that hold the word, n = {found['texts']} texts of all users)."
    )


# Notebook 05


def power(records: Records):
    """Smallest difference that a test of one backbone finds four times out of five, averaged over backbones, by users."""
    table, users = tables.power(records), tables.count_test_users(records)
    table = table[(table.baseline == "zero_shot") & (table.backbone != "mean")]
    figure, axis = plots.blank(5.8, 3.6)
    number = 0
    for scorer, part in table.groupby("scorer", sort=False):
        mean = part.groupby("users")[["alone", "holm"]].mean()
        for column, words_ in (("alone", "one test at 0.05"), ("holm", "Holm's strictest step")):
            plots.line(axis, (mean.index, mean[column]), number, f"{scorer} scorers, {words_}")
            number += 1
    axis.axvline(users, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel=f"test users (dotted: this study, {users})", ylabel="detectable NDCG@7 difference")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    here = table[table.users == users].groupby("scorer")[["alone", "holm"]].mean()
    return figure, (
        f"With {users} test users, a single test of one backbone finds a true difference to zero-shot text four times out of five if it "
        f"is at least {here.alone['own']:.4f} NDCG@7 (own scorers) or {here.alone['shared']:.4f} (shared); Holm's strictest step needs "
        f"{here.holm['own']:.4f} or {here.holm['shared']:.4f} (simulated from n = {table.validation_users.max()} validation users)."
    )


def headline(records: Records):
    """The last round against every baseline, mean of the backbones, popularity negatives, a marker a scorer."""
    table = tables.headline(records)
    table = table[table.protocol == "popularity"]
    shown = table.assign(baseline=table.baseline.map(label), scorer=table.scorer + " scorers")
    figure, _ = plots.dots(shown, "baseline", "difference", "scorer", ("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7 of {label(records.last)} less that of ..., mean of {len(records.backbones)} backbones\n"
        f"(bars: 95 % interval of users and seeds, n = {table.users.max()} test users)",
    )
    own = table[table.scorer == "own"]
    beaten, lost = own[own.ci_low > 0].baseline.map(label), own[own.ci_high < 0].baseline.map(label)
    return figure, (
        f"With own scorers {label(records.last)} is better than {', '.join(beaten) or 'none'} and worse than {', '.join(lost) or 'none'} "
        f"(95 % intervals of the mean of {len(records.backbones)} backbones, n = {own.users.max()} test users)."
    )


def forest(records: Records, scorer: str):
    """NDCG@7 differences with their intervals, popularity negatives: a row a comparison, a marker a backbone."""
    table = tables.paired_differences_table(records)
    table = table[
        (table.protocol == "popularity") & (table.metric == "ndcg") & (table.k == 7) & (table.scorer == scorer)
    ]
    shown = table.assign(
        comparison=table.arm.map(label) + " less " + table.baseline.map(label),
        backbone=table.backbone.map(backbone_label),
        filled=table.p_holm < 0.05,
    )
    figure, _ = plots.dots(shown, "comparison", "difference", "backbone", ("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7 difference, {scorer} scorers (bars: 95 % interval of users and seeds, n = {table.users.max()} test users; "
        "filled: p < 0.05 after Holm's correction)",
    )
    last = table[table.arm == records.last]
    return figure, f"With {scorer} scorers, {label(records.last)} against: " + "; ".join(
        f"{label(baseline)}, {better_worse(tables.counts_of(part))}"
        for baseline, part in last.groupby("baseline", sort=False)
    ) + f" (backbones, p < 0.05 after Holm's correction, n = {table.users.max()} test users)."


def better_worse(counts: dict[str, int]) -> str:
    """'3 better, 0 worse of 4' backbones, from what `tables.counts_of` counts."""
    return "{better} better, {worse} worse of {backbones}".format(**counts)


def forest_own(records: Records):
    """`forest` of own scorers."""
    return forest(records, "own")


def forest_shared(records: Records):
    """`forest` of shared scorers."""
    return forest(records, "shared")


def folds(records: Records):
    """The last round against each baseline, user fold by user fold, mean of the backbones."""
    table = tables.folds(records)
    shown = table.assign(against=table.scorer + ": less " + table.baseline.map(label))
    figure, _ = plots.dots(shown, "against", "difference", "fold", ("ci_low", "ci_high"))
    plots.below(figure, f"NDCG@7 difference of {label(records.last)} (bars: 95 % interval of users and seeds)")
    by_scorer = table[table.baseline == "zero_shot"].groupby("scorer", sort=False).difference.apply(list)
    return figure, (
        f"{label(records.last)} less zero-shot text, NDCG@7, in {records.folds} user folds: "
        + "; ".join(
            f"{scorer} scorers {', '.join(f'{d:+.4f}' for d in values)}" for scorer, values in by_scorer.items()
        )
        + f" (n = {table.users.min()} test users a fold at least)."
    )


def arms(records: Records):
    """NDCG@7 of every arm, mean of the backbones, with the deviation over seeds."""
    table = tables.main_results(records)
    table = table[(table.metric == "ndcg") & (table.k == 7) & (table.averaging == "list")]
    table = table[(table.protocol == "popularity") & (table.scorer == "own")]
    mean = table.groupby("arm", sort=False)[["mean", "std"]].mean().reset_index()
    figure, _ = plots.dots(mean.assign(arm=mean.arm.map(label)), "arm", "mean", error="std")
    plots.below(
        figure,
        f"NDCG@7, test lists, mean of {table.backbone.nunique()} backbones (bars: deviation over {table.seeds.max()} seeds)",
    )
    ranked = mean.sort_values("mean", ascending=False).reset_index(drop=True)
    place = ranked.index[ranked.arm == records.last][0] + 1
    return figure, (
        f"With a re-ranker of its own, {label(ranked.arm[0])} ranks best ({ranked['mean'][0]:.4f} NDCG@7, mean of "
        f"{table.backbone.nunique()} backbones); {label(records.last)} is number {place} of {len(ranked)}."
    )


def breakdown(records: Records):
    """Difference of the last round to zero-shot text in thirds of the test users."""
    table = tables.breakdown(records)
    shown = table.assign(group=table.fact + ", " + table.third + ": " + table.range)
    figure, _ = plots.dots(shown, "group", "difference", error=("ci_low", "ci_high"))
    plots.below(
        figure, f"NDCG@7, {label(records.last)} less zero-shot text, shared scorers (bars: 95 % interval of users)"
    )
    widest = table.groupby("fact").difference.agg(np.ptp).idxmax()
    low, high = (table[(table.fact == widest) & (table.third == third)].difference.item() for third in ("low", "high"))
    return figure, (
        f"The gain over zero-shot text differs most by {widest}: {low:+.4f} NDCG@7 in the lowest third of the users, {high:+.4f} in the "
        f"highest (n = {table.users.min()} to {table.users.max()} users a third)."
    )


# Notebook 06


def knowledge(records: Records):
    """NDCG@7 by kind of knowledge, a marker a backbone."""
    table = loop_tables.ablation_knowledge(records)
    shown = table.assign(arm=table.arm.map(label), backbone=table.backbone.map(backbone_label))
    figure, _ = plots.dots(shown, "arm", "mean", "backbone", "std")
    plots.below(figure, f"NDCG@7, test lists, own scorers (bars: deviation over {table.seeds.max()} seeds)")
    mean = table.groupby("arm", sort=False)["mean"].mean()
    return figure, (
        f"Item text changes NDCG@7 by {mean['item'] - mean['none']:+.4f} over ids alone; on top of it the user's text changes it by "
        f"{mean[records.last] - mean['item']:+.4f}, another user's by {mean['dpo_shuffled'] - mean['item']:+.4f} and random words by "
        f"{mean['noise'] - mean['item']:+.4f} (mean of {table.backbone.nunique()} backbones, {table.seeds.max()} seeds)."
    )


def preference(records: Records):
    """Referees' view of round 1, its controls and variants: change to the policy that the round started from."""
    table, begin = loop_tables.ablation_preference(records), loop_tables.start(records)
    table = table[(table.reward == "log_likelihood") & table.split.isin(["validation", "test"])]
    figure, _ = plots.dots(
        _with_ends(table.assign(arm=table.arm.map(label))), "arm", "difference", "split", ("low", "high")
    )
    plots.below(
        figure, f"referees' log-likelihood, change to {label(begin)} (nats a candidate; bars: 95 % interval of users)"
    )
    named = table.set_index(["split", "arm"])
    change = named.loc[("test", "dpo_round_1")]
    text = (
        f"From {label(begin)}, round 1 changes the referees' log-likelihood of test users by {change.difference:+.4f} "
        f"({change.difference - change.ci_half:+.4f} to {change.difference + change.ci_half:+.4f}) nats a candidate"
    )
    variants = named.loc["validation"].loc[records.config["evaluation"]["ablations"]]
    better, worse = (int((sign * variants.difference > variants.ci_half).sum()) for sign in (1, -1))
    if len(variants):
        text += (
            f"; of {len(variants)} variants, {better} are better and {worse} worse than the start on validation users"
        )
    return figure, text + f" (n = {change.users:.0f} test, {named.loc['validation'].users.max()} validation users)."


def _with_ends(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(low=table.difference - table.ci_half, high=table.difference + table.ci_half)


def adapter(records: Records):
    """NDCG@7 of PRM with other adapters, with item text alone and with the last round's text."""
    names = {"hea": "hybrid experts", "moe": "mixture of experts", "mlp": "two MLPs"}
    names["hea-no-interaction"] = "hybrid experts, no interaction"
    table = loop_tables.ablation_adapter(records)
    shown = table.assign(adapter=table.adapter.map(names), arm=table.arm.map(label))
    figure, _ = plots.dots(shown, "adapter", "mean", "arm", "std")
    plots.below(figure, f"NDCG@7 of PRM, test lists (bars: deviation over {table.seeds.max()} seeds)")
    wide = table.pivot(index="adapter", columns="arm", values="mean")
    effect = wide[records.last] - wide["item"]
    return figure, (
        "The user's text adds to PRM's NDCG@7 "
        + ", ".join(f"{effect[key]:+.4f} ({words_})" for key, words_ in names.items())
        + f"; {table.seeds.max()} seeds, no interval."
    )


# Notebook 07


def rounds(records: Records):
    """Change of reward since round 0 with its interval: the reward models' claim and independent scorers."""
    series = {
        "reward models' claim, train users": ("train", "claimed_log_likelihood"),
        "reward models' claim, validation users": ("validation", "claimed_log_likelihood"),
        "referees, later lists of train users": ("train_later", "independent_log_likelihood"),
        "referees, validation users": ("validation", "independent_log_likelihood"),
        "referees, test users": ("test", "independent_log_likelihood"),
    }
    table = loop_tables.rounds(records)
    figure, axis = plots.blank(6.2, 4.4)
    for i, (name, (split, reward)) in enumerate(series.items()):
        part = table[(table.split == split) & (table.reward == reward) & (table["round"] > 0)]
        mean = np.r_[0, part.difference_to_round_0]
        half = np.r_[0, 1.96 * np.abs(part.difference_to_round_0 / part.t.replace(0, np.nan))]
        place = np.r_[0, part["round"]] + (i - (len(series) - 1) / 2) * 0.06
        plots.line(axis, (place, mean, half), i, name)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="DPO round", ylabel="change of log-likelihood (nats a candidate)\nbars: 95 % interval of users")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1)
    end = table[table["round"] == table["round"].max()].set_index(["split", "reward"])
    referees, claim = (end.loc[("validation", f"{who}_log_likelihood")] for who in ("independent", "claimed"))
    users = records.metrics("data", "cohort")["users"]["validation"]
    return figure, (
        f"After {table['round'].max()} rounds the reward models claim {claim.difference_to_round_0:+.4f} nats a candidate for validation "
        f"users; referees see {referees.difference_to_round_0:+.4f} (t = {referees.t:.1f}, n = {users} users)."
    )


def cost(records: Records):
    """Independent log-likelihood of test users by round, and the minutes spent so far, in two panels."""
    table = loop_tables.cost(records)
    figure = _two_panels(
        table, "round", "mean", "DPO round (-1: zero-shot)", "referees' log-likelihood (nats a candidate)"
    )
    last, begin = table.iloc[-1], table[table["round"] == 0].iloc[0]
    users = records.metrics("data", "cohort")["users"]["test"]
    return figure, (
        f"{int(last['round'])} rounds take {last.minutes - begin.minutes:.0f} minutes and change the referees' log-likelihood of test "
        f"users by {last.difference_to_round_0:+.4f} (bars: 95 % interval of the difference to round 0, n = {users} users)."
    )


def samples(records: Records):
    """What the best of N texts gains on the other half of a user's lists, and what sampling N takes, in two panels."""
    table = loop_tables.samples(records)
    shown = table[table.reward == "ndcg"]
    figure = _two_panels(shown, "samples", "gain", "texts a user (N)", "gain on the other half (NDCG@10)")
    best = shown.iloc[-1]
    return figure, (
        f"The best of {best.samples} texts by half of a user's lists gains {best.gain:+.4f} NDCG@10 over the mean text on the other half; "
        f"sampling them takes {best.minutes:.1f} minutes (bars: 95 % interval, n = {best.users} train users)."
    )


def _two_panels(table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str):
    """`y` with its interval (column `ci_half`), and `minutes`, side by side over the same `x`."""
    figure, (left, right) = plots.blank(7.6, 3.4, 2)
    plots.line(left, (table[x], table[y], table.ci_half), 0)
    plots.line(right, (table[x], table.minutes), 1)
    if y == "gain":
        left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel=xlabel, ylabel=ylabel, xticks=table[x])
    right.set(xlabel=xlabel, ylabel="minutes so far", xticks=table[x])
    right.set_ylim(bottom=0)
    return figure
