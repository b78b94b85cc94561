"""Pages of the repository whose numbers are written from records: README.md, docs/results.md, the notebooks' prose, and
the loop's diagram.

A page holds blocks between marks; `write_pages` and `write_notebooks` replace what stands between them and nothing
else.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from dpo4rec_utils.arms import REPEATED, label
from dpo4rec_utils.data_config import PROFILE_NAME
from dpo4rec_utils.evidence import (
    across,
    answer,
    claims,
    first_page,
    headline,
    ladder,
    loop_learning,
    loop_tables,
    loops,
    tables,
    words,
)
from dpo4rec_utils.evidence.committed import ABLATIONS, MAIN, NO_LOOPS, committed, has, read_loops, read_records
from dpo4rec_utils.evidence.diagram import draw_loop
from dpo4rec_utils.evidence.findings import FINDINGS, seen
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.report import copy_prose, write_report
from dpo4rec_utils.files import StudyError, project_root, read_json, recover, write_text
from dpo4rec_utils.locks import results_alone

ANSWERED = (MAIN, "games")  # the records of one loop that notebooks and docs/results.md speak of, where they are there
PARTS = {
    "texts": "sampling",
    "policy": "training of policies (trl)",
    "reward": "reward models",
    "own": "re-rankers, own scorers",
    "shared": "re-rankers, shared scorers",
    "ablation": "ablations",
    "referees": "referees",
}


def report_profiles(profile: str = "") -> Iterator[str]:
    """Draw the report of a profile, or of every committed one and the pages; yields what was read and what was
    written."""
    results = project_root() / "results"
    names = [profile] if profile else committed(results)
    if not names:
        raise StudyError("results/ holds no records; make them with `make study`.")
    if not profile and MAIN in names:
        for path in write_notebooks(project_root()):
            yield f"wrote {path.relative_to(project_root())}"
    for name in names:
        if not PROFILE_NAME.fullmatch(name):
            raise StudyError(f"{name!r} is no profile's name; allowed: {', '.join(committed(results))}.")
        with results_alone(project_root(), name):
            recover(results / name)
            records = read_records(results / name)
            yield records.provenance()
            yield f"wrote {write_report(records).relative_to(project_root())}"
            for path in copy_prose(records.folder, project_root() / "notebooks"):
                yield f"gave {path.relative_to(project_root())} the prose of its source"
    if not profile and (every := read_loops(results)):
        for name, table in (("claims", claims.claims(every)), ("table_one", loops.table_one(every))):
            text = table.to_csv(index=False, float_format="%.5g", lineterminator="\n")
            write_text(results / f"{name}.csv", text)
            yield f"wrote results/{name}.csv"
        for path in across.write(every, results / "figures"):
            yield f"wrote {path.relative_to(project_root())}"
    if not profile and MAIN in names:
        for path in write_pages(project_root()):
            yield f"wrote {path.relative_to(project_root())}"


def write_pages(root: Path) -> list[Path]:
    """Write every block of every page, and the diagram; returns the pages."""
    draw_loop(root / "docs" / "loop.svg")
    pages: dict[Path, str] = {}
    for (name, block), write in BLOCKS.items():
        path = root / name
        text = pages.get(path) or path.read_text(encoding="utf-8")
        pages[path] = replaced(text, block, write(root / "results"))
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)


def write_notebooks(root: Path) -> list[Path]:
    """Write the number to expect and what was seen into the prose of every notebook; returns those that changed."""
    results, changed = root / "results", []
    profiles, expected = _answered(results), first_page.expected(read_records(results / MAIN))
    for path in sorted((root / "notebooks").glob("0*.ipynb")):
        number, book = path.stem.split("_")[0], read_json(path)
        blocks = {"expect": expected[number], "seen": seen(number, profiles) if number in FINDINGS else ""}
        for cell in book["cells"]:
            for block, text in blocks.items():
                if f"<!-- {block}: " in "".join(cell["source"]):
                    cell["source"] = replaced("".join(cell["source"]), block, text).splitlines(keepends=True)
        text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if text != path.read_text(encoding="utf-8"):
            write_text(path, text)
            changed.append(path)
    return changed


def replaced(page: str, block: str, text: str) -> str:
    """The page with `text` between the marks of `block`; `StudyError` where the marks are not there once each."""
    begin, end = f"<!-- {block}: written by make report -->", f"<!-- /{block} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise StudyError(f"A page lacks the marks {begin} and {end}, once each; restore them from the repository.")
    before, rest = page.split(begin)
    return before + begin + "\n" + text.strip() + "\n" + end + rest.split(end)[1]


def _answered(results: Path) -> list[Records]:
    return [read_records(results / name) for name in ANSWERED if has(results, name, "heldout-")]


# docs/results.md


def claims_block(results: Path) -> str:
    """The paper's claims: every difference and how often each held; where it was looked at, folded."""
    if not (every := read_loops(results)):
        return NO_LOOPS
    table = claims.claims(every)
    title = "What each round learnt, random labels in brackets; one half is chance where texts end and do not repeat"
    parts = [f"**{h}:**\n\n{words.markdown(claims.side_by_side(part))}" for h, part in claims.by_source(table).items()]
    other = "**The last round by MIR, which reads the history, and by one re-ranker for all texts** (three loops each):"
    parts += [f"{other}\n\n{headline.beside(every)}"] if headline.enough(every) else []
    parts += [loops.noise_line(every), _more_noise(results), folded("Every interval", claims.looked_at(table))]
    parts.append(folded(title, across.learning_by_loop(every)))
    for group in every:
        summary = f"The same on validation users, on whom nothing is trained, for these loops alone: {group.place}"
        parts.append(folded(summary, loops.unseen_sample(group)))
    return "\n\n".join(
        [*filter(None, parts), "As a file, with both kinds of scorers: [`claims.csv`](../results/claims.csv)."]
    )


