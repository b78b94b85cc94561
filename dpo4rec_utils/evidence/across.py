"""Table 1 as figures: the headline, every round, and where the gain is, over all loops and data sets."""

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from dpo4rec_utils.arms import ARMS, BASELINES, label, round_name
from dpo4rec_utils.evidence import loop_learning, loop_tables, plots, tables, words
from dpo4rec_utils.evidence.claims import ALPHA
from dpo4rec_utils.evidence.contents import write_figure
from dpo4rec_utils.evidence.loops import MEAN, PROFILE, Loops, by_seed, differences, table_one, training_noise
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import LoopNoise, looped_differences
from dpo4rec_utils.files import NotAskedError, project_root
from dpo4rec_utils.locks import HOLDS
from dpo4rec_utils.seeds import generator

THIRDS = ("lowest", "middle", "highest")
FACTS = ("interactions", "popularity of liked items")  # about users, of the record `data-test_users`


def forest(every: Sequence[Loops]):
    """The last round minus each baseline, a marker a data set and LLM."""
    rows = []
    for loops in every:
        table = differences(loops, "own")
        part = table[(table.arm == loops.last) & (table.backbone == MEAN)]
        rows.append(part.assign(place=loops.place))
    table = pd.concat(rows, ignore_index=True)
    order = {name: place for place, name in enumerate(BASELINES)}  # an earlier round comes last
    table = table.sort_values("baseline", key=lambda names: names.map(order).fillna(len(order)), kind="stable")
    clear = (table.p_holm < ALPHA) & ((table.ci_low > 0) | (table.ci_high < 0))
    marked = table.assign(baseline=table.baseline.map(label), filled=clear)
    figure, _ = plots.dots(marked, "baseline", "difference", "place", ("ci_low", "ci_high"))
    plots.below(
        figure,
        "NDCG@7, last round minus each, a re-ranker for each (bars: 95 % interval; filled: Holm's p below .05, too)",
    )
    counts = []
    for name, part in table.assign(side=np.sign(table.difference) * clear).groupby("baseline", sort=False):
        counts.append(f"{label(name)} {(part.side > 0).sum()} / {(part.side < 0).sum()} / {len(part)}")
    return figure, f"Above / below / of how many, after Holm's correction: {'; '.join(counts)}."


def rounds(every: Sequence[Loops]):
    """NDCG@7 of the warm start and of every round above the zero-shot LLM, and the minutes that they take."""
    figure, (left, right) = plots.blank(plots.WIDTH, 3.6, 2)
    rises = []
    for number, loops in enumerate(every):
        turns = range(1, loops.records[0].config["alignment"]["rounds"] + 1)
        names = ["warm_start", *map(round_name, turns)]
        minutes = np.cumsum([_minutes(loops, name) for name in ("zero_shot", *names)])
        places = plots.dodge(range(len(minutes)), number, len(every))
        _rise(left, places, [gain(loops, name) for name in names], number, loops.place)
        plots.line(right, plots.Curve(range(len(minutes)), minutes), number)
        table = differences(loops, "own")
        row = table[(table.arm == loops.last) & (table.baseline == "warm_start") & (table.backbone == MEAN)].iloc[0]
        rises.append(f"{words.signed(row.difference, row.ci_low, row.ci_high, 3)} on {loops.place}")
    for axis in (left, right):
        axis.set_xticks(
            range(len(minutes)), ["as it\ncomes", "warm\nstart", *(f"round\n{n}" for n in range(1, len(names)))]
        )
    left.set(ylabel="gain in NDCG@7")
    right.set(ylabel="minutes", ylim=(0, None))
    plots.legend_above(figure, left)
    plots.below(figure, "gain over the LLM as it comes (bars: 95 % interval); minutes up to there (machines differ)")
    return figure, f"The last round minus the warm start, NDCG@7 (95 % interval): {'; '.join(rises)}."


def _rise(axis, places: Sequence, gains: list[dict], number: int, name: str) -> None:
    """A line from zero at the first of `places` through rows of `gain` at the others, with their intervals."""
    means = [0.0, *(row["difference"] for row in gains)]
    bars = [(0.0, 0.0), *((row["difference"] - row["ci_low"], row["ci_high"] - row["difference"]) for row in gains)]
    plots.line(axis, plots.Curve(places, means, np.transpose(bars)), number, name)


def gain(
    loops: Loops,
    arm: str,
    view: Callable[[Records, np.ndarray], np.ndarray] | None = None,
    backbone: str = MEAN,
    baseline: str = "zero_shot",
) -> dict:
    """What an arm has over a baseline, own scorers, over all loops with both; view: what is made of the
    differences (S, U) of a loop before they are averaged, such as those of some users."""
    changes = _changes(loops, arm, baseline, backbone, view)
    return _pooled(loops, changes, training_noise(loops, "own", backbone != MEAN), f"{arm}/{backbone}")


