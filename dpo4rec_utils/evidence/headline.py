"""README's answer: the last round beside other knowledge, over as many loops as a headline needs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import round_name
from dpo4rec_utils.evidence import loop_learning, loop_tables, tables, words
from dpo4rec_utils.evidence.claims import LEAST_LOOPS, few, verdict
from dpo4rec_utils.evidence.loops import MEAN, Loops, by_seed, differences
from dpo4rec_utils.evidence.records import Records

# README's rows: a baseline each, in plain words.
ROWS = {
    "zero_shot": "the LLM as it comes",
    "random_labels": "random labels",
    "warm_start": "warm start",
    "longer_wins": "longer wins",
    "template": "template",
    "shown_mean": "mean of items shown",
    "history_mean": "history mean",
}


def headline(every: Sequence[Loops]) -> str:
    """Markdown: a row a baseline of `ROWS` with NDCG@7 of the last round minus the baseline's, a column a data set; a
    re-ranker for each, popularity negatives, mean over backbones that do not read the history. Bold: `claims.verdict`
    is 'held' or 'not held'. Then NDCG@7 of the policies and how many rounds are seen to learn. Data sets and LLMs with
    fewer than three loops are left out; a cell of fewer has their number beside it. Empty where none has three."""
    columns = {g.place: _column(g, "own", MEAN) | _policies(g) | _rounds(g) for g in enough(every)}
    return _markdown(columns, every)


def beside(every: Sequence[Loops], baselines: Sequence[str] = tuple(ROWS)) -> str:
    """The same of some baselines by what `headline` leaves out: backbones that read the history, and one re-ranker for
    all texts."""
    columns = {}
    for loops in enough(every):
        groups = tables.backbone_groups(loops.records[0])
        for backbone in [name for group, names in groups.items() if group != MEAN for name in names]:
            columns[f"{loops.place}: {words.backbone_label(backbone)}"] = _column(loops, "own", backbone, baselines)
        columns[f"{loops.place}: one re-ranker"] = _column(loops, "shared", MEAN, baselines)
    return _markdown(columns, every)


def enough(every: Sequence[Loops]) -> list[Loops]:
    """Those with as many loops as a headline needs."""
    return [loops for loops in every if len(loops.records) >= LEAST_LOOPS]


def _markdown(columns: dict[str, dict[str, str]], every: Sequence[Loops]) -> str:
    if not columns:
        return ""
    rounds = every[0].records[0].config["alignment"]["rounds"]
    table = pd.DataFrame(columns).fillna("").rename_axis(f"NDCG@7 of round {rounds}, minus").reset_index()
    return words.markdown(table)


def _column(loops: Loops, scorer: str, backbone: str, baselines: Sequence[str] = tuple(ROWS)) -> dict[str, str]:
    """The cells of baselines that some loop has, by row."""
    table = differences(loops, scorer)
    part = table[(table.arm == loops.last) & (table.backbone == backbone)].set_index("baseline")
    return {ROWS[name]: _cell(part.loc[name].to_dict()) for name in baselines if name in part.index}


def _cell(row: dict) -> str:
    mark = "" if verdict(row).startswith("not visible") else "**"
    return f"{mark}{row['difference']:+.3f}{mark}{few(row['loops'])}"


def _policies(loops: Loops) -> dict[str, str]:
    """NDCG@7 of the warm start, where rounds start there, and after every round, mean over loops."""
    first = loops.records[0]
    warm = ["warm_start"] * (first.start == "warm_start")
    names = [*warm, *map(round_name, range(1, first.config["alignment"]["rounds"] + 1))]
    means = [np.mean([by_seed(records, "own", name, MEAN).mean() for records in loops.records]) for name in names]
    return {f"*NDCG@7: {'warm start, ' * len(warm)}each round*": ", ".join(f"{mean:.3f}" for mean in means)}


def gain_of_loop(records: Records) -> float:
    """NDCG@7 of a loop's last round minus that of the LLM as it comes, own scorers, mean over backbones that do not
    read the history."""
    last, first = (by_seed(records, "own", arm, MEAN).mean() for arm in (records.last, "zero_shot"))
    return float(last - first)


def _rounds(loops: Loops) -> dict[str, str]:
    """Of all loops' rounds those that are seen to order held-out pairs better than chance and random labels."""
    parts = [loop_learning.learning(r, loop_tables.trained_policies(r, ["dpo"])) for r in loops.records]
    chance = np.concatenate([words.at_chance(part) for part in parts])
    return {"*rounds seen to learn*": f"{(~chance).sum()} of {len(chance)}"}
