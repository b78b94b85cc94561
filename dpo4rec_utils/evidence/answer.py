"""The answer: what the last round's texts are worth beside other knowledge, and what rounds learn. Own scorers lead."""

import pandas as pd

from dpo4rec_utils.arms import label, round_name
from dpo4rec_utils.evidence import loop_learning, loop_tables, tables, words
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import MissingRecordError


def _sides(records: Records) -> dict[str, int]:
    """By baseline of the last round, own scorers: 1 where the last round is above it, -1 below, 0 where neither is
    seen."""
    rows = _own(tables.last_round(records))
    return {row.baseline: words.side(row.ci_low, row.ci_high) for row in rows.itertuples()}


def answer(records: Records) -> dict[str, str]:
    """Lines by name: above, no difference seen, below, history mean + last round minus each, confirmed, not confirmed,
    learning, seen on; NDCG@7 under popularity negatives by own scorers.

    The last round is above a baseline where the interval of the mean over backbones that do not read the history lies
    above zero, and below where it lies below; a backbone that reads it stands beside. Intervals are not corrected for
    the number of baselines, the counts of backbones are.
    """
    rows = _own(tables.headline(records))
    last = rows[(rows.arm == records.last) & (rows.group == "mean")]
    parts = {
        "Above": last[last.ci_low > 0],
        "No difference seen": last[(last.ci_low <= 0) & (last.ci_high >= 0)],
        "Below": last[last.ci_high < 0],
        "History mean + last round, minus": rows[(rows.arm == "history_mean+dpo") & (rows.group == "mean")],
    }
    lines = {name: " · ".join(_line(row, rows) for row in part.itertuples()) or "-" for name, part in parts.items()}
    sides = {name: value for name, value in _sides(records).items() if value}
    lines["Confirmed by one re-ranker for all texts"] = words.listing(map(label, words.confirmed(records, sides)[0]))
    lines["Not confirmed by it"] = words.unconfirmed(records, sides)
    return lines | {"Learning": learning_line(records), "Seen on": words.seen_on(records)}


def _own(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.protocol == "popularity") & (rows.scorer == "own")]


def _line(row, rows: pd.DataFrame) -> str:
    counts = words.better_worse({"better": row.better, "worse": row.worse, "backbones": row.backbones})
    beside = rows[(rows.arm == row.arm) & (rows.baseline == row.baseline) & (rows.group != "mean")]
    readers = "".join(f"; {words.backbone_label(r.group)} {r.difference:+.4f}" for r in beside.itertuples())
    interval = words.signed(row.difference, row.ci_low, row.ci_high).removesuffix(")")
    return f"{label(row.baseline)} {interval}; {counts}{readers})"


def learning_line(records: Records) -> str:
    """How often rounds agree on held-out pairs with lists that gave no reward, then with the reward, beside random
    labels, lengths and referees."""
    try:
        table = loop_learning.learning(records)
    except MissingRecordError:
        return "-"
    parts = [_round_line(row) for row in table[table["loop"] == "dpo"].itertuples()]
    return "; ".join([f"held-out pairs: {parts[0]}", *parts[1:], *_referees(records)])


def _round_line(row) -> str:
    points = [f"{100 * x:+.0f}" for x in (row.over_random, row.over_random_ci_low, row.over_random_ci_high)]
    return (
        f"round {row.round} agrees with lists that gave no reward on "
        f"{words.share(row.realised_accuracy, row.realised_ci_low, row.realised_ci_high)} (the reward on {row.label_realised:.0%}), and "
        f"orders {words.share(row.heldout_accuracy, row.heldout_ci_low, row.heldout_ci_high)} as the reward does that wrote the "
        f"labels, the longer text {row.longer_wins:.0%}, random labels {row.heldout_accuracy - row.over_random:.0%} ({points[0]} "
        f"points, {points[1]} to {points[2]})"
    )


def _referees(records: Records) -> list[str]:
    try:
        table = loop_learning.rounds(records)
    except MissingRecordError:
        return []
    return [
        f"referees, round {row.round}, above the policy before: validation users {row.referees_validation:+.4f} nats (t "
        f"{row.referees_t:.1f}); above random labels: {_above_random(row)}"
        for row in table[table["loop"] == "dpo"].itertuples()
    ]


def _above_random(row) -> str:
    """What referees give to a round above random labels of the same round, of validation and of test users."""
    validation, test = (
        f"{getattr(row, name):+.4f} (t {getattr(row, f'{name}_t'):.1f})"
        for name in ("referees_over_random_validation", "referees_over_random_test")
    )
    return f"validation users {validation}, test users {test}"


# Data sets side by side


def verdict(records: Records) -> str:
    """What the last round is above, not told apart from and below; which gains and losses the one re-ranker for all
    texts does not confirm; which rounds are not seen to learn; what a stage got less of than it asked for."""
    sides = _sides(records)
    parts = []
    for side, text in words.VERDICTS.items():
        if names := [label(name) for name, value in sides.items() if value == side]:
            parts.append(f"{text}: {words.listing(names)}.")
    told_apart = {name: value for name, value in sides.items() if value}
    parts.append(f"Not confirmed by one re-ranker for all texts: {words.unconfirmed(records, told_apart)}.")
    learning = loop_learning.learning(records, loop_tables.trained_policies(records, ["dpo"]))
    names = [f"round {number}" for number in learning["round"]]
    return " ".join(parts) + words.unlearnt(learning, names) + words.short_of(records)


