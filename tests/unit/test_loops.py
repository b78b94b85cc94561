"""Loops as one result: intervals that hold their noise, tables of made records by hand-computed numbers, verdicts."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from dpo4rec_utils.arms import arm as arm_of
from dpo4rec_utils.arms import table_arms
from dpo4rec_utils.config import as_dict
from dpo4rec_utils.evidence import across, claims, headline, loops, pages, tables
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import LoopNoise, holm, loop_noise, looped_differences, paired_differences
from dpo4rec_utils.files import NotAskedError, StudyError, file_sha256
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.store import Stage, Store, write_values

BACKBONES = ("dlcm", "prm", "mir")
ARMS = [
    "none",
    "item",
    "template",
    "zero_shot",
    "warm_start",
    "random_labels",
    "dpo_shuffled",
    "shown_mean",
    "history_mean",
    "one_text",
    "two_texts",
]
ARMS += [f"history_mean+{added}" for added in ("zero_shot", "template", "dpo_shuffled", "dpo")]
USERS = (40, 60)  # test users of the two loops
MAP = 0.1  # so much MAP@7 is above NDCG@7
# Above others, in loop 1.
GAIN = {"dpo_round_1": 0.1, "two_texts": 0.15, "dpo_round_2": 0.2, "template": 0.25, "history_mean+dpo": 0.3}


def config_of(number: int, **changes) -> dict:
    """The settings of a loop; the first has best of N beside all else."""
    evaluation = {"backbones": list(BACKBONES), "seeds": 2, "shared_seeds": 2, "uniform_arms": []}
    evaluation["arms"] = [*ARMS, "rft"] if number == 1 else ARMS
    changes = {"evaluation": evaluation, "seed": 2025 + number, "data": {"seed": 2026, "max_users": 24}} | changes
    changes |= {"llm": {"evaluation_samples": 4}}
    return as_dict(load_config("smoke", changes)) | {"profile": f"made-loop-{number}"}


def scored_stage(kind: str, name: str, arms: dict[str, float], users: int) -> Stage:
    """Every user has an arm's value and noise that is zero on average, less 0.05 with the first seed and more with the
    second; MIR sees no difference.
    Test users are counted from 100 times their number, so that no two loops share one."""

    def build(folder):
        rows = []
        for arm, value in arms.items():
            for b in BACKBONES:
                level = 0.4 if b == "mir" else value
                for s in (0, 1):
                    noise = np.random.default_rng([s, users, *arm.encode()]).normal(0, 0.01 * (b != "mir"), users)
                    noise -= noise.mean()
                    rows += [
                        (arm, b, "ndcg@7", "test", s, 100 * users + u, level + 0.1 * s - 0.05 + noise[u])
                        for u in range(users)
                    ]
                    rows += [(arm, b, "ndcg@7", "validation", s, u, level + 0.01 * u) for u in range(3)]
                rows += [(arm, b, "map@7", "test", -1, 100 * users + u, level + MAP) for u in range(users)]
        columns = ["arm", "backbone", "metric", "split", "seed", "user", "value"]
        write_values(pd.DataFrame(rows, columns=columns), folder)
        level = {(arm, b): 0.4 if b == "mir" else value for arm, value in arms.items() for b in BACKBONES}
        means = {
            arm: {
                f"{b}/{m}@7": {"user": [level[arm, b] + more - 0.05, level[arm, b] + more + 0.05]}
                for b in BACKBONES
                for m, more in (("ndcg", 0), ("map", MAP))
            }
            for arm in arms
        }
        return {"arms": {arm: {"means": means[arm], "lists": users} for arm in arms}}

    return Stage(kind, name, {"users": users}, build)


def make_loop(root, number: int, **changes):
    """Records of a loop, in which every gain is a tenth larger than in the one before."""
    config = config_of(number, **changes)
    store, users = Store(root, config), USERS[number - 1]
    values = {
        name: 0.3 + (0.9 + 0.1 * number) * GAIN.get(name, 0)
        for name in table_arms(config["evaluation"], config["alignment"])
    }
    for name, value in values.items():
        store.make(scored_stage("own", f"popularity-{name}", {name: value}, users))
    read = {name: value for name, value in values.items() if arm_of(name).shared != "no"}
    store.make(scored_stage("shared", "popularity", read, users))
    facts = {
        "user": list(range(100 * users, 101 * users)),
        "interactions": list(range(users))[::-1],
        "popularity of liked items": [1] * users,
    }
    store.make(Stage("data", "test_users", {"users": users}, lambda folder: facts))
    for policy in ("warm_start", "dpo_round_2"):
        store.make(Stage("texts", policy, {"users": users}, lambda folder: {"texts": 80}))
    rows = [{"samples": n, "reward": "ndcg", "r": 0.3, "gain": 0.01 * n * number, "ci_half": 0.03} for n in (2, 4)]
    store.make(
        Stage("samples", "gain", {"users": users}, lambda folder: {"texts": "warm_start", "users": 9, "rows": rows})
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("loops")
    for number in (1, 2):
        make_loop(root, number)
    return root / "results"


@pytest.fixture(scope="module")
def both(results):
    (read,) = loops.read_loops(results, ["ml-100k", "made-loop-2", "made-loop-1", "smoke"])
    return read


def test_cut_texts_stand_beside_those_of_their_length_and_their_own_whole(tmp_path):
    make_loop(tmp_path, 1)
    records = Records(tmp_path / "results" / "made-loop-1")
    with pytest.raises(NotAskedError, match="holds no texts that are cut"):
        tables.ablation_length(records)
    store, cut = Store(tmp_path, config_of(1)), {"dpo_cut_to_warm_start": 0.35, "warm_start_cut_to_dpo": 0.28}
    for name, value in cut.items():
        store.make(scored_stage("ablation", f"length-popularity-{name}", {name: value}, USERS[0]))
        store.make(Stage("lengths", name, {"users": 1}, lambda folder: {"cut": 18.0, "whole": 27.0, "shortened": 0.8}))
    table = tables.ablation_length(records).set_index("baseline")
    assert table.loc["warm_start_cut_to_dpo", ["whole", "words", "baseline_words"]].tolist() == [False, 18, 18]
    assert table.loc["dpo_round_2", ["whole", "words", "baseline_words"]].tolist() == [True, 18, 27]
    assert table.difference.to_dict() == pytest.approx({"warm_start_cut_to_dpo": 0.07, "dpo_round_2": -0.15})
    assert (table.ci_low < table.difference).all() and (table.arm == "dpo_cut_to_warm_start").all()


def test_loops_are_read_by_name_in_their_order(both):
    assert both.name == "made" and [r.profile for r in both.records] == ["made-loop-1", "made-loop-2"]
    assert both.having("rft") == [both.records[0]] and both.having("zero_shot", "item") == list(both.records)
    assert "rft" in both.arms() and both.arms("uniform") == []


def test_differences_are_means_over_the_loops_that_have_both_arms(both):
    table = loops.differences(both, "own").set_index(["arm", "baseline", "backbone"])
    row = table.loc["dpo_round_2", "zero_shot", "mean"]
    assert row.difference == pytest.approx(0.21) and row.loop_sd == pytest.approx(0.02 / np.sqrt(2))
    assert (row.loops, row.users) == (2, 100)
    alone = table.loc["dpo_round_2", "rft", "mean"]
    assert alone.difference == pytest.approx(0.2) and (alone.loops, alone.users) == (1, 40) and np.isnan(alone.loop_sd)
    assert table.loc["dpo_round_2", "dpo_round_1", "mean"].difference == pytest.approx(0.105)
    assert table.loc["dpo_round_2", "zero_shot", "mir"].difference == 0
    assert table.loc["history_mean+dpo", "history_mean", "mean"].difference == pytest.approx(0.315)
    assert "history_mean+dpo" not in set(loops.differences(both, "shared").arm), "shared scorers do not read it"
    # The interval holds both loops: their means are .2 and .22.
    assert row.ci_low < 0.2 and row.ci_high > 0.22 and alone.ci_low > 0.19 and alone.ci_high < 0.21


def test_the_mean_and_single_backbones_have_each_their_own_noise_of_training(results, monkeypatch):
    (made,) = loops.read_loops(results, ["made-loop-1", "made-loop-2"])
    noise = {False: LoopNoise(0.01, 5.0), True: LoopNoise(0.04, 5.0)}
    monkeypatch.setattr(loops, "training_noise", lambda _, __, single=False: noise[single])
    table = loops.differences(made, "own")
    last = table[(table.arm == "dpo_round_2") & (table.baseline == "zero_shot")].set_index("backbone")
    for backbone, error in (("mean", np.sqrt(0.01 / 2)), ("mir", np.sqrt(0.04 / 2))):
        half = (last.loc[backbone].ci_high - last.loc[backbone].ci_low) / 2
        assert half == pytest.approx(student.ppf(0.975, 5) * error, rel=0.01)


def test_values_by_seed_are_needed_of_test_users(results):
    values = Records(results / "made-loop-1").values("own", "popularity-item")
    first = Records(results / "made-loop-1")
    made = loops.by_seed(first, "own", "item", "prm")
    assert made.shape == (2, USERS[0]) and loops.by_seed(first, "own", "item", "prm", "validation").shape == (2, 3)
    of_seed = values[(values.backbone == "prm") & (values.metric == "ndcg@7") & (values.split == "test")]
    assert made[1] == pytest.approx(of_seed[of_seed.seed == 1].value)
    old = Records(results / "made-loop-1")
    old.values = lambda *_: values.assign(seed=-1)
    with pytest.raises(StudyError, match="made-loop-1 holds no values of test users by seed"):
        loops.by_seed(old, "own", "item", "prm")


def test_table_one_holds_means_over_loops_and_their_deviation(both):
    table = loops.table_one([both]).set_index(["scorer", "arm"])
    assert set(table.protocol) == {"popularity"} and ("shared", "none") not in table.index
    row = table.loc["own", "dpo_round_2"]
    assert row["mean ndcg@7"] == pytest.approx(0.51) and row["mir ndcg@7"] == pytest.approx(0.4) and row.loops == 2
    assert row["mean loop_sd"] == pytest.approx(0.02 / np.sqrt(2)) and row["mean map@7"] == pytest.approx(0.61)
    assert table.loc["own", "rft"].loops == 1 and np.isnan(table.loc["own", "rft"]["mean loop_sd"])


def test_validation_users_stand_once_for_all_loops(both):
    table = loops.unseen_sample(both).set_index("last round above")
    assert table.loc["zero-shot LLM"].tolist() == ["2", "3", "+0.210 (+0.210 to +0.210)"]
    assert table.loc["best of N"].tolist() == ["1", "3", "+0.200 (+0.200 to +0.200)"]


def test_a_page_holds_every_claim_and_no_number_that_is_none(both, results, monkeypatch):
    monkeypatch.setattr(pages, "read_loops", lambda _: (both, replace(both, name="again")))
    monkeypatch.setattr(loops.Loops, "dataset", property(lambda every: every.name))
    monkeypatch.setattr(
        across, "learning_by_loop", lambda _: pd.DataFrame({"round": ["1"]})
    )  # made loops train no policy
    claimed, table = pages.claims_block(results), pages.table_one_block(results)
    assert "every data set gains" in claimed and "nan" not in claimed + table
    head, rule, *rows = claimed.split("\n\n")[1].splitlines()
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[3:-1]] for row in rows}
    assert [cell.strip() for cell in head.split("|")[3:5]] == ["made", "again"]
    assert cells["DPO helps over best of N"] == ["**+0.200**", "**+0.200**", "2 / 0 / 0", "2 / 0 / 0"]
    assert cells["every backbone gains"] == ["2 / 0 / 3", "2 / 0 / 3", "0 / 0 / 2", "0 / 0 / 2"]
    assert cells["more samples help, read as their mean"][-1] == "", "no shared scorer reads one text"
    assert all(
        claim.sentence in claimed
        for claim in (*claims.PAPER, *claims.CONTROLS)
        if claim.baseline != "longer_wins" and claim.arm != "dpo_cold"
    )
    assert "| popularity" in table and "0.5100" in table
    monkeypatch.setattr(pages, "read_loops", lambda _: ())
    assert pages.claims_block(results) == pages.table_one_block(results) == pages.NO_LOOPS


def test_loops_that_differ_in_more_than_seeds_users_and_arms_are_no_loops_of_one_name(tmp_path):
    make_loop(tmp_path, 1)
    make_loop(tmp_path, 2, reranker={"epochs": 3})
    with pytest.raises(StudyError, match=r"made-loop-2 has reranker.epochs = 3, made-loop-1 2"):
        loops.read_loops(tmp_path / "results", ["made-loop-1", "made-loop-2"])


def test_loops_that_share_test_users_are_not_pooled(results, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(results, root)
    first, second = (root / f"made-loop-{number}/records/own-popularity-dpo_round_2.parquet" for number in (1, 2))
    values, others = pd.read_parquet(second), pd.read_parquet(first)
    values.loc[values.user == 6000, "user"] = others.user.max()
    values.to_parquet(second)
    with pytest.raises(StudyError, match="differs from the manifest"):
        loops.read_loops(root, ["made-loop-1", "made-loop-2"])
    one, two = (loops.Records(root / f"made-loop-{number}") for number in (1, 2))
    two.values = lambda *_: values
    with pytest.raises(StudyError, match="made-loop-1 and made-loop-2 share test users"):
        loops.Loops("made", (one, two))


def test_loops_of_two_commits_are_not_pooled(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    folder = tmp_path / "results/made-loop-2"
    record, manifest = folder / "records/own-popularity-item.json", folder / "manifest.json"
    before = file_sha256(record)
    record.write_text(record.read_text().replace('"commit":"', '"commit":"other'))
    manifest.write_text(manifest.read_text().replace(before, file_sha256(record)))
    with pytest.raises(StudyError, match="The loops of made were ranked at commits .*other.*; make them at one"):
        loops.read_loops(tmp_path / "results", ["made-loop-1", "made-loop-2"])


def test_a_claim_is_held_not_held_or_not_visible(both):
    row = {"p_holm": 0.01, "ci_low": 0.001, "ci_high": 0.1, "detectable": 0.02, "loops": 3}
    assert claims.verdict(row) == "held" and claims.verdict(row | {"loops": 2}) == "held (loops: 2)"
    assert claims.verdict(row | {"p_holm": 0.06}) == "not visible (0.0200 would be)", (
        "held before Holm's correction alone"
    )
    assert claims.verdict(row | {"ci_low": -0.1, "ci_high": -0.001}) == "not held"
    table = claims.claims([both])
    assert list(table.columns) == claims.COLUMNS and not table.verdict.isna().any()
    best = table[(table.claim == "DPO helps over best of N") & (table.scorer == "own")].iloc[0]
    assert best.verdict == "held (loops: 1)" and best.loops == 1 and (best.better, best.worse, best.n) == (2, 0, 3)
    knowledge = table[(table.claim == "knowledge helps a re-ranker") & (table.scorer == "own")].iloc[0]
    assert knowledge.verdict.startswith("not visible") and abs(knowledge.difference) < 1e-6
    every = table[(table.claim == "every backbone gains") & (table.scorer == "own")].iloc[0]
    assert every.verdict == "not visible (2 better, 0 worse of 3)", "MIR sees no difference"
    assert "every data set gains" not in set(table.claim), "one data set says nothing of every one"
    counts = claims.over_all(table).set_index("claim")
    assert counts.loc["DPO helps over best of N", "held"] == 1
    assert "length" not in " ".join(counts.index), "no loop has longer wins"


def test_a_claim_stands_in_the_line_that_it_belongs_to(both):
    held, unseen, other, _, star = claims.in_three_lines(claims.claims([both])).splitlines()
    assert held.startswith("- **Held:**") and "DPO helps over the zero-shot LLM (1 of 1)" in held
    assert "DPO helps over best of N (1 of 1*)" in held and star == "\\* Of single trainings alone."
    assert (
        "knowledge helps a re-ranker" in unseen and other == "- **The contrary holds:** a template beats it (1 of 1)."
    )
    worse = pd.DataFrame(
        [{"claim": "more rounds help", "scorer": "own", "dataset": "a", "llm": "b", "verdict": "not held (loops: 1)"}]
    ).assign(loops=1)
    both_ways = pd.concat([worse, worse.assign(verdict="held", loops=3)])
    held, unseen, other, *_ = claims.in_three_lines(both_ways).splitlines()
    assert held == "- **Held:** more rounds help (1 of 2)." and unseen == "- **Not seen:** nothing."
    assert other == "- **The contrary holds:** more rounds help (1 of 2*)."


def test_the_gain_is_found_in_thirds_of_every_loops_users(both, monkeypatch):
    table = across.located(both).set_index("part")
    thirds = [f"interactions, {name} third" for name in across.THIRDS]
    assert table.loc[thirds].users.tolist() == [14 + 20, 13 + 20, 13 + 20]
    assert np.allclose(table.loc[thirds].difference, 0.21, atol=0.005), "0.2 in the first loop, 0.22 in the second"
    assert table.loc["all users, MIR"].difference == 0 and table.loc["all users, MIR"].users == 100
    with monkeypatch.context() as patch:  # a user's gain is its number, and users with few interactions come last
        numbers = {both.records[0].profile: np.arange(40.0), both.records[1].profile: np.arange(60.0)}
        patch.setattr(across, "by_seed", lambda r, _, arm, b: np.tile(numbers[r.profile] * (arm == both.last), (2, 1)))
        low, _, high = across.located(both).difference[:3]
        apart = across.contrast(both, "interactions")
    assert low == pytest.approx((32.5 + 49.5) / 2) and high == pytest.approx((6 + 9.5) / 2)
    assert apart["difference"] == pytest.approx(low - high) and apart["users"] == 100
    few = across.gain(both, both.last, lambda records, change: change[:, :3])
    assert few["users"] == 6 and few["difference"] == pytest.approx(0.21, abs=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(type(both.records[0]), "metrics", lambda *_: {"user": [1], "interactions": [1]})
        with pytest.raises(ValueError, match="other users"):
            across.located(both)


def test_a_contrast_of_thirds_has_the_noise_of_both_and_none_that_they_share(both, monkeypatch):
    """Every user's gain is its number; the second seed adds 5 to all of them, which is no difference of thirds."""
    one = loops.Loops("made", both.records[:1])
    numbers = np.arange(40.0) + [[0.0], [5.0]]
    monkeypatch.setattr(across, "by_seed", lambda r, _, arm, b: numbers * (arm == both.last))
    row = across.contrast(one, "interactions")  # users with few interactions come last
    low, high = np.arange(26.0, 40), np.arange(13.0)
    error = np.sqrt(low.var(ddof=1) / 14 + high.var(ddof=1) / 13)
    assert row["difference"] == pytest.approx(low.mean() - high.mean())
    assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_an_overview_holds_every_arm_and_figures_are_drawn_with_findings(both, tmp_path):
    table = across.overview([both])
    assert table.shape[1] == 1 and table.iloc[:, 0]["best of N"] == 0.3
    paths = across.write([both], tmp_path)
    assert [path.stem for path in paths] == [name for name in across.FIGURES if name != "length"], "no text was cut"
    assert all(path.stat().st_size > 3000 for path in paths)
    finding = (tmp_path / "forest.txt").read_text()
    assert "+0.060 (+0.030 to +0.090)" in (tmp_path / "samples.txt").read_text(), (
        "0.04 in the first loop, 0.08 in the second"
    )
    assert "best of N 1 / 0 / 1; " in finding and "template 0 / 1 / 1; " in finding
    assert "longer wins" not in finding, "no loop has it"
    assert "+0.210 (" in (tmp_path / "rounds.txt").read_text(), "above the warm start, 0.2 and 0.22"
    assert "+0.210 (" in (tmp_path / "texts.txt").read_text(), "above one text, 0.2 and 0.22"
    assert (tmp_path / "where.txt").read_text().count("-0.00") >= 2, "the same in every third, but for noise"


