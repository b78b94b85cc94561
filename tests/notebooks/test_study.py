"""Every notebook through papermill on `smoke` with the real LLM and encoder; killed runs resume to the same bytes."""

import json
import os
import re
import signal
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils import cli
from dpo4rec_utils.arms import ARMS, BASELINES, LOOPS, round_name, trained_loops
from dpo4rec_utils.evidence.contents import FIGURES
from dpo4rec_utils.files import file_sha256
from dpo4rec_utils.settings import load_config
from tests.notebooks.conftest import checkout, start

ROOT = Path(__file__).parents[2]
ROUNDS = ("dpo_round_1", "dpo_round_2")
GIVEN = {*load_config("smoke").evaluation.arms}
TRAINED = trained_loops(GIVEN)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_executed_copy_is_whole(finished, path):
    book = nbformat.read(finished / "results/smoke/notebooks" / path.name, as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = json.dumps(book)
    assert str(Path.home()) not in text and str(finished) not in text
    assert any(output.output_type != "stream" or output.text.strip() for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_tables_fit_the_page_and_texts_stand_in_full(finished, path):
    book = nbformat.read(finished / "results/smoke/notebooks" / path.name, as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    for html in (page for page in pages if "<table" in page):
        head, body = html.split("</thead>")
        assert head.count("<th") - (body.count("<th>") > 0) <= 9 and body.count("<tr") <= 16, html[:300]
        assert "...</td>" not in html and "<script" not in html
    for link in re.findall(r"\]\(\.\./tables/(\w+)\.csv\)", json.dumps(book)):
        assert (finished / f"results/smoke/tables/{link}.csv").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_source_notebook_keeps_the_rules(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    defining = [cell for cell in code if re.search(r"^\s*(def|class) ", cell.source, re.M)]
    assert all(cell.metadata.get("tags") == ["by-hand"] for cell in defining), "only a formula is written out"
    assert [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert book.cells[0].source.startswith("# ") and "**Question.**" in book.cells[0].source
    assert "What we saw, what this does not show, exercises" in book.cells[-1].source


def test_tables_and_figures(finished):
    results = finished / "results/smoke"
    main = pd.read_csv(results / "tables/main_results.csv")
    assert list(main) == ["protocol", "backbone", "scorer", "arm", "metric", "k", "averaging", "seeds", "mean", "std"]
    arms, baselines = GIVEN | {*ROUNDS}, {*BASELINES} & GIVEN
    compared = baselines | {"dpo_round_1"}  # the round before the last
    shown = main[main.protocol == "popularity"]
    assert set(shown[shown.scorer == "own"].arm) == arms
    assert set(shown[shown.scorer == "shared"].arm) == arms - {a.name for a in ARMS.values() if a.shared == "no"}
    assert set(main.backbone) == {"dlcm", "prm", "setrank", "mir", "dasalc"} and set(main.protocol) == {
        "popularity",
        "uniform",
    }
    ranked = main[main.metric.isin(["ndcg", "map"])]
    assert ranked["mean"].between(0, 1).all() and set(ranked.k) == {1, 3, 5, 7, 10}
    paired = pd.read_csv(results / "tables/paired_differences.csv")
    columns = ["protocol", "backbone", "scorer", "arm", "baseline", "metric", "k", "users"]
    assert list(paired) == [*columns, "difference", "ci_low", "ci_high", "p_holm"] and paired.p_holm.between(0, 1).all()
    assert (paired.ci_low <= paired.difference).all() and (paired.difference <= paired.ci_high).all()
    user = main[(main.averaging == "user") & (main.seeds == 1)].set_index(
        ["protocol", "backbone", "scorer", "metric", "k", "arm"]
    )
    for row in paired.sample(20, random_state=0).itertuples():
        cell = (row.protocol, row.backbone, row.scorer, row.metric, row.k)
        wanted = user.loc[(*cell, row.arm)]["mean"] - user.loc[(*cell, row.baseline)]["mean"]
        assert row.difference == pytest.approx(wanted, abs=2e-5)
    power = pd.read_csv(results / "tables/power.csv")
    assert (power.holm >= power.alone).all() and set(power.scorer) == {"own", "shared"}
    assert set(power.backbone) == {*main.backbone, "mean"} and set(power.baseline) == compared
    thirds = pd.read_csv(results / "tables/breakdown.csv")
    assert set(thirds.groupby("fact").users.sum()) == {paired.users.max()}
    headline = pd.read_csv(results / "tables/headline.csv")
    assert {"better", "worse", "backbones", "detectable"} <= set(headline)
    last = headline[(headline.protocol == "popularity") & (headline.arm == "dpo_round_2")]
    assert set(last.baseline) == compared and set(last.group) == {"mean", "mir"}
    assert (last[last.group == "mean"].backbones == 4).all() and (last[last.group == "mir"].backbones == 1).all()
    on_top = headline[headline.arm.str.startswith("history_mean+") & (headline.baseline == "history_mean")]
    assert on_top.arm.nunique() == 4 and set(on_top.scorer) == {"own"}
    signal = pd.read_csv(results / "tables/ablation_preference.csv")
    others = {round_name(1, loop) for loop in TRAINED}
    assert set(signal.arm) == others | {"zero_shot", "template", "titles_prompt", "samples_16"}
    assert set(signal.split) == {"train", "validation", "test", "train_later"}
    assert signal.difference.notna().all()
    assert set(signal[signal.arm == "titles_prompt"].split) == {"validation"}
    cut = pd.read_csv(results / "tables/ablation_length.csv")
    assert cut.arm.unique().tolist() == ["dpo_cut_to_warm_start", "dpo_cut_to_random_labels"]
    assert cut.whole.tolist() == [False, True, False, True]
    as_long = cut[~cut.whole]
    assert (as_long.words == as_long.baseline_words).all() and (cut.words <= cut.baseline_words).all()
    assert pd.read_csv(results / "tables/samples.csv").samples.unique().tolist() == [2, 4, 8, 16]
    variants = pd.read_csv(results / "tables/variants.csv").set_index("policy")
    assert list(variants.index) == ["dpo_round_1", "random_labels_round_1", "samples_16"]
    # Other pairs of training, the same held-out pairs.
    assert variants.heldout_pairs.nunique() == 1 and variants.longer_wins.nunique() == 1
    assert pd.read_csv(results / "tables/notebooks.csv").notebook.tolist() == [path.stem for path in NOTEBOOKS]
    listed = json.loads((results / "manifest.json").read_text())["records"]
    assert {path.stem for path in (results / "records").glob("*.json")} == set(listed)
    agreement = pd.read_csv(results / "tables/agreement.csv").set_index("order")
    assert list(agreement.index) == ["reward", "longer", *TRAINED] and (agreement["rounds"] == 2).all()
    assert agreement.agreement.between(0, 1).all() and agreement.users.max() <= 3
    stages = pd.read_csv(results / "tables/stages.csv")
    assert list(stages) == ["stage", "seconds", "peak_rss_mib"] and (stages.seconds >= 0).all()
    assert stages.peak_rss_mib.max() < 6 * 1024
    rounds = pd.read_csv(results / "tables/rounds.csv")
    names = "loop round pairs pair_users heldout_pairs heldout_accuracy heldout_ci_low heldout_ci_high longer_wins"
    names += " matched_accuracy reward_train reward_validation referees_validation kl mean_tokens finished repetitive"
    assert list(rounds)[:18] == [*names.split(), "distinct_texts"]
    assert set(rounds["loop"]) == set(TRAINED) and len(rounds) == 2 * len(TRAINED)
    shares = rounds[
        ["heldout_accuracy", "longer_wins", "finished", "repetitive", "distinct_texts", "realised_accuracy"]
    ]
    assert shares.stack().between(0, 1).all() and (rounds.pairs == 4).all()
    by_round = pd.read_csv(results / "tables/rewards_by_round.csv")
    assert set(by_round["round"]) == {-1, 0, 1, 2} and by_round.difference_to_round_0.notna().all()
    for name in FIGURES:
        assert (results / f"figures/{name}.png").stat().st_size > 3000, name
        assert (results / f"figures/{name}.txt").read_text().strip().endswith("."), name


def test_the_report_leads_with_the_answer_and_escapes(finished):
    page = (finished / "results/smoke/report.html").read_text()
    assert page.index("Above") < page.index("<figure>") and 'name="viewport"' in page
    assert all(f'alt="{word}' in page for word in ("Histories are cut", "With a re-ranker for each"))
    rows = [table.count("<tr") for table in re.findall(r"<table.*?</table>", page, re.S)]
    assert max(rows) == 21 and "tables/main_results.csv" in page


def test_what_a_run_takes_was_told_before_it(finished):
    """The texts and re-rankers that were announced are those that were made, but for items and rounding."""
    told = re.search(r"a run: (\d+) texts .* (\d+) re-rankers", (finished / "output.txt").read_text())
    records = [json.loads(path.read_text()) for path in (finished / "results/smoke/records").glob("*.json")]
    texts = sum(r["metrics"]["texts"] for r in records if r["kind"] == "texts" and r["name"] != "items")
    rerankers = sum(len(record["depends"].get("trainings", {})) for record in records)
    assert int(told[1]) == pytest.approx(texts, rel=0.01) and int(told[2]) == rerankers
    first = (finished / "output.txt").read_text().splitlines()
    assert any("a run:" in line for line in first[: first.index("== 00_walkthrough")])


def test_the_texts_are_the_llms(finished):
    texts = [json.loads(line) for path in (finished / "runs/texts").glob("zero_shot-*/shard-*") for line in path.open()]
    assert len({row["text"] for row in texts}) > 0.9 * len(texts) and len(texts) == 11 * 4 + 13 * 2
    assert all(1 <= row["tokens"] <= 16 for row in texts)


def test_loss_starts_at_ln_2_and_the_policies_differ(finished):
    records = {p.stem: json.loads(p.read_text()) for p in (finished / "results/smoke/records").glob("policy-*.json")}
    aligned = [loop for loop in map(LOOPS.get, TRAINED) if not loop.supervised]
    for name in (round_name(number, loop.name) for loop in aligned for number in (1, 2)):
        assert records[f"policy-{name}"]["metrics"]["log"][0]["loss"] == pytest.approx(0.6931, abs=0.02)
    # The warm start, every round, and a variant.
    assert len({record["key"] for record in records.values()}) == len(records) == 1 + 2 * len(TRAINED) + 1


@pytest.mark.long
def test_knowledge_to_take_home(finished, tmp_path):
    tables = {p.parent.name.rsplit("-", 1)[0]: pd.read_parquet(p) for p in finished.glob("runs/knowledge/*/*.parquet")}
    assert {"zero_shot", "warm_start", *ROUNDS} <= set(tables)
    start_table = tables["warm_start"]
    assert list(start_table) == ["user", "sample", "text", "vector", "reward"]
    assert start_table.text.str.startswith("This viewer enjoys").all() and {len(v) for v in start_table.vector} == {384}
    assert 0.5 < start_table.reward.notna().mean() < 1, "rewards of train and validation users alone"
    rows = [("new", item, 5 - item % 3, item) for item in range(1, 12)] + [("other", 50, 1, 1), ("other", 56, 5, 2)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"]).to_csv(tmp_path / "new.csv", index=False)
    written = []
    for number in range(2):
        out = tmp_path / f"{number}.parquet"
        command = ["write", "--profile", "smoke", "--interactions", str(tmp_path / "new.csv"), "--out", str(out)]
        process = start(finished, "-m", "dpo4rec_utils", *command)
        output, _ = process.communicate()
        assert process.returncode == 0 and "4 texts of 2 users" in output, output[-2000:]
        written.append(pd.read_parquet(out))
    assert written[0].text.tolist() == written[1].text.tolist() and set(written[0].user) == {"new", "other"}
    assert np.allclose([np.linalg.norm(vector) for vector in written[0].vector], 1, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        (("--policy", "dpo_round_9", "--interactions", "new.csv"), "dpo_round_9"),
        (("--interactions", "nowhere.csv"), "nowhere.csv could not be opened"),
        (("--interactions", "unlisted.csv"), "none of the 1 interactions is with a listed item"),
        (("--interactions", "new.csv", "--out", "texts.xlsx"), "name a file that ends in .parquet"),
        (("--interactions", "new.csv", "--profile", "ml-100k"), "run study --profile ml-100k first"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(finished, case, tmp_path, monkeypatch, capsys):
    command, words = case
    pd.DataFrame([("u", 1, 5, 1)], columns=["user_id", "item_id", "rating", "timestamp"]).to_csv(tmp_path / "new.csv")
    table = pd.DataFrame([("u", "x", 5, 1)], columns=["user_id", "item_id", "rating", "timestamp"])
    table.to_csv(tmp_path / "unlisted.csv", index=False)
    arguments = [str(tmp_path / part) if part.endswith(".csv") else part for part in command]
    monkeypatch.chdir(finished)
    assert cli.main(["write", "--profile", "smoke", "--out", str(tmp_path / "o.parquet"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed and "Traceback" not in printed and not (tmp_path / "o.parquet").exists()


RESUME = """
from dpo4rec_utils.study import open_study
study = open_study("smoke")
print(study.policy("dpo_cold_round_1"))
"""


def kill_when(root: Path, pattern: str) -> None:
    """Start a round from the zero-shot LLM and kill its whole process group without warning once a file matches."""
    path, deadline = root / "killed.log", time.monotonic() + 300
    with open(path, "w") as log:
        process = start(root, "-c", RESUME, log=log)
        while not list(root.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline, path.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_killed_in_sampling_and_in_dpo_resumes_to_the_same_bytes(finished, tmp_path):
    root, undisturbed = checkout(tmp_path), start(finished, "-c", RESUME)
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output[-3000:]
    kill_when(root, "runs/texts/zero_shot-*/shard-000000.jsonl")
    assert not list(root.glob("runs/texts/zero_shot-*/record.json"))
    kill_when(root, "runs/policy/dpo_cold_round_1-*/checkpoints/checkpoint-1/trainer_state.json")
    assert not list(root.glob("runs/policy/dpo_cold_round_1-*/record.json"))
    process = start(root, "-c", RESUME)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    shards = {p.relative_to(root): p.read_bytes() for p in root.glob("runs/texts/zero_shot-*/shard-*")}
    assert shards == {p.relative_to(finished): p.read_bytes() for p in finished.glob("runs/texts/zero_shot-*/shard-*")}
    assert len(shards) == 2
    adapters = [
        next(r.glob("runs/policy/dpo_cold_round_1-*/adapter/adapter_model.safetensors")) for r in (root, finished)
    ]
    assert file_sha256(adapters[0]) == file_sha256(adapters[1])  # pytest would compare millions of bytes for an hour


def test_a_bad_parameter_stops_before_anything_runs(finished):
    process = start(finished, "-m", "papermill", "notebooks/01_data_preparation.ipynb", "-", "-p", "PROFIEL", "smoke")
    output, _ = process.communicate()
    assert process.returncode != 0 and "Unknown notebook parameter PROFIEL" in output