def _more_noise(results: Path) -> str:
    """What would not stand if every loop moved as much as round 1 did when it was trained again."""
    if not has(results, ABLATIONS, f"ablation-{REPEATED}-"):
        return ""
    repeated = tables.repeats(read_records(results / ABLATIONS)).set_index("repeated").loc["trained"]
    fallen = claims.of_more_noise(read_loops(results), repeated["std"])
    return (
        f"Were it {repeated['std']:.4f}, by which one arm, round 1, moved in {repeated.times} trainings on MovieLens-100K (a difference of "
        "two trained arms moves by more), these "
        f"verdicts would not stand (Holm's p then): {fallen}."
    )


def pictures_block(results: Path) -> str:
    """The figures over all loops, each with its finding."""
    if not read_loops(results):
        return NO_LOOPS
    parts = []
    for name, (_, title) in across.FIGURES.items():
        finding = results / "figures" / f"{name}.txt"
        if finding.exists():
            parts.append(f"![{title}](../results/figures/{name}.png)\n\n{finding.read_text(encoding='utf-8').strip()}")
    return "\n\n".join(parts)


def table_one_block(results: Path) -> str:
    """NDCG@7 and MAP@7 of every data set, LLM and arm, own scorers, folded by data set."""
    parts = []
    for group in read_loops(results):
        table = loops.table_one([group])
        table = table[table.scorer == "own"].assign(arm=table.arm.map(label))
        numbers = [name for name in table if re.search(r"@7$| loop_sd$", name) and table[name].notna().any()]
        cells = {name: table[name].map("{:.4f}".format).replace("nan", "") for name in numbers}
        columns = {"negatives": table.protocol, "arm": table.arm, "loops": table.loops.astype(str)} | cells
        parts.append(folded(group.place, pd.DataFrame(columns)))
    return "\n\n".join(parts) or NO_LOOPS


def side_by_side_block(results: Path) -> str:
    """A verdict a data set, the last round above everything else, and what its rounds learnt, data sets side by
    side."""
    profiles = _answered(results)
    lines = [f"- **{words.seen_on(records)}.** {answer.verdict(records)}" for records in profiles]
    parts = ["\n".join(lines), words.markdown(answer.differences(profiles))]
    return "\n\n".join([*parts, words.markdown(answer.learning_by_round(profiles))])


def effects_block(results: Path) -> str:
    """The last round against every baseline and what every round learnt, folded, a profile that has a main table
    after another."""
    parts = []
    for name in committed(results):
        if name == ABLATIONS or loops.PROFILE.fullmatch(name) or not has(results, name, "own-"):
            continue
        records = read_records(results / name)
        parts += [f"### `{name}`", f"{words.seen_on(records)}.{words.short_of(records)}"]
        parts.append(folded("Against every baseline, by both kinds of scorers", answer.effect_table(records)))
        if has(results, name, "referees-"):
            parts.append(folded("What every round learnt", answer.learning_table(records)))
    return "\n\n".join(parts)


def folded(summary: str, table: pd.DataFrame) -> str:
    """A wide table as Markdown that opens with a click."""
    return f"<details><summary>{summary}</summary>\n\n{words.markdown(table)}\n\n</details>"