def test_what_rounds_learnt_stands_beside_random_labels_of_the_same_round(both, monkeypatch):
    shares = {"heldout_accuracy": [0.6, 0.5], "realised_accuracy": [0.55, 0.45]}
    over = {"over_random": [0.1, np.nan], "over_random_ci_low": [-0.02, np.nan], "over_random_ci_high": [0.22, np.nan]}
    table = pd.DataFrame({"loop": ["dpo", "random_labels"], "round": [2, 2]} | shares | over)
    monkeypatch.setattr(across.loop_learning, "learning", lambda *_: table)
    right = {"dpo_round_2": 0.7, "random_labels_round_2": 0.4}
    logs = {name: [{"rewards/accuracies": share}] * 4 for name, share in right.items()}
    monkeypatch.setattr(type(both.records[0]), "metrics", lambda _, kind, name: {"log": logs[name]})
    first, second = across.learning_by_loop([both]).to_numpy().tolist()
    assert first[1:] == ["1", "2", "70% (40%)", "60% (50%)", "55% (45%)", "+10.0 (-2.0 to +22.0)"] and second[1] == "2"


def test_minutes_are_those_of_the_headlines_loop(both, monkeypatch):
    seconds = {"texts-zero_shot": 60, "reward-zero_shot": 600, "policy-warm_start": 120, "reward-warm_start": 30}
    kept = type(both.records[0])
    monkeypatch.setattr(kept, "listed", seconds, raising=False)
    monkeypatch.setattr(kept, "get", lambda _, kind, name: {"seconds": seconds[f"{kind}-{name}"]})
    assert across._minutes(both, "zero_shot") == 1 and across._minutes(both, "warm_start") == 2.5