def _changes(loops: Loops, arm: str, baseline: str, backbone: str, view: Callable | None) -> list[np.ndarray]:
    """Differences (S, U) of every loop with both arms, own scorers, seen through `view`."""
    changes = []
    for records in loops.having(arm, baseline):
        change = by_seed(records, "own", arm, backbone) - by_seed(records, "own", baseline, backbone)
        changes.append(view(records, change) if view else change)
    return changes


def _pooled(loops: Loops, changes: list[np.ndarray], noise: LoopNoise | None, name: str) -> dict:
    """One comparison, differences (S, U) a loop, as `looped_differences` gives it; `name` seeds its resamples."""
    first = loops.records[0]
    rng = generator(first.seed, "gain", loops.name, name)
    columns = [change[:, :, None] for change in changes]
    return looped_differences(columns, first.config["evaluation"]["bootstrap"], rng, noise)[0]


def _minutes(loops: Loops, policy: str) -> float:
    """Minutes, mean over loops, of training a policy, sampling its texts and training the reward model of its round.

    The zero-shot LLM's reward model is no part of the headline's loop: DPO without a warm start alone reads it.
    """
    kinds = ("texts",) if policy == "zero_shot" else ("policy", "texts", "reward")
    made = [(r, kind) for r in loops.records for kind in kinds if f"{kind}-{policy}" in r.listed]
    return sum(records.get(kind, policy)["seconds"] for records, kind in made) / 60 / len(loops.records)


def samples(every: Sequence[Loops]):
    """What the best of N texts of the policy before round 1 gains on lists that did not choose it, and its minutes."""
    figure, (left, right) = plots.blank(plots.WIDTH, 3.6, 2)
    most = []
    for number, loops in enumerate(every):
        parts = [loop_tables.samples(records) for records in loops.records]
        parts = [part[part.reward == "ndcg"].set_index("samples") for part in parts]
        gains, halves = (pd.concat([part[name] for part in parts], axis=1) for name in ("gain", "ci_half"))
        mean, half = gains.mean(axis=1), halves.mean(axis=1)  # loops share users: their intervals are not pooled
        minutes = pd.concat([part.minutes for part in parts], axis=1).mean(axis=1)
        plots.line(left, plots.Curve(plots.dodge(mean.index, number, len(every)), mean, half), number, loops.place)
        plots.line(right, plots.Curve(minutes.index, minutes), number)
        last = mean.iloc[-1]
        most.append(f"{words.signed(last, last - half.iloc[-1], last + half.iloc[-1], 3)} on {loops.place}")
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="texts a user (N)", ylabel="gain in NDCG@10", xticks=gains.index)
    right.set(xlabel="texts a user (N)", ylabel="minutes", xticks=gains.index, ylim=(0, None))
    plots.legend_above(figure, left)
    plots.below(figure, "best of N by half of a train user's lists, on the other half (bars: 95 % interval of users)")
    return figure, (
        f"The best of {gains.index[-1]} texts by half of a train user's lists, minus the mean text, NDCG@10 on the other half (95 % "
        f"interval of users): {'; '.join(most)}."
    )


def texts(every: Sequence[Loops]):
    """NDCG@7 of the last round by how many of a user's texts are read, above one; and in proportion the minutes of
    sampling all of them."""
    figure, (left, right) = plots.blank(plots.WIDTH, 3.6, 2)
    most, reading = [], ("one_text", "two_texts")
    for number, loops in enumerate(every):
        if having := loops.having(*reading):
            last = having[0].config["llm"]["evaluation_samples"]
            counts = np.array([*(ARMS[name].samples for name in reading), last])
            gains = [gain(loops, name, baseline=reading[0]) for name in (*reading[1:], loops.last)]
            minutes = np.mean([records.get("texts", loops.last)["seconds"] for records in having]) / 60
            _rise(left, plots.dodge(counts, number, len(every)), gains, number, loops.place)
            plots.line(right, plots.Curve(counts, counts / last * minutes), number)
            rise = words.signed(*(gains[-1][name] for name in ("difference", "ci_low", "ci_high")), 3)
            most.append(f"{rise} on {loops.place}")
    if not most:
        plt.close(figure)
        return None
    for axis in (left, right):
        axis.set(xlabel="texts of a user that are read", xticks=counts)
    left.set(ylabel="gain in NDCG@7")
    right.set(ylabel="minutes", ylim=(0, None))
    plots.legend_above(figure, left)
    plots.below(
        figure, "the last round above one of its texts (bars: 95 % interval); minutes: a share of those of all texts"
    )
    return figure, f"All texts of a user minus one, last round, NDCG@7 (95 % interval): {'; '.join(most)}."


