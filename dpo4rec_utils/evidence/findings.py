"""What each notebook saw: three sentences a data set, whose numbers and verdicts are read from records.

`make report` writes them into the last cell of each notebook.
"""

from collections.abc import Callable

from dpo4rec_utils.arms import label
from dpo4rec_utils.config import PROTOCOLS
from dpo4rec_utils.evidence import loop_learning, loop_tables, tables, words
from dpo4rec_utils.evidence.records import Records

BESIDE = {0: "not told apart from nothing", 1: "with an interval above zero", -1: "with an interval below zero"}


def seen(notebook: str, profiles: list[Records]) -> str:
    """Markdown: a line of three sentences a data set for a notebook by its number; `KeyError` for one that has none."""
    sentences = FINDINGS[notebook]
    return "\n".join(f"- **{words.data_label(records)}.** {' '.join(sentences(records))}" for records in profiles)


def _data(records: Records) -> tuple[str, ...]:
    cohort, ranked = records.metrics("data", "cohort"), loop_tables.sanity_rankers(records)
    at_seven = ranked[(ranked.metric == "ndcg") & (ranked.k == 7)].set_index(["protocol", "ranker"])["mean"]
    lengths, users = cohort["history_lengths"], cohort["users"]
    gains = {protocol: at_seven[protocol, "popularity"] - at_seven[protocol, "random"] for protocol in PROTOCOLS}
    return (
        f"{users['train']} users train, {users['validation']} choose and {users['test']} are reported on.",
        f"A history has {cohort['history_mean']:.0f} interactions on average and {len(lengths) - 1} at most.",
        f"Ranking by popularity gains {gains['uniform']:+.3f} NDCG@7 over a random order where negatives are drawn uniformly "
        f"and {gains['popularity']:+.3f} where they are popular, too.",
    )


def _knowledge(records: Records) -> tuple[str, ...]:
    texts = loop_tables.knowledge_texts(records).set_index("arm").loc["zero_shot"]
    nearer = records.metrics("guards", "similarity")["own_above_another"]
    value = f"{texts.value:.0%} name a genre and " if texts.value else ""
    return (
        f"The LLM as it comes writes {texts.words:.0f} words a text.",
        f"Of the texts {value}{texts.title:.0%} name a title of the prompt.",
        f"For {nearer:.0%} of the users the first text is nearer to what they liked than to what another user liked; "
        "half would be chance.",
    )


def _reward(records: Records) -> tuple[str, ...]:
    model = records.metrics("reward", records.start)["reliability"]
    probes = loop_tables.probe(records).query("estimate == 'realised' and not equal_length").set_index("probe").accuracy
    longer, probes = probes["the longer wins"], probes.drop("the longer wins")
    return (
        f"A text's reward on half of a user's lists repeats on the other half with r = {model['train/log_likelihood']['r']:.2f}, "
        f"by NDCG with r = {model['train/ndcg']['r']:.2f}.",
        f"The best text by one half gains {model['train/log_likelihood']['gain']:+.4f} nats a candidate on the other half.",
        f"Of the pairs the longer text wins {longer:.0%} and the best of {len(probes)} probes guesses {probes.max():.0%}; half "
        "would be chance.",
    )


def _alignment(records: Records) -> tuple[str, ...]:
    every = loop_learning.rounds(records)
    rounds, controls = every[every["loop"] == "dpo"], every[every["loop"] != "dpo"].groupby("loop", sort=False)
    ordered = words.listing(f"{label(name)} {_shares(part.heldout_accuracy)}" for name, part in controls)
    numbers = rounds[~words.at_chance(rounds)]["round"].astype(int).map(str)
    pooled = loop_learning.agreement(records).set_index("order")
    dpo, reward, others = pooled.loc["dpo"], pooled.loc["reward"], pooled.drop(index=["dpo", "reward"])
    beside = words.listing(f"{row.label} on {row.agreement:.0%}" for row in others.itertuples())
    verdict = f"{'round ' + ' and '.join(numbers) if len(numbers) else 'no round'} of DPO is seen to learn"
    below = rounds[rounds.over_random_ci_high < 0]["round"].astype(int).map(str)
    verdict += f"; round {' and '.join(below)} is below random labels" * (len(below) > 0)
    return (
        f"After each round the texts have {_numbers(rounds.mean_tokens)} tokens, {_shares(rounds.finished)} end and "
        f"{_shares(rounds.repetitive)} repeat themselves.",
        f"Of the held-out pairs the rounds order {_shares(rounds.heldout_accuracy)} as the reward does ({ordered}): {verdict}.",
        f"With lists that gave no reward, as the same reward models read them, the reward agrees on {reward.agreement:.0%} of the pairs, DPO on "
        f"{words.share(dpo.agreement, dpo.ci_low, dpo.ci_high)}; {beside}.",
    )