def differences(profiles: list[Records]) -> pd.DataFrame:
    """The last round above every baseline, and on top of the history mean above no text and another user's; two
    columns a data set: the backbones that do not read the history, with the interval, and those that do, without.
    Bold: zero is outside."""
    columns: dict[str, dict[str, str]] = {}
    for records in profiles:
        rows = _own(tables.headline(records))
        on_top = (rows.arm == "history_mean+dpo") & rows.baseline.isin(["history_mean", "history_mean+dpo_shuffled"])
        for row in rows[(rows.arm == records.last) | on_top].itertuples():
            column = f"{words.data_label(records)}, {words.group_label(records, row.group)}"
            columns.setdefault(column, {})[_row_name(row)] = _cell(row)
    return _table(columns, "NDCG@7 of the last round")


def _row_name(row) -> str:
    if row.arm != "history_mean+dpo":
        return f"above {label(row.baseline)}"
    added = label(row.baseline).partition(" + ")[2]
    return f"on top of the history mean, above {added or 'no text'}"


def _cell(row) -> str:
    text = f"{row.difference:+.3f}" + f" ({row.ci_low:+.3f} to {row.ci_high:+.3f})" * (row.group == "mean")
    return f"**{text}**" if words.side(row.ci_low, row.ci_high) else text


def learning_by_round(profiles: list[Records]) -> pd.DataFrame:
    """How every round of DPO ranks and what it has learnt, a column a round of a data set."""
    columns = {}
    for records in profiles:
        table, before = loop_learning.rounds(records), tables.user_mean(records, records.start)
        for row in table[table["loop"] == "dpo"].itertuples():
            ndcg = tables.user_mean(records, round_name(row.round))
            ranking, before = f"{ndcg:.3f} ({ndcg - before:+.3f})", ndcg
            points = [f"{100 * x:+.1f}" for x in (row.over_random, row.over_random_ci_low, row.over_random_ci_high)]
            over, outside = f"{points[0]} ({points[1]} to {points[2]})", row.over_random_ci_low > 0
            columns[f"{words.data_label(records)}, round {row.round}"] = {
                "NDCG@7 (above the policy before)": ranking,
                "held-out pairs: agreeing with lists that gave no reward": words.share(
                    row.realised_accuracy, row.realised_ci_low, row.realised_ci_high
                ),
                "so does the reward": f"{row.label_realised:.0%}",
                "ordered as the reward does, which wrote the labels": words.share(
                    row.heldout_accuracy, row.heldout_ci_low, row.heldout_ci_high
                ),
                "so ordered by *the longer wins*": f"{row.longer_wins:.0%}",
                "points over random labels": f"**{over}**" if outside or row.over_random_ci_high < 0 else over,
                "referees, nats (t) above the policy before": f"{row.referees_validation:+.4f} ({row.referees_t:.1f})",
                "referees above random labels": _above_random(row),
            }
    return _table(columns, "learning")


def _table(columns: dict[str, dict[str, str]], corner: str) -> pd.DataFrame:
    return pd.DataFrame(columns).fillna("").rename_axis(corner).reset_index()


# Tables of docs/results.md


def effect_table(records: Records) -> pd.DataFrame:
    """The last round above each baseline under popularity negatives; MIR, which reads the history, beside."""
    rows = tables.last_round(records)
    columns = {f"{label(records.last)} above": rows.baseline.map(label).tolist()}
    columns["scored by"] = rows.scorer.map(words.SCORERS).tolist()
    for group in tables.backbone_groups(records):
        part = tables.last_round(records, group)
        columns[f"{words.group_label(records, group)}, NDCG@7 (95 % interval)"] = [
            words.signed(row.difference, row.ci_low, row.ci_high) for row in part.itertuples()
        ]
    columns["detectable"] = rows.detectable.map("{:.4f}".format).tolist()
    columns["better / worse / of"] = [f"{row.better} / {row.worse} / {row.backbones}" for row in rows.itertuples()]
    return pd.DataFrame(columns)


def learning_table(records: Records) -> pd.DataFrame:
    """What every round of every loop has learnt."""
    table = loop_learning.rounds(records)
    rows = list(table.itertuples())
    columns = {"round": [label(round_name(row.round, row.loop)) for row in rows]} | learning_columns(table)
    columns["above random labels"] = [
        words.signed(row.over_random, row.over_random_ci_low, row.over_random_ci_high, 3) if row.loop == "dpo" else ""
        for row in rows
    ]
    columns["matched"] = [
        f"{row.matched_accuracy:.2f} ({row.matched_ci_low:.2f} to {row.matched_ci_high:.2f}, n = {row.matched_pairs})"
        for row in rows
    ]
    return pd.DataFrame(columns)


def learning_columns(table: pd.DataFrame) -> dict:
    """The columns that rounds and variants have in common."""
    rows = list(table.itertuples())
    return {
        "pairs of users": [f"{row.pairs} of {row.pair_users}" for row in rows],
        "held-out accuracy": [
            f"{row.heldout_accuracy:.3f} ({row.heldout_ci_low:.3f} to {row.heldout_ci_high:.3f})" for row in rows
        ],
        "longer text right": table.longer_wins.map("{:.3f}".format),
        "lists without a reward (of the reward)": [
            f"{row.realised_accuracy:.2f} ({row.label_realised:.2f})" for row in rows
        ],
        "referees": [f"{row.referees_validation:+.4f} (t = {row.referees_t:.1f})" for row in rows],
        "nats moved": table.kl.map("{:.1f}".format),
        "tokens": table.mean_tokens.map("{:.0f}".format),
        "ended": table.finished.map("{:.0%}".format),
        "repeating": [f"{share:.0%}" if pd.notna(share) else "" for share in table.repetitive],
    }
