"""Figures about data, texts, reward, training, rounds and samples (notebooks 01 to 04 and 07); see figures.py."""

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import label, round_name
from dpo4rec_utils.evidence import loop_learning, loop_tables, plots, words
from dpo4rec_utils.evidence.records import Records

# Notebook 01


def distributions(records: Records):
    """Histogram of history lengths beside the popularity of items by rank (log-log)."""
    metrics, limit = records.metrics("data", "cohort"), records.config["data"]["history_limit"]
    counts, popularity = np.array(metrics["history_lengths"]), metrics["popularity"]
    figure, (left, right) = plots.blank(plots.WIDTH, 3.4, 2)
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
    rows = table[(table.metric == "ndcg") & (table.k == 7)]
    figure, _ = plots.dots(rows, "ranker", "mean", "protocol")
    plots.below(figure, f"NDCG@7, validation users' lists (n = {rows.lists.max()})")
    wide = rows.pivot(index="protocol", columns="ranker", values="mean")
    gain = wide["popularity"] - wide["random"]
    return figure, (
        f"Over a random order, ranking by popularity gains {gain['uniform']:+.3f} NDCG@7 where negatives are drawn uniformly and "
        f"{gain['popularity']:+.3f} where they are drawn by popularity (validation users, n = {rows.lists.max()} lists)."
    )


# Notebook 02


def similarity(records: Records):
    """Cosine of a zero-shot text with its user's mean liked item beside that with another user's."""
    metrics = records.metrics("guards", "similarity")
    figure, axis = plots.blank(height=4.0)
    plots.histogram(
        axis, metrics["edges"], metrics["another"], f"another user (mean {metrics['another_mean']:.3f})", True
    )
    plots.histogram(axis, metrics["edges"], metrics["own"], f"the text's user (mean {metrics['own_mean']:.3f})", False)
    axis.set(xlabel="cosine of text and mean liked item", ylabel=f"texts (n = {metrics['users']})")
    plots.legend_above(figure, axis)
    return figure, (
        f"A zero-shot text is closer to its user's liked items than to another user's for {metrics['own_above_another']:.0%} of "
        f"{metrics['users']} users (50 % would be no signal)."
    )


# Notebook 03


def split_half(records: Records):
    """Deviation of each text's reward on one half of a user's lists against the other half, as densities, a panel a
    kind."""
    halves = records.metrics("reward", records.start)["split_half"]
    figure, axes = plots.blank(plots.WIDTH, 2.6, len(halves), squeeze=False)
    for axis, (kind, half) in zip(axes[0], halves.items(), strict=True):
        ends = [half["edges"][0], half["edges"][-1]] if half["edges"] else [0, 1]
        counts = np.array(half["counts"] or [[0]])
        axis.imshow(np.sqrt(counts), origin="lower", extent=ends * 2, cmap="gray_r", aspect="equal")
        axis.set_title(f"{words.REWARDS[kind]}\nr = {half['r']:.2f}", fontsize=10)
        axis.set(xlabel="even lists", ylabel="odd lists" if axis is axes[0][0] else "")
        most = float(f"{0.75 * ends[1]:.0e}")  # far enough from the middle for labels of any width
        ticks, names = [-most, 0, most], [f"\N{MINUS SIGN}{most:g}", "0", f"{most:g}"]
        axis.set(xticks=ticks, yticks=ticks, xticklabels=names, yticklabels=names, xlim=ends, ylim=ends)
        axis.grid(False)
    plots.below(figure, "reward of a text less its user's mean, on two halves of the user's lists")
    return figure, (
        "A text's reward on half of a user's lists repeats on the other half with "
        + ", ".join(f"r = {half['r']:.2f} ({words.REWARDS[kind]})" for kind, half in halves.items())
        + f" (n = {halves['ndcg']['users']} train users with two lists or more)."
    )


def reliability(records: Records):
    """Split-half correlation of each reward, by what the reward model was trained on."""
    table, begin = loop_tables.reward_reliability(records), records.start
    records.get("reward", f"{begin}-llm-only")
    table = table[(table.split == "train") & table.reward_model.isin([begin, f"{begin}-llm-only"])].copy()
    table["trained"] = np.where(table.reward_model == begin, "trained on LLM texts and templates", "on LLM texts alone")
    figure, axis = plots.bars(table.assign(reward=table.reward.map(words.REWARDS)), "reward", "r", "trained")
    axis.set(
        ylabel=f"split-half correlation (n = {table.users.max()} train users)", xlabel="reward (no interval shown)"
    )
    likely = table[table.reward == "log_likelihood"].set_index("reward_model").r
    return figure, (
        f"The log-likelihood reward of {label(begin)} texts repeats with r = {likely[begin]:.2f} when the reward model read templates "
        f"too and {likely[f'{begin}-llm-only']:.2f} when it read LLM texts alone (n = {table.users.max()} train users)."
    )


