"""What rounds have learnt: held-out pairs, users' own lists, referees. A row a round of a loop, or a variant of it."""

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import LOOPS, label, round_name, trained_loops
from dpo4rec_utils.evidence.loop_tables import (
    ablation_preference,
    referee_values,
    repetitive_share,
    trained_policies,
)
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import clustered_mean, clustered_share, t_of_mean
from dpo4rec_utils.metrics import rightly_ordered
from dpo4rec_utils.variants import VARIANTS

MATCHED = 2  # tokens by which the lengths of a matched pair differ at most


def learning(records: Records, policies: list[str] | None = None) -> pd.DataFrame:
    """The columns of `rounds` that held-out pairs and texts tell, before any referee has read a text; a row a round
    of every loop, or a policy of `policies`."""
    rows = []
    for name in policies or trained_policies(records):
        metrics, texts = records.metrics("heldout", name), records.metrics("texts", name)
        row = {key: metrics[key] for key in ("loop", "round", "pairs", "pair_users")}
        row |= _pair_shares(records.values("heldout", name)) | _over_random(records, name)
        row |= {"kl": metrics["kl"], "mean_tokens": texts["tokens"] / texts["texts"]}
        shares = {"finished": texts["finished"] / texts["texts"], "repetitive": repetitive_share(records, name)}
        shares |= {"distinct_texts": texts["distinct"] / texts["texts"]}
        rows.append(row | shares)
    return pd.DataFrame(rows)


def rounds(records: Records) -> pd.DataFrame:
    """What every round of every loop was given, has learnt and is worth: a row a loop and round.

    pairs, pair_users: trained on. heldout_*: share of held-out pairs that the policy orders rightly, by the sign of its
    log-ratio to the policy before the round, with the 95 % interval of users; longer_wins: of the same pairs the longer
    text; matched_accuracy: on the matched_pairs whose lengths differ by two tokens at most. over_random: DPO's accuracy
    less that of random labels of the same round on the same pairs. realised_accuracy: how often the log-ratio agrees
    with those of the user's own lists that gave no reward, as the same reward models read them, and label_realised: how
    often the pairs' own order does.
    facts_accuracy, vector_accuracy, probe_accuracy: of linear probes that read the text's facts, its vector, and all
    that the amortised reward is made of, which makes the last a ceiling where rewards are amortised. reward_*: change
    by the round's own reward
    model, referees_validation: by referees (t in referees_t), both log-likelihood in nats a candidate against the
    policy before the round; referees_over_random_*: a round of DPO above random labels of the same round, the baseline
    that ranking has, of validation and of test users. kl: nats a text from the policy before. mean_tokens, finished
    (share), repetitive (share that repeat themselves), distinct_texts (share): of all texts.
    """
    values, rows = referee_values(records), []
    for turn in records.metrics("referees", "rounds")["turns"]:
        name, before = turn["after"], turn["before"]
        row = {key: turn[key] for key in ("loop", "round")}
        row |= {f"reward_{split}": values[f"{name}/{split}/claimed"].mean() for split in ("train", "validation")}
        change = values[f"{name}/validation/log_likelihood"] - values[f"{before}/validation/log_likelihood"]
        row |= {"referees_validation": change.mean(), "referees_t": t_of_mean(change)}
        rows.append(row | _referees_over_random(values, turn))
    return learning(records).merge(pd.DataFrame(rows))[list(ROUNDS)]


def _referees_over_random(values: dict[str, np.ndarray], turn: dict) -> dict:
    """What referees give to a round of DPO above random labels of the same round, of validation and of test users."""
    columns, control = {}, round_name(turn["round"], "random_labels")
    for split in ("validation", "test"):
        gain = np.array([np.nan])
        if turn["loop"] == "dpo" and f"{control}/{split}/log_likelihood" in values:
            gain = values[f"{turn['after']}/{split}/log_likelihood"] - values[f"{control}/{split}/log_likelihood"]
        columns |= {f"referees_over_random_{split}": gain.mean(), f"referees_over_random_{split}_t": t_of_mean(gain)}
    return columns


# The columns of `rounds`, in their order.
ROUNDS = [
    "loop",
    "round",
    "pairs",
    "pair_users",
    "heldout_pairs",
    "heldout_accuracy",
    "heldout_ci_low",
    "heldout_ci_high",
    "longer_wins",
    "matched_accuracy",
    "reward_train",
    "reward_validation",
    "referees_validation",
    "kl",
    "mean_tokens",
    "finished",
    "repetitive",
    "distinct_texts",
    "over_random",
    "over_random_ci_low",
    "over_random_ci_high",
    "matched_pairs",
    "matched_ci_low",
    "matched_ci_high",
    "realised_accuracy",
    "realised_ci_low",
    "realised_ci_high",
    "label_realised",
    "facts_accuracy",
    "vector_accuracy",
    "probe_accuracy",
    "referees_t",
    *(f"referees_over_random_{split}{end}" for split in ("validation", "test") for end in ("", "_t")),
]


