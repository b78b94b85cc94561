"""The answer in four lines: what the last round beats, what it does not, what it loses to, and where that was seen."""

from dpo4rec_utils.arms import VARIANTS, label
from dpo4rec_utils.evidence import loop_tables, tables
from dpo4rec_utils.evidence.figures import backbone_label, better_worse
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import MissingRecordError

DATA = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "games": "Amazon Video Games 2018",
    "book-crossing": "Book-Crossing",
    "amazon": "Amazon Reviews 2023",
}
MODELS = {"embedded": "SmolLM2-135M-Instruct", "gemma-3-270m": "Gemma 3 270M"}


def answer(records: Records, scorer: str = "own") -> dict[str, str]:
    """Beats, no difference seen, loses to, on top of the history mean, learnt, seen on: a line each, NDCG@7 under popularity
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
        "On top of the history mean": rows[(rows.arm == "history_mean+dpo") & (rows.group == "mean")],
    }
    lines = {name: " · ".join(_line(row, rows) for row in part.itertuples()) or "-" for name, part in parts.items()}
    return lines | {"Learnt": learnt(records), "Seen on": seen_on(records)}


def _line(row, rows) -> str:
    counts = better_worse({"better": row.better, "worse": row.worse, "backbones": row.backbones})
    beside = rows[(rows.arm == row.arm) & (rows.baseline == row.baseline) & (rows.group != "mean")]
    readers = "".join(f"; {backbone_label(r.group)} {r.difference:+.4f}" for r in beside.itertuples())
    name = label(row.baseline).removeprefix("history mean + ")
    return f"{name} {row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f}; {counts}{readers})"


def learnt(records: Records) -> str:
    """How often the headline's rounds order pairs of held-out users rightly, with the rule "the longer wins" beside."""
    try:
        table = loop_tables.learning(records)
    except MissingRecordError:
        return "-"
    table = table[table["loop"] == "dpo"]
    shares = [
        f"{r.heldout_accuracy:.0%} ({r.heldout_ci_low:.0%} to {r.heldout_ci_high:.0%})" for r in table.itertuples()
    ]
    longer = " and ".join(f"{value:.0%}" for value in table.longer_wins)
    return f"of pairs of users that no step was trained on, rounds order {' and '.join(shares)} rightly; the longer text wins {longer}"


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
    found, named = [], {*loop_tables.trained_policies(records), *VARIANTS} - {"grpo", "titles_prompt"}
    for fold in range(records.folds):
        for record in records.kind("policy", fold):
            asked, got = record["config"]["alignment"]["pairs"], record["metrics"]["examples"]
            if record["name"] in named and got < asked:
                where = f" in user fold {fold}" if records.folds > 1 else ""
                found.append(f"{label(record['name'])}{where} was trained on {got} pairs of {asked}")
    return found
