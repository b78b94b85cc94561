"""Figures of the study: each function takes the records and returns the figure and its one-sentence finding."""

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence import loop_learning, loop_tables, plots, tables, words
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import NotAskedError
from dpo4rec_utils.variants import VARIANTS

# Notebook 05


def power(records: Records):
    """Smallest difference that a test of one backbone finds four times out of five, averaged over backbones, by
    users."""
    table, users = tables.power(records), tables.count_test_users(records)
    table = table[(table.baseline == "zero_shot") & (table.backbone != "mean")]
    figure, axis = plots.blank(height=4.2)
    number = 0
    for scorer, part in table.groupby("scorer", sort=False):
        mean = part.groupby("users")[["alone", "holm"]].mean()
        for column, phrase in (("alone", "one test at 0.05"), ("holm", "Holm's strictest step")):
            plots.line(axis, plots.Curve(mean.index, mean[column]), number, f"{words.SCORERS[scorer]}, {phrase}")
            number += 1
    axis.axvline(users, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel=f"test users (dotted: this study, {users})", ylabel="detectable NDCG@7 difference")
    axis.set_ylim(bottom=0)
    plots.legend_above(figure, axis)
    here = table[table.users == users].groupby("scorer")[["alone", "holm"]].mean()
    return figure, (
        f"With {users} test users, a single test of one backbone finds a true difference to zero-shot text four times out of five if it "
        f"is at least {here.alone['own']:.4f} NDCG@7 (a re-ranker for each) or {here.alone['shared']:.4f} (one for all texts); Holm's strictest step needs "
        f"{here.holm['own']:.4f} or {here.holm['shared']:.4f} (simulated from n = {table.validation_users.max()} validation users)."
    )