def test_a_figure_is_shown_as_a_link_or_said_to_be_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(across, "project_root", lambda: tmp_path)
    across.show("forest")
    assert "No loop of Table 1 is there for this yet" in capsys.readouterr().out
    (tmp_path / "results/figures").mkdir(parents=True)
    (tmp_path / "results/figures/forest.png").write_bytes(b"")
    (tmp_path / "results/figures/forest.txt").write_text("A finding.\n")
    links = []
    monkeypatch.setattr(across, "display", lambda markdown: links.append(markdown.data))
    monkeypatch.setenv("DPO4REC_HOLDS", "ml-100k")
    across.show("forest")
    assert capsys.readouterr().out == "A finding.\n" and links[0].endswith("](../../figures/forest.png)")


def test_one_loop_has_the_interval_of_paired_differences():
    loop = np.random.default_rng(1).normal(0.02, 0.1, (3, 200, 2))
    ours = looped_differences([loop], 20000, np.random.default_rng(2))
    theirs = paired_differences(loop.mean(axis=0), 20000, np.random.default_rng(3), loop.mean(axis=1))
    for a, b in zip(ours, theirs, strict=True):
        assert a["difference"] == pytest.approx(b["difference"]) and a["users"] == 200 and np.isnan(a["loop_sd"])
        for name in ("ci_low", "ci_high", "p"):
            assert a[name] == pytest.approx(b[name], abs=0.003)
    within = loop.mean(axis=0).var(axis=0, ddof=1) / 200 + loop.mean(axis=1).var(axis=0, ddof=1) / 3
    assert [row["detectable"] for row in ours] == pytest.approx(((1.96 + 0.8416) * np.sqrt(within)).tolist(), rel=1e-4)


