"""The answer in four lines: what the last round beats, what it does not, what it loses to, and where that was seen."""

from dpo4rec_utils.arms import VARIANTS, label
from dpo4rec_utils.evidence import tables
from dpo4rec_utils.evidence.figures import better_worse
from dpo4rec_utils.evidence.loop_tables import accuracy_on_new_pairs
from dpo4rec_utils.evidence.records import Records

DATA = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "games": "Amazon Video Games 2018",
    "book-crossing": "Book-Crossing",
    "amazon": "Amazon Reviews 2023",
}
MODELS = {"embedded": "SmolLM2-135M-Instruct", "gemma-3-270m": "Gemma 3 270M"}


def answer(records: Records, scorer: str = "own") -> dict[str, str]:
    """Beats, no difference seen, loses to, learnt, seen on: a line each, NDCG@7 under popularity negatives by one scorer.

    A baseline is beaten where the interval of the mean over backbones lies above zero, and loses where it lies below; these
    intervals are not corrected for the number of baselines, the counts of backbones are.
    """
    rows = tables.headline(records)
    rows = rows[(rows.protocol == "popularity") & (rows.scorer == scorer)]
    parts = {
        "Beats": rows[rows.ci_low > 0],
        "No difference seen": rows[(rows.ci_low <= 0) & (rows.ci_high >= 0)],
        "Loses to": rows[rows.ci_high < 0],
    }
    lines = {name: " · ".join(_line(row) for row in part.itertuples()) or "-" for name, part in parts.items()}
    return lines | {"Learnt": learnt(records), "Seen on": seen_on(records)}


def _line(row) -> str:
    counts = better_worse({"better": row.better, "worse": row.worse, "backbones": row.backbones})
    return f"{label(row.baseline)} {row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f}; {counts})"


def learnt(records: Records) -> str:
    """How often the rounds order pairs rightly that they are not yet trained on, lowest to highest over rounds and folds."""
    logs = [
        record["metrics"]["log"]
        for fold in range(records.folds)
        for record in records.kind("policy", fold)
        if record["name"].startswith("dpo_round_")
    ]
    found = [value for value in map(accuracy_on_new_pairs, logs) if value == value]
    if not found:
        return "-"
    least, most = f"{min(found):.0%}", f"{max(found):.0%}"
    share = least if least == most else f"{least} to {most}"
    return f"on pairs not yet trained on, rounds are right for {share} (chance: 50 %)"


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
    """What a stage got less of than it asked for: rounds, controls and variants with under 80 % of the pairs, in words."""
    found = []
    for fold in range(records.folds):
        for record in records.kind("policy", fold):
            asked, got = record["config"]["alignment"]["pairs"], record["metrics"]["examples"]
            paired = record["name"].startswith(("dpo_", "random_pairs")) or record["name"] in set(VARIANTS) - {"grpo"}
            if paired and got < 0.8 * asked:
                where = f" in user fold {fold}" if records.folds > 1 else ""
                found.append(f"{label(record['name'])}{where} was trained on {got} pairs of {asked}")
    return found