def _numbers(values) -> str:
    return " and ".join(f"{value:.0f}" for value in values)


def _shares(values) -> str:
    return " and ".join(f"{value:.0%}" for value in values)


def _main_results(records: Records) -> tuple[str, ...]:
    table = tables.last_round(records)
    rows = table[table.scorer == "own"].set_index("baseline")
    return (
        f"The last round ranks {_above(rows, 'zero_shot')} NDCG@7 above the LLM as it comes.",
        f"Above random labels it is {_above(rows, 'random_labels')}, above the policy before round 1 "
        f"{_above(rows, records.start)}.",
        f"NDCG@7, the least first: {_ladder(rows, records)}.",
    )


def _ladder(rows, records: Records) -> str:
    """Every arm of the comparison with its NDCG@7, the last round in bold."""
    value = {label(name): value for name, value in rows.baseline_value.items()}
    value[f"**{label(records.last)}**"] = rows.value.iloc[0]
    return ", ".join(f"{name} {value[name]:.3f}" for name in sorted(value, key=value.get))


def _above(rows, baseline: str) -> str:
    row = rows.loc[baseline]
    return words.signed(row.difference, row.ci_low, row.ci_high, 3)


def _ablations(records: Records) -> tuple[str, ...]:
    means = loop_tables.ablation_knowledge(records).groupby("arm")["mean"].mean()
    adapters = loop_tables.ablation_adapter(records).pivot(index="adapter", columns="arm", values="mean")
    gains = adapters[records.last] - adapters["item"]
    return (
        f"Item text changes NDCG@7 by {means['item'] - means['none']:+.3f} over ids alone, and the user's text without item "
        f"text by {means['user'] - means['none']:+.3f}.",
        f"On top of item text the user's text adds {means[records.last] - means['item']:+.3f}, another user's "
        f"{means['dpo_shuffled'] - means['item']:+.3f} and random words {means['noise'] - means['item']:+.3f}.",
        f"In PRM the user's text adds {gains['hea']:+.3f} with the product of user and item and "
        f"{gains['hea-no-interaction']:+.3f} without it.",
    )


def _iterations(records: Records) -> tuple[str, ...]:
    turn = loop_learning.rounds(records).query("loop == 'dpo'").iloc[-1]
    picked = loop_tables.samples(records).query("reward == 'ndcg'").iloc[-1]
    steps = loop_tables.cost(records).set_index("round")
    last, minutes = steps.iloc[-1], steps.minutes.iloc[-1] - steps.minutes[0]
    gained, half = last.difference_to_round_0, last.ci_half
    seen_by = loop_tables.rewards_by_round(records).query("split == 'test' and reward == 'independent_ndcg'")
    ndcg = seen_by.sort_values("round").iloc[-1]
    return (
        f"Of the last round alone the reward models claim {turn.reward_validation:+.4f} nats a candidate for validation users; "
        f"referees, who gave no reward, see {turn.referees_validation:+.4f}.",
        f"All rounds together take {minutes:.0f} minutes and change the referees' log-likelihood of test users by {gained:+.4f}, "
        f"{BESIDE[words.side(gained - half, gained + half)]}, and their NDCG@10 by {ndcg.difference_to_round_0:+.4f} (t {ndcg.t:.1f}).",
        f"The best of {picked.samples:.0f} texts by half of a user's lists gains {picked.gain:+.3f} NDCG@10 on the other half.",
    )


FINDINGS: dict[str, Callable[[Records], tuple[str, ...]]] = {
    "01": _data,
    "02": _knowledge,
    "03": _reward,
    "04": _alignment,
    "05": _main_results,
    "06": _ablations,
    "07": _iterations,
}