def _pair_shares(pairs: pd.DataFrame) -> dict:
    """The columns of `rounds` that are read from one policy's held-out pairs (user, tokens, unseen, probes,
    value)."""
    user, margin, read = pairs.user.to_numpy(), pairs.value.to_numpy(), read_by_lists(pairs)
    matched = (pairs.tokens.abs() <= MATCHED).to_numpy()
    shares = {
        "heldout": clustered_share(rightly_ordered(margin), user),
        "matched": clustered_share(rightly_ordered(margin[matched]), user[matched]),
        "realised": clustered_share(rightly_ordered(read.value * np.sign(read.unseen)), read.user.to_numpy()),
    }
    columns = {name: value for part, share in shares.items() for name, value in _interval(part, share).items()}
    return columns | {
        "heldout_pairs": len(pairs),
        "longer_wins": rightly_ordered(pairs.tokens).mean(),
        "matched_pairs": int(matched.sum()),
        "label_realised": rightly_ordered(read.unseen).mean(),
        "facts_accuracy": rightly_ordered(pairs.probe_facts).mean(),
        "vector_accuracy": rightly_ordered(pairs.probe_vector).mean(),
        "probe_accuracy": rightly_ordered(pairs.probe_fit).mean(),
    }


def read_by_lists(pairs: pd.DataFrame) -> pd.DataFrame:
    """The held-out pairs of users with a list that gave no reward; `unseen`: what those lists say."""
    return pairs[pairs.unseen.notna()]


def _interval(name: str, share: tuple[float, float, float], value: str = "_accuracy") -> dict:
    return dict(zip((f"{name}{value}", f"{name}_ci_low", f"{name}_ci_high"), share, strict=True))


def _over_random(records: Records, name: str) -> dict:
    """How much more often a round of DPO orders the pairs rightly than random labels of the same round, pair by
    pair."""
    loop, _, number = name.partition("_round_")
    if loop != "dpo":
        return _interval("over_random", (float("nan"),) * 3, "")
    policy, control = (records.values("heldout", policy) for policy in (name, round_name(int(number), "random_labels")))
    gain = rightly_ordered(policy.value) - rightly_ordered(control.value)
    return _interval("over_random", clustered_mean(gain, policy.user), "")


def variants(records: Records) -> pd.DataFrame:
    """What one round learns with one thing changed: round 1, random labels and every trained variant.

    Columns as in `rounds`; mean_tokens, finished, repetitive and distinct_texts are of validation users' texts for
    variants, who have no others, and of all users' for the first two rows. pairs of GRPO: its groups. referees_ci_half:
    half the width of the 95 % interval of users; minutes: of training. A variant with another reward is judged on pairs
    by that reward, all others on the pairs of round 1.
    """
    trained = [name for name in records.config["evaluation"]["ablations"] if not VARIANTS[name].prompt]
    names = [
        *(name for name in trained_policies(records) if name in ("dpo_round_1", "random_labels_round_1")),
        *trained,
    ]
    judged = ablation_preference(records)
    judged = judged[(judged.split == "validation") & (judged.reward == "log_likelihood")].set_index("arm").loc[names]
    minutes = [records.get("policy", name)["seconds"] / 60 for name in names]
    columns = {"referees_validation": judged.difference, "referees_ci_half": judged.ci_half, "referees_t": judged.t}
    table = learning(records, names).assign(policy=names, minutes=minutes)
    table = table.assign(**{name: values.to_numpy() for name, values in columns.items()})
    table = table.drop(columns=["loop", "round", *(name for name in table if name.startswith("over_random"))])
    return table[["policy", *(name for name in ROUNDS if name in table), "referees_ci_half", "minutes"]]


def agreement(records: Records) -> pd.DataFrame:
    """How often an order of held-out pairs is that of the user's own lists, of those lists that gave no reward.

    The same reward models read them, so what these models like whatever the list is in both.

    Orders: `reward`, the pairs' own; `longer`, the longer text; and the log-ratio of every round's policy to the one
    before, by loop: those of loops by preference on their own pairs, the controls' on the headline's. Pooled over
    rounds. Columns: order, label, rounds, pairs, users, agreement, ci_low, ci_high (95 %, of users).
    """
    loops = trained_loops(records.config["evaluation"]["arms"])
    tables = {loop: _pooled(records, loop) for loop in loops}
    by_preference = pd.concat([table for loop, table in tables.items() if not LOOPS[loop].control])
    rows = [
        _row("reward", "the reward itself", by_preference, np.ones(len(by_preference))),
        _row("longer", "the longer text", by_preference, by_preference.tokens),
    ]
    return pd.DataFrame(rows + [_row(loop, label(loop), table, table.value) for loop, table in tables.items()])


def _pooled(records: Records, loop: str) -> pd.DataFrame:
    rounds = range(1, records.config["alignment"]["rounds"] + 1)
    return pd.concat([records.values("heldout", round_name(r, loop)).assign(round=r) for r in rounds])


def _row(order: str, words: str, pairs: pd.DataFrame, ordered_by) -> dict:
    """`ordered_by`: a value a pair, above 0 where the order agrees with the pair's."""
    read = read_by_lists(pairs.assign(ordered_by=np.asarray(ordered_by)))
    share = clustered_share(rightly_ordered(read.ordered_by * np.sign(read.unseen)), read.user.to_numpy())
    counts = {"rounds": pairs["round"].nunique(), "pairs": len(read), "users": read.user.nunique()}
    return {"order": order, "label": words} | counts | dict(zip(("agreement", "ci_low", "ci_high"), share, strict=True))