def variants_block(results: Path) -> str:
    """What one round learns with one thing changed, as Markdown."""
    if not has(results, ABLATIONS, "heldout-"):
        return f"Not run: `make study PROFILE={ABLATIONS}` makes it."
    records = read_records(results / ABLATIONS)
    table = loop_learning.variants(records)
    table = table[~table.policy.str.startswith("random_labels")]
    names = table.policy.map(label)
    columns = {"round 1 with": names} | answer.learning_columns(table)
    columns["minutes of training"] = table.minutes.map("{:.1f}".format)
    notes = (words.short_of(records) + words.unlearnt(table, names)).strip()
    return "\n\n".join([folded(f"{len(table)} policies", pd.DataFrame(columns)), notes]).strip()


def ladder_block(results: Path) -> str:
    """What texts can give before any training, data sets side by side."""
    profiles = [read_records(results / name) for name in committed(results) if has(results, name, "ladder-")]
    return words.markdown(ladder.side_by_side(profiles)) if profiles else "Not run: see notebook 03."


def repeats_block(results: Path) -> str:
    """Noise that is not of users, a profile that repeats round 1 after another."""
    parts = []
    for name in committed(results):
        if has(results, name, f"ablation-{REPEATED}-"):
            table = tables.repeats(read_records(results / name)).drop(columns="repeated")
            parts.append(f"`{name}`:\n\n{words.markdown(table.round(4))}")
    return "\n\n".join(parts) or "Not measured yet: `evaluation.repeats` of a profile asks for it."


def benchmarks_block(results: Path) -> str:
    """What is measured side by side in one run of `make bench`, a machine after another."""
    parts, path = [], results / "benchmarks.json"
    for machine, made in (read_json(path) if path.exists() else {}).items():
        rows = [
            (r["measured"], f"{r['fast']:.1f}", r["against"], f"{r['slow']:.1f}", r["unit"], f"{r['ratio']:.1f}")
            for r in made["results"].values()
        ]
        table = pd.DataFrame(rows, columns=["measured", "", "against", " ", "unit", "ratio"])
        parts.append(f"{machine}, commit {made['commit']}, {made['date']}:\n\n{words.markdown(table)}")
    return "\n\n".join(parts) or "Not run: `make bench` makes it."


def arms_block(results: Path) -> str:
    """NDCG@7 of every arm of the default profile, own scorers."""
    records = read_records(results / MAIN)
    table = tables.quotable(records)
    table = table[(table.protocol == "popularity") & (table.scorer == "own")]
    return words.markdown(table.drop(columns=["protocol", "scorer"]).assign(arm=table.arm.map(label)))


def cost_block(results: Path) -> str:
    """Minutes and peak memory of the default profile, by part."""
    stages = loop_tables.stages(read_records(results / MAIN))
    stages["part"] = stages.stage.str.split(":").str[0].map(PARTS).fillna("the rest")
    parts = stages.groupby("part").agg(minutes=("seconds", lambda s: s.sum() / 60), peak=("peak_rss_mib", "max"))
    parts = parts.sort_values("minutes", ascending=False).reset_index()
    columns = {"stages": parts.part, "minutes": parts.minutes.map("{:.1f}".format), "peak MiB": parts.peak.astype(str)}
    return words.markdown(pd.DataFrame(columns))


def provenance_block(results: Path) -> str:
    """Commit, date, machine and faults of every profile's records."""
    lines = []
    for name in committed(results):
        head, _, *notes = read_records(results / name).provenance().splitlines()
        lines.append("- " + " ".join([head + ".", *notes]))
    return "\n".join(lines)


BLOCKS: dict[tuple[str, str], Callable[[Path], str]] = {
    ("README.md", "answer"): first_page.answer,
    ("README.md", "beside"): first_page.beside,
    ("README.md", "held"): first_page.held,
    ("README.md", "run"): first_page.ways,
    ("README.md", "notebooks"): first_page.notebooks,
    ("docs/results.md", "claims"): claims_block,
    ("docs/results.md", "pictures"): pictures_block,
    ("docs/results.md", "table 1"): table_one_block,
    ("docs/results.md", "side by side"): side_by_side_block,
    ("docs/results.md", "effects"): effects_block,
    ("docs/results.md", "ladder"): ladder_block,
    ("docs/results.md", "repeats"): repeats_block,
    ("docs/results.md", "variants"): variants_block,
    ("docs/results.md", "arms"): arms_block,
    ("docs/results.md", "cost"): cost_block,
    ("docs/results.md", "benchmarks"): benchmarks_block,
    ("docs/results.md", "provenance"): provenance_block,
}