def headline(records: Records):
    """The last round against every baseline, popularity negatives: a marker a scorer and group of backbones."""
    table = tables.headline(records)
    table = table[(table.protocol == "popularity") & (table.arm == records.last)]
    series = [f"{words.group_label(records, row.group)}, {words.SCORERS[row.scorer]}" for row in table.itertuples()]
    clear = (table.ci_low > 0) | (table.ci_high < 0)
    labelled = table.assign(baseline=table.baseline.map(label), series=series, filled=clear)
    figure, _ = plots.dots(labelled, "baseline", "difference", "series", ("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7 of {label(records.last)} above that of ... (MIR reads the history by itself; bars: 95 % interval of users and "
        f"seeds, n = {table.users.max()} test users; filled: zero is outside)",
    )
    rows = tables.last_round(records)
    rows = rows[rows.scorer == "own"]
    beaten, lost = rows[rows.ci_low > 0].baseline.map(label), rows[rows.ci_high < 0].baseline.map(label)
    return figure, (
        f"With a re-ranker for each, {label(records.last)} is better than {', '.join(beaten) or 'no other'} and worse than {', '.join(lost) or 'no other'} "
        f"(95 % intervals of the {words.group_label(records, 'mean')}, which do not read the history, not corrected for many baselines; n = {rows.users.max()} test users)."
    )


def on_top(records: Records):
    """What a second user input adds to the history mean, own scorers, popularity negatives."""
    table = tables.headline(records)
    table = table[(table.protocol == "popularity") & (table.scorer == "own")]
    table = table[table.arm.str.startswith("history_mean+") & (table.baseline == "history_mean")]
    if table.empty:
        raise NotAskedError(f"{records.profile} asks for no arm that adds to the history mean.")
    groups, clear = (
        [words.group_label(records, group) for group in table.group],
        (table.ci_low > 0) | (table.ci_high < 0),
    )
    labelled = table.assign(arm=table.arm.map(label), group=groups, filled=clear)
    figure, _ = plots.dots(labelled, "arm", "difference", "group", ("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7 above that of the history mean alone (bars: 95 % interval, n = {table.users.max()} test users; filled: zero is outside)",
    )
    mean = table[table.group == "mean"]
    adds = [
        f"{label(row.arm).split(' + ')[1]} {row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f})"
        for row in mean.itertuples()
    ]
    return (
        figure,
        f"On top of the history mean: {'; '.join(adds)} NDCG@7, {words.group_label(records, 'mean')}.",
    )


MOST_ROWS = 10  # of a forest


def forest(records: Records, scorer: str):
    """NDCG@7 of the last round above each baseline with intervals, popularity negatives: a marker a backbone.

    The first ten baselines; the others stand in `paired_differences.csv`.
    """
    table = tables.paired_differences_table(records)
    table = table[(table.protocol == "popularity") & (table.metric == "ndcg") & (table.scorer == scorer)]
    table = table[table.arm == records.last]
    table = table[table.baseline.isin(table.baseline.unique()[:MOST_ROWS])]
    labelled = table.assign(
        baseline=table.baseline.map(label),
        backbone=table.backbone.map(words.backbone_label),
        filled=table.p_holm < 0.05,
    )
    figure, _ = plots.dots(labelled, "baseline", "difference", "backbone", ("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7 of {label(records.last)} above that of ..., {words.SCORERS[scorer]} (bars: 95 % interval of users and "
        f"seeds, n = {table.users.max()} test users; filled: p < 0.05 after Holm's correction)",
    )
    counts = [
        f"{label(baseline)}, {words.better_worse(tables.counts_of(part))}"
        for baseline, part in table.groupby("baseline", sort=False)
    ]
    return figure, (
        f"With {words.SCORERS[scorer]}, {label(records.last)} against: {'; '.join(counts)} (backbones, p < 0.05 after "
        f"Holm's correction, n = {table.users.max()} test users)."
    )


def forest_own(records: Records):
    """`forest` of own scorers."""
    return forest(records, "own")


def forest_shared(records: Records):
    """`forest` of shared scorers."""
    return forest(records, "shared")


def arms(records: Records):
    """NDCG@7 of every arm, the highest first, mean of the backbones that do not read the history, with the deviation
    over seeds."""
    table = tables.main_results(records)
    table = table[table.backbone.isin(tables.backbone_groups(records)["mean"])]
    table = table[(table.metric == "ndcg") & (table.k == 7) & (table.averaging == "list")]
    table = table[(table.protocol == "popularity") & (table.scorer == "own")]
    mean = table.groupby("arm", sort=False)[["mean", "std"]].mean().reset_index()
    ranked = mean.sort_values("mean", ascending=False).reset_index(drop=True)
    figure, _ = plots.dots(ranked.assign(arm=ranked.arm.map(label)), "arm", "mean", error="std")
    plots.below(
        figure,
        f"NDCG@7, test lists, mean of {table.backbone.nunique()} backbones (bars: deviation over {table.seeds.max()} seeds)",
    )
    place = ranked.index[ranked.arm == records.last][0] + 1
    return figure, (
        f"With a re-ranker of its own, {label(ranked.arm[0])} ranks best ({ranked['mean'][0]:.4f} NDCG@7, mean of "
        f"{table.backbone.nunique()} backbones); {label(records.last)} is number {place} of {len(ranked)}."
    )


def breakdown(records: Records):
    """Difference of the last round to zero-shot text in thirds of the test users."""
    table = tables.breakdown(records)
    labelled = table.assign(group=table.fact + ", " + table.third + ": " + table.range)
    figure, _ = plots.dots(labelled, "group", "difference", error=("ci_low", "ci_high"))
    plots.below(
        figure,
        f"NDCG@7, {label(records.last)} above zero-shot text, one re-ranker for all texts (bars: 95 % interval of users)",
    )
    widest = table.groupby("fact").difference.agg(np.ptp).idxmax()
    rows = table[table.fact == widest].set_index("third")
    low, high = rows.difference["low"], rows.difference["high"]
    return figure, (
        f"Of {table.fact.nunique()} facts the gain over zero-shot text differs most by {widest}: {low:+.4f} NDCG@7 in the lowest third of "
        f"the users, {high:+.4f} in the highest, a difference of {words.apart(rows.loc['low'], rows.loc['high'])} (the largest, not corrected; "
        f"n = {table.users.min()} to {table.users.max()} users a third)."
    )


# Notebook 06


def knowledge(records: Records):
    """NDCG@7 by kind of knowledge, a marker a backbone."""
    table = loop_tables.ablation_knowledge(records)
    labelled = table.assign(arm=table.arm.map(label), backbone=table.backbone.map(words.backbone_label))
    figure, _ = plots.dots(labelled, "arm", "mean", "backbone", "std")
    plots.below(figure, f"NDCG@7, test lists, a re-ranker for each (bars: deviation over {table.seeds.max()} seeds)")
    mean = table.groupby("arm", sort=False)["mean"].mean()
    return figure, (
        f"Item text changes NDCG@7 by {mean['item'] - mean['none']:+.4f} over ids alone; on top of it the user's text changes it by "
        f"{mean[records.last] - mean['item']:+.4f}, another user's by {mean['dpo_shuffled'] - mean['item']:+.4f} and random words by "
        f"{mean['noise'] - mean['item']:+.4f} (mean of {table.backbone.nunique()} backbones, {table.seeds.max()} seeds)."
    )


def preference(records: Records):
    """Referees' view of round 1, its controls and variants: change to the policy that the round started from.

    Variants are there for validation users alone.
    """
    table, begin = loop_tables.ablation_preference(records), records.start
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
    trained = [name for name in records.config["evaluation"]["ablations"] if not VARIANTS[name].prompt]
    variants = named.loc["validation"].loc[trained]
    better, worse = (int((sign * variants.difference > variants.ci_half).sum()) for sign in (1, -1))
    if len(variants):
        text += f"; of {len(variants)} trained variants, {better} are better and {worse} worse than the start on validation users"
    return figure, text + f" (n = {change.users:.0f} test, {named.loc['validation'].users.max()} validation users)."


def variants(records: Records):
    """Share of held-out pairs that one round orders rightly with one thing changed, beside "the longer wins".

    A variant with another reward has pairs of its own, so it is not ranked among the others. Raises `NotAskedError`
    where the profile trains no variant.
    """
    table = loop_learning.variants(records)
    trained = table[~table.policy.isin(["dpo_round_1", "random_labels_round_1"])]
    if trained.empty:
        raise NotAskedError(f"{records.profile} asks for no variant that is trained; ml-100k-ablations does.")
    longer = table.assign(of="the longer wins", share=table.longer_wins, low=table.longer_wins, high=table.longer_wins)
    ends = {"low": table.heldout_ci_low, "high": table.heldout_ci_high}
    policy = table.assign(of="the policy", share=table.heldout_accuracy, **ends)
    both = pd.concat([policy, longer])
    figure, axis = plots.dots(both.assign(policy=both.policy.map(label)), "policy", "share", "of", ("low", "high"))
    axis.axvline(0.5, color="black", linestyle=":")
    axis.set_xlim(min(0.35, both.low.min()) - 0.02, 1.02)
    plots.below(figure, "share of held-out pairs ordered rightly (dotted: chance; bars: 95 % interval of users)")
    first, same = table.iloc[0], trained[[not VARIANTS[name].orders_otherwise for name in trained.policy]]
    finding = (
        f"One round orders {first.heldout_accuracy:.0%} of its held-out pairs rightly ({first.heldout_ci_low:.0%} to "
        f"{first.heldout_ci_high:.0%})"
    )
    if same.empty:
        return figure, finding + "; every variant here has another reward, and so pairs of its own."
    ranked = same.sort_values("heldout_accuracy", ascending=False)
    parts = [f"{label(r.policy)} {r.heldout_accuracy:.0%}" for r in (ranked.iloc[0], ranked.iloc[-1])]
    return figure, finding + (
        f"; of the {len(same)} variants that are judged on the same pairs, {parts[0]} is the highest and {parts[1]} the lowest. The "
        "highest of many is flattered."
    )


def _with_ends(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(low=table.difference - table.ci_half, high=table.difference + table.ci_half)


def adapter(records: Records):
    """NDCG@7 of PRM with other adapters, with item text alone and with the last round's text."""
    table = loop_tables.ablation_adapter(records)
    labelled = table.assign(adapter=table.adapter.map(words.ADAPTERS), arm=table.arm.map(label))
    figure, _ = plots.dots(labelled, "adapter", "mean", "arm", "std")
    plots.below(figure, f"NDCG@7 of PRM, test lists (bars: deviation over {table.seeds.max()} seeds)")
    wide = table.pivot(index="adapter", columns="arm", values="mean")
    effect = wide[records.last] - wide["item"]
    return figure, (
        "The user's text adds to PRM's NDCG@7 "
        + ", ".join(f"{effect[key]:+.4f} ({phrase})" for key, phrase in words.ADAPTERS.items())
        + f"; {table.seeds.max()} seeds, no interval."
    )


def length(records: Records):
    """Texts cut to the shorter of two policies', above the other's and above their own whole."""
    table = tables.ablation_length(records)
    above = table.whole.map({False: "the other's, in as many words", True: "the same texts, whole"})
    labelled = table.assign(arm=table.arm.map(label), above=above)
    figure, _ = plots.dots(labelled, "arm", "difference", "above", ("ci_low", "ci_high"))
    plots.below(
        figure,
        "NDCG@7 of cut texts above that of ... (a re-ranker for each; bars: 95 % interval of users and seeds, "
        f"n = {table.users.max()} test users)",
    )
    parts = []
    for name, rows in table.groupby("arm", sort=False):
        other, whole = rows.to_dict("records")
        differences = [words.signed(row["difference"], row["ci_low"], row["ci_high"]) for row in (other, whole)]
        parts.append(
            f"{label(name)}, {other['words']:.1f} words: {differences[0]} above {label(other['baseline'])}, "
            f"{other['baseline_words']:.1f} words; {differences[1]} above the same texts whole, {whole['baseline_words']:.1f} words"
        )
    return figure, "NDCG@7. " + ". ".join(part[0].upper() + part[1:] for part in parts) + "."
