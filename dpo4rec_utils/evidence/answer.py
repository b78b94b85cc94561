"""The answer in four lines: what the last round beats, what it does not, what it loses to, and where that was seen."""

import pandas as pd

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence import tables
from dpo4rec_utils.evidence.figures import better_worse
from dpo4rec_utils.evidence.records import Records

DATA = {"ml-100k": "MovieLens-100K", "ml-1m": "MovieLens-1M"}
MODELS = {"embedded": "SmolLM2-135M-Instruct"}


def answer(records: Records, scorer: str = "own") -> dict[str, str]:
    """Beats, no difference seen, loses to, seen on: a line each, NDCG@7 under popularity negatives by one scorer.

    A baseline is beaten where the interval of the mean over backbones lies above zero, and loses where it lies below.
    """
    rows = tables.headline(records)
    rows = rows[(rows.protocol == "popularity") & (rows.scorer == scorer)]
    parts = {
        "Beats": rows[rows.ci_low > 0],
        "No difference seen": rows[(rows.ci_low <= 0) & (rows.ci_high >= 0)],
        "Loses to": rows[rows.ci_high < 0],
    }
    lines = {name: "; ".join(_line(records, row) for row in part.itertuples()) or "-" for name, part in parts.items()}
    return lines | {"Seen on": seen_on(records)}


def _line(records: Records, row) -> str:
    paired = tables.paired_differences_table(records)
    key = {"protocol": row.protocol, "scorer": row.scorer, "arm": row.arm, "baseline": row.baseline}
    mine = paired[(paired[[*key, "metric", "k"]] == pd.Series(key | {"metric": "ndcg", "k": 7})).all(axis=1)]
    interval = f"{row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f})"
    return f"{label(row.baseline)} {interval}, {better_worse(mine)} backbones"


def seen_on(records: Records) -> str:
    """Data, LLM, test users, folds, seeds and backbones in a line."""
    config, users = records.config, tables.count_test_users(records)
    data, model = config["data"]["name"], config["llm"]["model"]
    folds = f" in {records.folds} user folds, a loop each" if records.folds > 1 else ", one loop"
    return (
        f"{DATA.get(data, data)}, {MODELS.get(model, model)}, {users} test users{folds}, {config['evaluation']['seeds']} seeds of "
        f"{len(records.backbones)} backbones"
    )
