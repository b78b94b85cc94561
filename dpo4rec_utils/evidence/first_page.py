"""README's blocks: the answer, what held, ways to run it and the notebooks."""

import re
from pathlib import Path

import pandas as pd

from dpo4rec_utils.evidence import claims, headline, loop_learning, loop_tables, tables, words
from dpo4rec_utils.evidence.committed import MAIN, NO_LOOPS, read_loops, read_records
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import read_json


def answer(results: Path) -> str:
    """The answer over loops in a table of plain words."""
    return headline.headline(read_loops(results)) or NO_LOOPS


def beside(results: Path) -> str:
    """The answer's first rows by MIR and by one re-ranker for all texts."""
    return headline.beside(read_loops(results), ("zero_shot", "random_labels", "warm_start"))


def held(results: Path) -> str:
    """The paper's claims over all loops, in three lines."""
    if not (every := read_loops(results)):
        return NO_LOOPS
    return f"{claims.made_of(every)}\n\n{claims.in_three_lines(claims.claims(every))}"


def ways(results: Path) -> str:
    """Three ways to run it: command, minutes, memory, the number to expect."""
    records = read_records(results / MAIN)
    table, setup = _notebooks(results), _setup(results)
    peak = table.peak_rss_mib.max() / 1024
    rows = [
        (
            "read it",
            "open [`report.html`](results/ml-100k/report.html), or `make lab`",
            "1 (`make lab` first installs)",
            "1 GiB",
            "one loop",
        ),
        ("smoke", "`make study PROFILE=smoke`", "7 to 17 (AVX-512 or not)", "4 GiB", "none is published"),
        (
            "the study",
            "`make study`",
            f"{(table.seconds.sum() + setup) / 60:.0f}" + (" (set-up apart)" if not setup else ""),
            f"{peak:.1f} GiB",
            expected(records)["05"] + _drawn_again(results),
        ),
    ]
    return words.markdown(
        pd.DataFrame(rows, columns=["", "command", "minutes on 2 cores", "memory", "record of MovieLens-100K"])
    )


def _drawn_again(results: Path) -> str:
    """What the last round has over the LLM as it comes in the loops of the same data: drawn and trained anew."""
    made = [loops for loops in read_loops(results) if loops.name == MAIN]
    gains = [headline.gain_of_loop(records) for loops in made for records in loops.records]
    return f" (loops: {min(gains):+.3f} to {max(gains):+.3f})" if gains else ""


def notebooks(results: Path) -> str:
    """Question, minutes and the number to expect of every notebook."""
    minutes = _notebooks(results).set_index("notebook").seconds / 60
    numbers = expected(read_records(results / MAIN))
    rows = []
    for path in sorted((results.parent / "notebooks").glob("0*.ipynb")):
        title, question = _head(path)
        link, copy = f"[{title}](notebooks/{path.name})", f"[executed](results/{MAIN}/notebooks/{path.name})"
        rows.append((f"{link} ({copy})", question, f"{minutes[path.stem]:.1f}", numbers[path.stem.split("_")[0]]))
    return words.markdown(pd.DataFrame(rows, columns=["notebook", "asks", "minutes", "record of MovieLens-100K"]))


def expected(records: Records) -> dict[str, str]:
    """The number to expect of every notebook, by the notebook's number."""
    users = records.metrics("data", "cohort")["users"]
    reliable = records.metrics("reward", records.start)["reliability"]["train/log_likelihood"]["r"]
    head = tables.last_round(records)
    row = head[(head.scorer == "own") & (head.baseline == "zero_shot")].iloc[0]
    mean = loop_tables.ablation_knowledge(records).groupby("arm")["mean"].mean()
    rounds = loop_learning.rounds(records).set_index(["loop", "round"])
    first = rounds.loc[("dpo", 1)]
    closer = records.metrics("guards", "similarity")["own_above_another"]
    return {
        "00": "first loss 0.6931 (ln 2)",
        "01": f"{users['train']} / {users['validation']} / {users['test']} users",
        "02": f"{closer:.0%} nearer to their user",
        "03": f"r = {reliable:.2f} between halves of the lists",
        "04": f"{first.heldout_accuracy:.0%} of {first.heldout_pairs:.0f} held-out pairs, round 1",
        "04a": "first loss 0.6931, three ways",
        "05": f"{row.difference:+.4f} NDCG@7 over the LLM as it comes",
        "06": f"{mean['item'] - mean['none']:+.4f} NDCG@7, item text over ids",
        "07": f"{first.referees_validation:+.4f} nats (t = {first.referees_t:.1f}), referees, round 1",
    }


def _notebooks(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / MAIN / "tables" / "notebooks.csv")


def _setup(results: Path) -> float:
    path = results / MAIN / "tables" / "setup.csv"
    return float(pd.read_csv(path).seconds.sum()) if path.exists() else 0.0


def _head(path: Path) -> tuple[str, str]:
    """Title and question of a notebook."""
    text = "".join(read_json(path)["cells"][0]["source"])
    return text.splitlines()[0].removeprefix("# "), re.search(r"\*\*Question\.\*\* (.+)", text)[1]