def test_loops_have_the_noise_of_users_seeds_and_of_training_again():
    rng = np.random.default_rng(4)
    made = [rng.normal(mean, 0.3, (2, 400, 2)) for mean in (0.0, 0.1, 0.2, 0.3)]
    rows = looped_differences(made, 100, rng)
    means = np.array([loop.mean(axis=(0, 1)) for loop in made])
    by_user = [loop.mean(axis=0).var(axis=0, ddof=1) / 400 for loop in made]
    by_seed = [loop.mean(axis=1).var(axis=0, ddof=1) / 2 for loop in made]
    within = np.mean(by_user, axis=0) + np.mean(by_seed, axis=0)
    training = np.mean(means.var(axis=0, ddof=1) - within)
    noise = loop_noise(made)
    assert noise.variance == pytest.approx(training) and 5.5 < noise.freedom <= 6, "3 each of two independent columns"
    half = student.ppf(0.975, noise.freedom) * np.sqrt((within + training) / 4)
    for row, mean, width, deviation in zip(rows, means.mean(axis=0), half, means.std(axis=0, ddof=1), strict=True):
        assert row["difference"] == pytest.approx(mean) and row["loop_sd"] == pytest.approx(deviation)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((mean - width, mean + width))
        error = width / student.ppf(0.975, noise.freedom)
        assert row["p"] == pytest.approx(2 * student.sf(mean / error, noise.freedom))
        assert row["detectable"] == pytest.approx(width + student.ppf(0.8, noise.freedom) * error)


