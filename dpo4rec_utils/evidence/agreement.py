"""Learning by what the loop was not built from: users' own lists, of users no step has seen, that gave no reward."""

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import LOOPS, label, round_name, trained_loops
from dpo4rec_utils.evidence.loop_tables import read_by_lists
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import clustered_share
from dpo4rec_utils.files import NotAskedError
from dpo4rec_utils.metrics import rightly_ordered


def agreement(records: Records) -> pd.DataFrame:
    """How often an order of held-out pairs is that of the user's own lists, of those lists that gave no reward.

    Orders: `reward`, the pairs' own; `longer`, the longer text; and the log-ratio of every round's policy to the one
    before, by loop: those of loops by preference on their own pairs, the controls' on the headline's. Pooled over
    rounds. Columns: order, label, rounds, pairs, users, agreement, ci_low, ci_high (95 %, of users). Raises
    `NotAskedError` for records that no such lists were kept for.
    """
    loops = trained_loops(records.config["evaluation"]["arms"])
    tables = {loop: _pooled(records, loop) for loop in loops}
    if "unseen" not in tables["dpo"]:
        raise NotAskedError(f"The records of {records.profile} are older than this measure of learning.")
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
