"""The answer of several data sets side by side, as README shows it: a verdict each, differences, and what was learnt."""

import pandas as pd

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence import loop_tables, tables
from dpo4rec_utils.evidence.answer import DATA, seen_by_shared, seen_on, shortfalls
from dpo4rec_utils.evidence.figures import backbone_label, group_label
from dpo4rec_utils.evidence.records import Records

SIDES = {"Beats": 1, "No difference seen": 0, "Loses to": -1}


def side_by_side(profiles: list[Records]) -> str:
    """Markdown: a line a data set, a table of differences, a table of what rounds learnt; own scorers, popularity negatives."""
    lines = [f"- **{seen_on(records)}.** {verdict(records)}{_not_learnt(records)}" for records in profiles]
    return "\n\n".join(["\n".join(lines), markdown(differences(profiles)), markdown(learnt(profiles))])


def _data(records: Records) -> str:
    name = records.config["data"]["name"]
    return DATA.get(name, name)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, its numbers as they are written."""
    return table.to_markdown(index=False, disable_numparse=True)


def _side(row) -> int:
    """1 where the interval lies above zero, -1 where it lies below, 0 where it holds zero."""
    return int(row.ci_low > 0) - int(row.ci_high < 0)


def verdict(records: Records) -> str:
    """Which baselines the last round beats, is not seen to differ from and loses to; which of the gains shared scorers do not
    see; and what a stage got less of than it asked for."""
    own = tables.last_round(records)
    own = own[own.scorer == "own"]
    sides = {words: own[[_side(row) == side for row in own.itertuples()]] for words, side in SIDES.items()}
    parts = [f"{words}: {', '.join(part.baseline.map(label))}." for words, part in sides.items() if len(part)]
    _, unseen = seen_by_shared(records, list(sides["Beats"].baseline))
    parts.append(f"Unseen by shared scorers: {', '.join(unseen) or 'none'}.")
    return " ".join([*parts, *(f"Short of what was asked: {line}." for line in shortfalls(records))])


def _not_learnt(records: Records) -> str:
    """The rounds of DPO that are not seen to order held-out pairs better than chance, in a sentence."""
    table = loop_tables.learning(records)
    chance = loop_tables.not_learnt(table[table["loop"] == "dpo"])
    return f" Not seen to learn: round {', '.join(map(str, chance['round']))}." if len(chance) else ""


def differences(profiles: list[Records]) -> pd.DataFrame:
    """The last round less every baseline, and on top of the history mean less no text and another user's; two columns a data
    set: the backbones that do not read the history, with the interval, and those that do, without. Bold: zero is outside."""
    columns: dict[str, dict[str, str]] = {}
    for records in profiles:
        rows = tables.headline(records)
        rows = rows[(rows.protocol == "popularity") & (rows.scorer == "own")]
        on_top = (rows.arm == "history_mean+dpo") & rows.baseline.isin(["history_mean", "history_mean+dpo_shuffled"])
        for row in rows[(rows.arm == records.last) | on_top].itertuples():
            group = group_label(records, "mean") if row.group == "mean" else backbone_label(row.group)
            columns.setdefault(f"{_data(records)}, {group}", {})[_named_row(row)] = _cell(row)
    return _table(columns, "NDCG@7 of the last round")


def _named_row(row) -> str:
    if row.arm != "history_mean+dpo":
        return f"less {label(row.baseline)}"
    added = label(row.baseline).partition(" + ")[2]
    return f"on top of the history mean, less {added or 'no text'}"


def _cell(row) -> str:
    text = f"{row.difference:+.3f}" + f" ({row.ci_low:+.3f} to {row.ci_high:+.3f})" * (row.group == "mean")
    return f"**{text}**" if _side(row) else text


def learnt(profiles: list[Records]) -> pd.DataFrame:
    """What every round of DPO has learnt, a column a round of a data set."""
    columns = {}
    for records in profiles:
        table = loop_tables.rounds(records)
        for row in table[table["loop"] == "dpo"].itertuples():
            low, high = (f"{100 * x:.0f}" for x in (row.heldout_ci_low, row.heldout_ci_high))
            points = [f"{100 * x:+.1f}" for x in (row.over_random, row.over_random_ci_low, row.over_random_ci_high)]
            over = f"{points[0]} ({points[1]} to {points[2]})"
            seen = row.over_random_ci_low > 0 or row.over_random_ci_high < 0
            columns[f"{_data(records)}, round {row.round}"] = {
                "held-out pairs ordered as the reward does": f"{row.heldout_accuracy:.0%} ({low} to {high})",
                "so ordered by *the longer wins*": f"{row.longer_wins:.0%}",
                "points over random labels": f"**{over}**" if seen else over,
                "agreeing with users' own lists (the reward)": f"{row.realised_accuracy:.0%} ({row.label_realised:.0%})",
                "referees of validation users, nats (t)": f"{row.referees_validation:+.4f} ({row.referees_t:.1f})",
            }
    return _table(columns, "learnt")


def _table(columns: dict[str, dict[str, str]], corner: str) -> pd.DataFrame:
    return pd.DataFrame(columns).fillna("").rename_axis(corner).reset_index()