def test_the_noise_of_training_is_told_where_there_are_two_loops(both, monkeypatch):
    monkeypatch.setattr(loops, "training_noise", lambda group, _: LoopNoise(0.0001, 3.62) if group is both else None)
    line = "Training noise of a comparison, a re-ranker for each, standard deviation as estimated: "
    assert loops.noise_line([both]) == f"{line}{both.place} 0.010 (3.6 degrees of freedom)."
    assert loops.noise_line([]) == ""


def test_verdicts_that_more_noise_would_take_are_named(both):
    """The gains of two loops over zero-shot, .2 and .22, are held; with a noise of their own size they are not."""
    assert claims.of_more_noise([both, replace(both, records=both.records[:1])], 0.0) == "none"
    fallen = claims.of_more_noise([both], 0.3)
    table = loops.differences(both, "own", 0.3)
    last = table[(table.arm == both.last) & (table.backbone == "mean")].set_index("baseline")
    assert f"zero-shot LLM ({last.loc['zero_shot'].p_holm:.2f})" in fallen and "best of N" not in fallen, "of one loop"
    half = student.ppf(0.975, loops.training_noise(both, "own").freedom) * 0.3 / np.sqrt(2)
    assert last.loc["zero_shot"].ci_high - last.loc["zero_shot"].difference == pytest.approx(half, rel=0.01)