def length(every: Sequence[Loops]):
    """Texts of the last round and of another policy, both cut to the same number of words, one minus the other, a
    marker a loop; None where no loop holds any."""
    rows = []
    for loops, records in [(group, records) for group in every for records in group.records]:
        with contextlib.suppress(NotAskedError):
            table = tables.ablation_length(records)
            number = PROFILE.fullmatch(records.profile)["number"]
            rows.append(_last_round_first(table[~table.whole]).assign(place=f"{loops.place}, loop {number}"))
    if not rows:
        return None
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(pair=[_uncut(row.arm, row.baseline) for row in table.itertuples()])
    figure, _ = plots.dots(table, "pair", "difference", "place", ("ci_low", "ci_high"))
    plots.below(figure, "NDCG@7, both cut to as many words (a re-ranker for each; bars: 95 % interval, not corrected)")
    parts = []
    for name, part in table.groupby("pair", sort=False):
        cells = [f"{words.signed(r.difference, r.ci_low, r.ci_high, 3)} on {r.place}" for r in part.itertuples()]
        parts.append(f"{name}: {', '.join(cells)}")
    return figure, f"In as many words. {'; '.join(parts)}."


def _last_round_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `tables.ablation_length` with the last round's texts as the arm, so that above zero is for them."""
    turned = table.baseline.str.startswith("dpo_cut_to_")
    swapped = {"arm": table.baseline, "baseline": table.arm, "difference": -table.difference}
    swapped |= {"ci_low": -table.ci_high, "ci_high": -table.ci_low}
    return table.assign(**{name: table[name].mask(turned, column) for name, column in swapped.items()})


def _uncut(arm: str, baseline: str) -> str:
    """Whose texts these are, before they were cut."""
    names = [label(name).partition(", cut to ")[0] for name in (arm, baseline)]
    return f"{names[0]} minus {names[1]}"


def where(every: Sequence[Loops]):
    """The last round minus the zero-shot LLM, by thirds of the test users, by backbones with and without history."""
    table = pd.concat([located(loops).assign(place=loops.place) for loops in every], ignore_index=True)
    figure, _ = plots.dots(table, "part", "difference", "place", ("ci_low", "ci_high"))
    plots.below(figure, "NDCG@7, last round minus the LLM as it comes, a re-ranker for each (bars: 95 % interval)")
    apart = []
    for loops, fact in itertools.product(every, FACTS):
        row = contrast(loops, fact)
        apart.append(f"{loops.place}, {fact} {words.signed(row['difference'], row['ci_low'], row['ci_high'], 3)}")
    return figure, f"The gain in the lowest third minus that in the highest (95 % interval): {'; '.join(apart)}."


def located(loops: Loops) -> pd.DataFrame:
    """The last round's gain over the zero-shot LLM: by thirds of each loop's test users, mean of backbones that do not
    read the history; and of all users, that mean and every backbone that reads it.

    Columns: part (words), fact (missing of backbones), and those of `statistics.looped_differences`.
    """
    rows = []
    for fact in FACTS:
        for third, name in enumerate(THIRDS):

            def view(records, change, fact=fact, third=third):
                return change[:, _third(records, fact, third)]

            rows.append({"part": f"{fact}, {name} third", "fact": fact} | gain(loops, loops.last, view))
    for group, backbones in tables.backbone_groups(loops.records[0]).items():
        names = words.listing([words.backbone_label(b) for b in backbones])
        rows.append({"part": f"all users, {names}"} | gain(loops, loops.last, backbone=group))
    return pd.DataFrame(rows)


def contrast(loops: Loops, fact: str) -> dict:
    """The last round's gain over the zero-shot LLM in the lowest third of test users by a fact, minus that in the
    highest. Both are of the same trainings, so the contrast is made within each loop, and what a training moves for all
    users is no part of its noise."""

    def view(records, change):
        users = change.shape[1]
        low, high = _third(records, fact, 0), _third(records, fact, 2)
        means = change[:, low].mean(), change[:, high].mean()
        parts = np.full_like(change, means[0] - means[1])
        # Weighted so that the mean over users is the contrast of every seed, and their spread is that of both thirds.
        parts[:, low] += users / len(low) * (change[:, low] - means[0])
        parts[:, high] -= users / len(high) * (change[:, high] - means[1])
        return parts

    noise = training_noise(loops, "own")
    changes = _changes(loops, loops.last, "zero_shot", MEAN, view)
    return _pooled(loops, changes, noise and replace(noise, variance=0.0), f"{loops.last}/{MEAN}")