def probe(records: Records):
    """How often linear probes and the rule "the longer wins" order pairs rightly, by what orders the pairs."""
    table = loop_tables.probe(records)
    labelled = table.assign(
        pairs=[words.estimate_label(row.estimate, row.equal_length) for row in table.itertuples()],
    )
    figure, axis = plots.dots(labelled, "probe", "accuracy", "pairs", ("ci_low", "ci_high"))
    axis.axvline(0.5, color="black", linestyle=":")
    axis.set_xlim(min(0.35, table.ci_low.min()) - 0.02, 1.02)
    plots.below(
        figure, "share of pairs ordered rightly, users of other folds (dotted: chance; bars: 95 % interval of users)"
    )
    accuracy = table.set_index(["estimate", "equal_length", "probe"]).accuracy.sort_index()
    return figure, (
        f"Of pairs by realised rewards the longer text wins {accuracy['realised', False, 'the longer wins']:.0%} and the best probe "
        f"guesses {accuracy['realised', False].max():.0%} (n = {table.pairs.max()} pairs). Amortised rewards are such a probe's own "
        f"guesses, so the {accuracy['amortised', True].max():.0%} at equal length are a ceiling and no result."
    )


# Notebook 04


def heldout(records: Records):
    """Share of held-out pairs that each round's policy orders rightly, beside "the longer wins" and probes of the
    texts."""
    table = loop_learning.learning(records)
    table["name"] = [label(round_name(row["round"], row["loop"])) for _, row in table.iterrows()]
    columns = {"the policy": "heldout_accuracy", "lengths within two tokens": "matched_accuracy"}
    columns |= {"the longer wins": "longer_wins", "probe: facts named": "facts_accuracy"}
    columns |= {"probe: the vector": "vector_accuracy"}
    parts = []
    for name, column in columns.items():
        ends = [column.replace("accuracy", end) for end in ("ci_low", "ci_high")]
        ends = ends if ends[0] in table else (column, column)
        values = {"accuracy": table[column], "low": table[ends[0]], "high": table[ends[1]]}
        parts.append(table[["name"]].assign(of=name, **values))
    figure, axis = plots.dots(pd.concat(parts), "name", "accuracy", "of", ("low", "high"))
    axis.axvline(0.5, color="black", linestyle=":")
    axis.set_xlim(min(0.35, table.heldout_ci_low.min(), table.matched_ci_low.min()) - 0.02, 1.02)
    dpo = table[table["loop"] == "dpo"]
    pairs, matched = (" and ".join(f"{n:.0f}" for n in dpo[column]) for column in ("heldout_pairs", "matched_pairs"))
    plots.below(
        figure,
        f"share of held-out pairs ordered rightly (dotted: chance; bars: 95 % interval of users; DPO's rounds have {pairs} pairs, "
        f"{matched} within two tokens)",
    )
    shares = [f"{r.heldout_accuracy:.0%} ({r.heldout_ci_low:.0%} to {r.heldout_ci_high:.0%})" for r in dpo.itertuples()]
    return figure, (
        f"On pairs of users that no step of the LLM was trained on, DPO's rounds order {' and '.join(shares)} as the reward does; "
        f"the longer text wins {' and '.join(f'{value:.0%}' for value in dpo.longer_wins)}."
    )


STEPS = 9  # of the running mean


def training(records: Records):
    """Running means of DPO's margin and of the share of pairs ordered rightly, the rounds beside their control."""
    rounds = dict.fromkeys((1, records.config["alignment"]["rounds"]))
    names = [round_name(number, loop) for number in rounds for loop in ("dpo", "random_labels")]
    logs = {
        name: records.metrics("policy", name)["log"] for name in names if name in loop_tables.trained_policies(records)
    }
    figure, (left, right) = plots.blank(plots.WIDTH, 3.8, 2)
    for i, (name, log) in enumerate(logs.items()):
        for axis, key in ((left, "rewards/margins"), (right, "rewards/accuracies")):
            plots.line(axis, plots.running_mean([row[key] for row in log], STEPS), i, label(name), markers=False)
    left.axhline(0, color="black", linewidth=0.8)
    right.axhline(0.5, linestyle=":", color="black")
    left.set(xlabel="step", ylabel="margin (nats times beta)")
    right.set(xlabel="step", ylabel="ordered rightly (dotted: chance)")
    plots.legend_above(figure, left)
    plots.below(figure, f"running means of {STEPS} steps; every pair is new to the policy when it is read")
    first, weight = logs[names[0]][0]["loss"], records.config["alignment"]["chosen_weight"]
    starts = f"ln 2 and {weight:g} times the chosen texts' own" if weight else "ln 2 is 0.6931"
    accuracy = {name: loop_tables.accuracy_on_new_pairs(log) for name, log in logs.items()}
    return figure, (
        "Of pairs that it has not yet been trained on a policy orders rightly "
        + ", ".join(f"{value:.0%} ({label(name)})" for name, value in accuracy.items() if np.isfinite(value))
        + f" (chance: 50%, no interval). The loss starts at {first:.4f} ({starts})."
    )