def test_copies_of_a_comparison_know_no_more_of_its_noise():
    rng = np.random.default_rng(8)
    made = [rng.normal(mean, 0.3, (1, 50, 1)) for mean in (0.0, 0.2, 0.3)]
    once, often = loop_noise(made), loop_noise([np.repeat(loop, 9, axis=2) for loop in made])
    assert once.freedom == pytest.approx(2) and often.freedom == pytest.approx(2)
    assert once.variance == pytest.approx(often.variance)


@pytest.mark.parametrize("loops_", [2, 3])
@pytest.mark.parametrize("training", [0.0, 0.007, 0.02])
def test_loops_of_nothing_are_seldom_seen(loops_, training):
    """Ten comparisons of nothing that share the last round's noise, again and again: an interval holds zero about as
    often as it says, and a family has a false finding after Holm's correction about as seldom."""
    rng = np.random.default_rng(7)
    covered, wrong = [], []
    for _ in range(300):
        shared, own = rng.normal(0, training, (2, loops_, 10))
        shift = shared[:, :1] + own * (np.arange(10) % 2)  # every other baseline is trained, too
        users = rng.normal(0, 0.06, (loops_, 1, 80, 10)) + rng.normal(0, 0.04, (loops_, 1, 80, 1))
        rows = looped_differences(list(users + shift[:, None, None]), 10, rng)
        covered.append([row["ci_low"] <= 0 <= row["ci_high"] for row in rows])
        wrong.append(holm(np.array([row["p"] for row in rows])).min() < 0.05)
    assert np.mean(covered) > 0.9 and np.mean(wrong) < 0.1
    assert np.mean(covered) < 0.999, "intervals that hold everything say nothing"