def _third(records: Records, fact: str, third: int) -> np.ndarray:
    """Places of a loop's test users in a third by a fact, 0 the lowest."""
    order = np.argsort(_facts(records)[fact].to_numpy(), kind="stable")
    return np.sort(np.array_split(order, 3)[third])


def _facts(records: Records) -> pd.DataFrame:
    """Facts about a loop's test users, in the order of `by_seed`."""
    table = pd.DataFrame(records.metrics("data", "test_users"))
    values = records.values("own", f"popularity-{records.last}")
    part = values[(values.split == "test") & (values.metric == "ndcg@7") & (values.seed == values.seed.max())]
    users = part[part.backbone == part.backbone.iloc[0]].user
    if users.tolist() != table.user.tolist():
        raise ValueError("the facts are of other users than the scores")
    return table[list(FACTS)]


# What draws a figure, and its title.
FIGURES = {
    "forest": (forest, "The last round minus each baseline."),
    "rounds": (rounds, "NDCG@7 and minutes, round by round."),
    "samples": (samples, "Best of N texts, and the minutes of sampling them."),
    "texts": (texts, "The last round by the number of a user's texts that are read."),
    "length": (length, "Texts of two policies, cut to as many words."),
    "where": (where, "The gain by users and by re-rankers."),
}


def overview(every: Sequence[Loops]) -> pd.DataFrame:
    """NDCG@7 of every arm, a column a data set and LLM: own scorers, popularity negatives, mean over loops, seeds and
    backbones that do not read the history; missing where no loop has the arm. An arm that fewer loops have is a mean
    over those."""
    columns = {}
    for loops in every:
        table = table_one([loops])
        part = table[(table.scorer == "own") & (table.protocol == "popularity")]
        columns[loops.place] = part.set_index(part.arm.map(label))[f"{MEAN} ndcg@7"]
    names = [label(name) for name in dict.fromkeys(name for loops in every for name in loops.arms())]
    return pd.DataFrame(columns).reindex(names).round(4)


def learning_by_loop(every: Sequence[Loops]) -> pd.DataFrame:
    """What every round of DPO learnt in every loop, as a page shows it, random labels of the same round in brackets:
    pairs ordered rightly before the step that is trained on them, and pairs of users on whom no step of the LLM is
    trained, ordered as the reward does that wrote the labels and as those of the users' lists that gave no reward. One
    half is chance where no text is cut or repeats itself: such a text is never chosen, which a policy may foresee."""
    rows = []
    for loops, records in [(group, records) for group in every for records in group.records]:
        policies = loop_tables.trained_policies(records, ["dpo", "random_labels"])
        table = loop_learning.learning(records, policies).set_index(["loop", "round"])
        for number, row in table.loc["dpo"].iterrows():
            control = table.loc["random_labels", number]
            logs = (records.metrics("policy", round_name(number, loop))["log"] for loop in ("dpo", "random_labels"))
            cells = {"data": loops.place, "loop": PROFILE.fullmatch(records.profile)["number"], "round": str(number)}
            cells["before training on a pair"] = "{:.0%} ({:.0%})".format(*map(loop_tables.accuracy_on_new_pairs, logs))
            for name, part in (("as the reward does", "heldout"), ("as unread lists do", "realised")):
                cells[f"held-out pairs {name}"] = f"{row[f'{part}_accuracy']:.0%} ({control[f'{part}_accuracy']:.0%})"
            points = (100 * row[f"over_random{end}"] for end in ("", "_ci_low", "_ci_high"))
            rows.append(cells | {"points over random labels": words.signed(*points, 1)})
    return pd.DataFrame(rows)


def show(name: str) -> None:
    """Show a figure that `make report` drew, as a link to its file, with its finding; says so where there is none."""
    picture = project_root() / "results" / "figures" / f"{name}.png"
    if not picture.exists():
        print("No loop of Table 1 is there for this yet; `make report` draws it once one is.")
        return
    folder = "../.." if os.environ.get(HOLDS) else "../results"  # an executed copy lies in results/<profile>/notebooks
    display(Markdown(f"![{FIGURES[name][1]}]({folder}/figures/{name}.png)"))
    print(picture.with_suffix(".txt").read_text(encoding="utf-8").strip())


def write(every: Sequence[Loops], folder: Path) -> list[Path]:
    """Draw every figure that some loop has records for into `folder` as `<name>.png`, its finding beside it as `.txt`;
    returns the pictures."""
    paths = []
    for name, (draw, _) in FIGURES.items():
        if (drawn := draw(every)) is not None:
            paths.append(folder / f"{name}.png")
            write_figure(paths[-1], *drawn)
            plt.close(drawn[0])
    return paths
