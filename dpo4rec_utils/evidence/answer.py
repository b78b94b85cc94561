"""The answer in four lines: what the last round beats, what it does not, what it loses to, and where that was seen."""

from dpo4rec_utils.arms import VARIANTS, label
from dpo4rec_utils.evidence import loop_tables, tables
from dpo4rec_utils.evidence.figures import backbone_label, better_worse
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import MissingRecordError

DATA = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "games": "Amazon games",
    "book-crossing": "Book-Crossing",
    "amazon": "Amazon Reviews 2023",
}
MODELS = {"embedded": "SmolLM2-135M-Instruct", "gemma-3-270m": "Gemma 3 270M"}


def answer(records: Records, scorer: str = "own") -> dict[str, str]:
    """Beats, no difference seen, loses to, history mean + last round, learnt, seen on: a line each, NDCG@7 under popularity
    negatives by one scorer.

    A baseline is beaten where the interval of the mean over backbones that do not read the history lies above zero, and the
    last round loses where it lies below; a backbone that reads it stands beside. Intervals are not corrected for the
    number of baselines, the counts of backbones are.
    """
    rows = tables.headline(records)
    rows = rows[(rows.protocol == "popularity") & (rows.scorer == scorer)]
    mine = rows[(rows.arm == records.last) & (rows.group == "mean")]
    parts = {
        "Beats": mine[mine.ci_low > 0],
        "No difference seen": mine[(mine.ci_low <= 0) & (mine.ci_high >= 0)],
        "Loses to": mine[mine.ci_high < 0],
        "History mean + last round, less": rows[(rows.arm == "history_mean+dpo") & (rows.group == "mean")],
    }
    lines = {name: " · ".join(_line(row, rows) for row in part.itertuples()) or "-" for name, part in parts.items()}
    if scorer == "own":
        seen, unseen = seen_by_shared(records, list(parts["Beats"].baseline))
        told = (", ".join(seen) or "none") + (f"; not {', '.join(unseen)}" if unseen else "")
        lines["Of these gains shared scorers see"] = told
    return lines | {"Learnt": learnt(records), "Seen on": seen_on(records)}


def seen_by_shared(records: Records, beaten: list[str]) -> tuple[list[str], list[str]]:
    """Labels of the baselines that own scorers say are beaten: of which shared ones say so, too, and of which they do not."""
    table = tables.last_round(records)
    low = table[table.scorer == "shared"].set_index("baseline").ci_low
    seen, unseen = [], []
    for name in beaten:
        if name in low:
            (seen if low[name] > 0 else unseen).append(label(name))
    return seen, unseen


def _line(row, rows) -> str:
    counts = better_worse({"better": row.better, "worse": row.worse, "backbones": row.backbones})
    beside = rows[(rows.arm == row.arm) & (rows.baseline == row.baseline) & (rows.group != "mean")]
    readers = "".join(f"; {backbone_label(r.group)} {r.difference:+.4f}" for r in beside.itertuples())
    return f"{label(row.baseline)} {row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f}; {counts}{readers})"


def learnt(records: Records) -> str:
    """How often rounds order held-out pairs as the reward does, beside random labels, lengths, users' own lists and referees."""
    try:
        table = loop_tables.learning(records)
    except MissingRecordError:
        return "-"
    parts = [_learnt(row) for row in table[table["loop"] == "dpo"].itertuples()]
    return "; ".join(
        [f"held-out pairs ordered as the reward does: {parts[0]}", *parts[1:], *_seen_by_referees(records)]
    )


def _learnt(row) -> str:
    points = [f"{100 * x:+.0f}" for x in (row.over_random, row.over_random_ci_low, row.over_random_ci_high)]
    return (
        f"round {row.round} {row.heldout_accuracy:.0%} ({row.heldout_ci_low:.0%} to {row.heldout_ci_high:.0%}), the longer text "
        f"{row.longer_wins:.0%}, random labels {row.heldout_accuracy - row.over_random:.0%} ({points[0]} points, {points[1]} to "
        f"{points[2]}), agreeing with users' own lists on {row.realised_accuracy:.0%} (the reward {row.label_realised:.0%})"
    )


def _seen_by_referees(records: Records) -> list[str]:
    try:
        table = loop_tables.rounds(records)
    except MissingRecordError:
        return []
    mine = table[table["loop"] == "dpo"]
    return [
        f"referees, round {r.round}: {r.referees_validation:+.4f} nats (t {r.referees_t:.1f})"
        for r in mine.itertuples()
    ]


def seen_on(records: Records) -> str:
    """Data, LLM, test users, folds, seeds and backbones in a line."""
    config, users = records.config, tables.count_test_users(records)
    data, model = config["data"]["name"], config["llm"]["model"]
    folds = f" in {records.folds} user folds, a loop each" if records.folds > 1 else ", one loop"
    return (
        f"{DATA.get(data, data)}, {MODELS.get(model, model)}, {users} test users{folds}, {config['evaluation']['seeds']} seeds of "
        f"{len(records.backbones)} backbones" + "".join(f". {note.rstrip('.')}" for note in records.notes)
    )


def shortfalls(records: Records) -> list[str]:
    """What a stage got less of than it asked for: policies and variants trained on fewer pairs, in words."""
    in_pairs = {name for name, variant in VARIANTS.items() if not variant.grpo}  # GRPO counts groups
    found, named = [], {*loop_tables.trained_policies(records), *in_pairs}
    for fold in range(records.folds):
        for record in records.kind("policy", fold):
            asked, got = record["config"]["alignment"]["pairs"], record["metrics"]["examples"]
            if record["name"] in named and got < asked:
                where = f" in user fold {fold}" if records.folds > 1 else ""
                found.append(f"{label(record['name'])}{where} was trained on {got} pairs of {asked}")
    return found