def test_fewer_users_widen_an_interval(both, monkeypatch):
    """What training again adds is known from all users, so that of a few it is no part of their own noise."""
    means = dict(zip([records.profile for records in both.records], (0.057, 0.03), strict=True))
    wave = 0.03 * (-1.0) ** np.arange(40)  # zero on average over the first few, too
    monkeypatch.setattr(across, "by_seed", lambda r, _, arm, b: (means[r.profile] + wave[None]) * (arm == both.last))
    rows = [across.gain(both, both.last, lambda _, change, n=n: change[:, :n]) for n in (40, 20, 10)]
    widths = [row["ci_high"] - row["ci_low"] for row in rows]
    assert widths[0] < widths[1] < widths[2] and rows[0]["difference"] == pytest.approx(rows[2]["difference"])


def test_what_training_moves_for_all_users_is_not_in_the_contrast_of_two_thirds(both, monkeypatch):
    monkeypatch.setattr(across, "_third", lambda records, fact, third: np.arange(13) + 13 * third)
    noise, widths = np.random.default_rng(7).normal(0, 0.05, (1, 40)), []
    for means in ((0.05, 0.05), (0.20, -0.10)):
        moved = dict(zip([records.profile for records in both.records], means, strict=True))
        monkeypatch.setattr(
            across, "by_seed", lambda r, _, arm, b, m=moved: (m[r.profile] + noise) * (arm == both.last)
        )
        row = across.contrast(both, "interactions")
        widths.append((row["difference"], row["ci_high"] - row["ci_low"]))
    assert widths[0] == pytest.approx(widths[1])