def texts(records: Records):
    """Shares of texts that say three things, a row a policy."""
    facts = {"decade": "a decade", "title": "a title of the history", "liked_wrong": "something disliked as liked"}
    guards = loop_tables.text_guards(records)
    rounds = [name for name in guards.arm if name.startswith("dpo_round_")]
    arms = [*loop_tables.untrained_policies(records), *rounds, "template"]
    table = guards[guards.arm.isin(arms)].melt("arm", list(facts), "says", "share")
    table = table.assign(arm=table.arm.map(label), says=table.says.map(facts))
    figure, axis = plots.dots(table, "arm", "share", "says")
    plots.below(figure, "share of texts (no interval shown)")
    axis.set_xlim(-0.03, 1.03)
    by_arm = guards.set_index("arm")
    last, template = by_arm.loc[records.last], by_arm.loc["template"]
    wrong = ""
    if np.isfinite(last.liked_wrong):  # a catalogue without attributes knows nothing that users avoid
        wrong = f"; of users who avoid something {last.liked_wrong:.0%} of the texts call it liked (templates: {template.liked_wrong:.0%})"
    return figure, (
        f"After the last round {last.decade:.0%} of the texts name a decade and {last.title:.0%} a title of the history{wrong}; "
        f"validation users, n = {int(last.texts)} texts."
    )


def changed_words(records: Records):
    """The words whose share of texts changed most from the start to the last round."""
    begin, last = records.start, records.last
    metrics = records.metrics("words", f"{begin}-{last}")
    table = pd.DataFrame(metrics["rows"])
    figure, axis = plots.before_and_after(table, "word")
    axis.set(xlabel=f"share of texts that hold the word (n = {metrics['texts']})")
    gained, lost = table[table.change > 0].iloc[::-1], table[table.change < 0]
    phrase = "'{0.word}' ({0.before:.0%} to {0.after:.0%})".format
    parts = [", ".join(phrase(row) for row in part.head(3).itertuples()) or "nothing" for part in (gained, lost)]
    return figure, (
        f"From {label(begin)} to {label(last)} the texts gain {parts[0]} and lose {parts[1]} "
        f"(share of texts that hold the word, n = {metrics['texts']} texts of all users)."
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
    table = loop_tables.rewards_by_round(records)
    series = {name: place for name, place in series.items() if place[0] in set(table.split)}
    figure, axis = plots.blank(height=5.0)
    for i, (name, (split, reward)) in enumerate(series.items()):
        part = table[(table.split == split) & (table.reward == reward) & (table["round"] > 0)]
        mean = np.r_[0, part.difference_to_round_0]
        half = np.r_[0, 1.96 * np.abs(part.difference_to_round_0 / part.t.replace(0, np.nan))]
        place = plots.dodge(np.r_[0, part["round"]], i, len(series))
        plots.line(axis, plots.Curve(place, mean, half), i, name)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="DPO round", ylabel="change of log-likelihood (nats a candidate)\nbars: 95 % interval of users")
    plots.legend_above(figure, axis)
    end = table[table["round"] == table["round"].max()].set_index(["split", "reward"])
    referees, claim = (end.loc[("validation", f"{who}_log_likelihood")] for who in ("independent", "claimed"))
    users = records.metrics("data", "cohort")["users"]["validation"]
    return figure, (
        f"After round {table['round'].max()} the reward models claim {claim.difference_to_round_0:+.4f} nats a candidate for validation "
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
    rows = table[table.reward == "ndcg"]
    figure = _two_panels(rows, "samples", "gain", "texts a user (N)", "gain on the other half (NDCG@10)")
    best = rows.iloc[-1]
    return figure, (
        f"The best of {best.samples} texts by half of a user's lists gains {best.gain:+.4f} NDCG@10 over the mean text on the other half; "
        f"sampling them takes {best.minutes:.1f} minutes (bars: 95 % interval, n = {best.users} train users)."
    )


def _two_panels(table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str):
    """`y` with its interval (column `ci_half`), and `minutes`, side by side over the same `x`."""
    figure, (left, right) = plots.blank(plots.WIDTH, 3.4, 2)
    plots.line(left, plots.Curve(table[x], table[y], table.ci_half), 0)
    plots.line(right, plots.Curve(table[x], table.minutes), 1)
    if y == "gain":
        left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel=xlabel, ylabel=ylabel, xticks=table[x])
    right.set(xlabel=xlabel, ylabel="minutes so far", xticks=table[x])
    right.set_ylim(bottom=0)
    return figure