@pytest.mark.parametrize("spoil", [lambda x: x[:, :1], lambda x: np.where(x > 0, np.nan, x)])
def test_too_few_users_or_a_missing_value_is_an_error(spoil):
    loop = np.random.default_rng(5).normal(size=(2, 9, 1))
    with pytest.raises(ValueError, match="two users in each and a value for each"):
        looped_differences([loop, spoil(loop)], 100, np.random.default_rng(6))
    with pytest.raises(ValueError, match="a loop at least"):
        looped_differences([], 100, np.random.default_rng(6))


def test_every_data_set_gains_where_each_does():
    gain = {"claim": claims.GAIN, "llm": "SmolLM2-135M-Instruct", "scorer": "own", "users": 283, "loops": 2, "n": 4}
    for verdicts, verdict in (
        (["held", "held"], "held (loops: 2)"),
        (["held", "not visible (0.0200 would be)"], "not visible (1 of 2)"),
        (["held (loops: 1)", "not held (loops: 1)"], "not held (loops: 2)"),
    ):
        gains = pd.DataFrame([gain | {"verdict": v} for v in verdicts], columns=claims.COLUMNS)
        (row,) = claims._every_dataset(gains).to_dict("records")
        assert row["verdict"] == verdict and (row["users"], row["loops"], row["n"]) == (566, 4, 2)


def cells_of(text: str) -> list[list[str]]:
    """A Markdown table's cells, row by row, without the rule below its head."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_the_first_page_has_the_last_round_beside_every_baseline_of_enough_loops(both, monkeypatch):
    learnt = pd.DataFrame({"round": [1, 2], "heldout_ci_low": [0.6, 0.4]})
    monkeypatch.setattr(headline.loop_tables, "trained_policies", lambda *_: [])
    monkeypatch.setattr(headline.loop_learning, "learning", lambda *_: learnt)
    assert headline.headline([both]) == headline.beside([both]) == "", "two loops are no headline"
    monkeypatch.setattr(headline, "LEAST_LOOPS", 2)
    monkeypatch.setattr(claims, "LEAST_LOOPS", 2)
    head, *rows = cells_of(headline.headline([both]))
    assert head == ["NDCG@7 of round 2, minus", both.place]
    cells = dict(rows)
    assert cells["the LLM as it comes"] == "**+0.210**" and cells["template"] == "**-0.052**"
    assert "longer wins" not in cells and cells["*NDCG@7: warm start, each round*"] == "0.300, 0.405, 0.510"
    assert cells["*rounds seen to learn*"] == "2 of 4"
    head, *rows = cells_of(headline.beside([both], ["zero_shot", "longer_wins"]))
    assert head[1:] == [f"{both.place}: MIR", f"{both.place}: one re-ranker"]
    assert rows == [["the LLM as it comes", "+0.000", "**+0.210**"]], "no loop has longer wins"
    monkeypatch.setattr(claims, "LEAST_LOOPS", 3)
    assert "**+0.210** (loops: 2)" in headline.headline([both])
    assert headline.gain_of_loop(both.records[1]) == pytest.approx(0.22)
