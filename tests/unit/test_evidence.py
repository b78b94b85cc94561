"""Tables of made records by hand-computed numbers, and records that are not as they should be."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils import comparison
from dpo4rec_utils import study as study_module
from dpo4rec_utils.arms import (
    ABLATION_ARMS,
    ARMS,
    LOOPS,
    arm,
    comparisons,
    cut_arms,
    label,
    table_arms,
    trained_loops,
)
from dpo4rec_utils.config import as_dict
from dpo4rec_utils.evidence import answer, loop_figures, loop_learning, report, tables, words
from dpo4rec_utils.evidence.records import Records, differing
from dpo4rec_utils.files import MissingRecordError, NotAskedError, StudyError
from dpo4rec_utils.metrics import CUTOFFS, METRICS
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.store import Stage, Store, write_values
from tests.conftest import made_study

BACKBONES = ("prm", "mir")
GAINS = np.repeat([0.1, 0.2, 0.3], [4, 5, 6])  # of the last round over every other arm, by test user
CHANGE = {"evaluation": {"backbones": list(BACKBONES), "seeds": 2, "shared_seeds": 2, "uniform_arms": []}}

CONFIG = load_config("smoke", CHANGE)


def scored_stage(kind: str, name: str, arms: dict[str, np.ndarray]) -> Stage:
    """A record of own or shared scorers in which an arm has one value of a test user, whatever the backbone and metric,
    and of three validation users the mean; the second seed's is higher for the first of them."""

    def build(folder):
        rows = []
        for one, values in arms.items():
            mean = values.mean()
            for backbone in BACKBONES:
                for metric in ("ndcg@7", "map@7"):
                    rows += [(one, backbone, metric, "test", -1, user, value) for user, value in enumerate(values)]
                for seed in range(2):
                    validation = (mean + 0.01 * seed, mean, mean)
                    rows += [
                        (one, backbone, "ndcg@7", "validation", seed, user, value)
                        for user, value in enumerate(validation)
                    ]
        columns = ["arm", "backbone", "metric", "split", "seed", "user", "value"]
        write_values(pd.DataFrame(rows, columns=columns), folder)
        cells = [f"{b}/{m}@{k}" for b in BACKBONES for m in METRICS for k in CUTOFFS]
        means = {one: dict.fromkeys(("list", "user"), [values.mean()] * 2) for one, values in arms.items()}
        return {"arms": {one: {"means": dict.fromkeys(cells, means[one]), "lists": len(GAINS)} for one in arms}}

    return Stage(kind, name, {}, build)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("made"))


def make_records(root, equal=()):
    """The last round gains `GAINS` over every other arm but the `equal` ones, and the history mean 0.05 more; half as
    much by shared scorers."""
    config, base = as_dict(CONFIG), np.full(len(GAINS), 0.3)
    store, names = Store(root, config), table_arms(config["evaluation"], config["alignment"])
    values = dict.fromkeys(names, base) | {"history_mean": base + GAINS + 0.05}
    values |= dict.fromkeys(["dpo_round_2", *equal], base + GAINS)
    for name in names:
        store.make(scored_stage("own", f"popularity-{name}", {name: values[name]}))
    del values["none"]
    store.make(scored_stage("shared", "popularity", {name: value / 2 for name, value in values.items()}))
    users = list(range(len(GAINS)))
    cohort = {"users": {"train": 14, "validation": 2, "test": len(users)}, "history_lengths": [0, 3, 6]}
    cohort |= {"top_tenth_share": 0.4, "popularity": {"rank": [1, 2], "interactions": [9, 1]}}
    store.make(Stage("data", "cohort", {}, lambda _: cohort))
    store.make(Stage("data", "test_users", {}, lambda _: {"user": users, "interactions": users}))
    return root / "results" / CONFIG.profile


@pytest.fixture
def records(made, tmp_path):
    """A copy of the made records that a test may spoil."""
    return Records(shutil.copytree(made, tmp_path / "results" / made.name))


def test_one_backbone_and_an_arm_without_a_comparison_make_tables(tmp_path, monkeypatch):
    change = CHANGE["evaluation"] | {"backbones": ["prm"], "uniform_arms": ["none"]}
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", load_config("smoke", {"evaluation": change}))
    monkeypatch.setattr(sys.modules[__name__], "BACKBONES", ("prm",))
    results = make_records(tmp_path)
    store = Store(tmp_path, as_dict(CONFIG))
    for name in ("none", "dpo_round_2"):
        store.make(scored_stage("own", f"uniform-{name}", {name: 0.1 + GAINS}))
    store.make(scored_stage("shared", "uniform", {"dpo_round_2": 0.1 + GAINS}))
    rows = tables.headline(Records(results))
    assert set(rows.group) == {"mean"} and set(rows.backbones) == {1} and set(rows.protocol) == {"popularity"}


@pytest.mark.parametrize(
    ("configured", "compared"),
    [(["dlcm", "setrank", "mir"], ("setrank",)), (["dlcm", "mir"], ("dlcm", "mir")), (["prm"], ("prm",))],
)
def test_the_knowledge_arms_are_read_by_configured_backbones(configured, compared, monkeypatch):
    made = []
    config = load_config("smoke", {"evaluation": {"backbones": configured, "ablations": []}})
    scorers = SimpleNamespace(own_stage=lambda *place, backbones=None, **_: (place[-1], backbones))
    policy = SimpleNamespace(name="dpo_round_2")
    study = SimpleNamespace(
        config=config, scorers=scorers, policy=lambda _: policy, store=SimpleNamespace(make=made.append)
    )
    for name in ("cut_to_length", "judge"):
        monkeypatch.setattr(comparison, name, lambda _: None)
    monkeypatch.setattr(comparison, "arm_knowledge", lambda _, name: name)
    comparison.ablate(study)
    assert [stage for stage in made if stage[0] == "knowledge"] == [("knowledge", compared)] * 2


def test_copies_take_prose_from_their_sources_and_keep_the_code_that_ran(tmp_path):
    def cells(text):
        """'m1 c2*': a cell of prose with id 1 and one of code with id 2, which ran."""
        kinds = {"m": "markdown", "c": "code"}
        return [{"cell_type": kinds[w[0]], "id": w[1], "source": [w], "ran": w.endswith("*")} for w in text.split()]

    def copied(ran, written):
        for folder, text in (("results/notebooks", ran), ("sources", written)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "00_a.ipynb").write_text(json.dumps({"cells": cells(text)}))
        changed = report.copy_prose(tmp_path / "results", tmp_path / "sources")
        now = json.loads((tmp_path / "results/notebooks/00_a.ipynb").read_text())["cells"]
        assert bool(changed) == (now != cells(ran))
        return " ".join(cell["source"][0] for cell in now)

    assert copied("m1 c2* cx* c3* m4", "m1new c2 c3 m4") == "m1new c2* cx* c3* m4"
    assert copied("m1 c2* c3* m4", "m1 c2 c3 m5 c6 m4") == "m1 c2* c3* m5 m4"
    assert copied("m1 c2* m4 c3*", "m1 c2 c3") == "m1 c2* c3*"
    assert copied("m1 c2*", "m1 c2") == "m1 c2*"
    assert copied("c1* c2* c3*", "m0 c3 m4 c1 c2") == "m0 c1* c2* c3* m4", "a cell was moved since"


def test_tables_say_what_the_records_hold(records):
    assert tables.count_test_users(records) == len(GAINS)
    paired, power = tables.paired_differences_table(records), tables.power(records)
    assert set(paired.users) == {len(GAINS)} and set(power.validation_users) == {3}
    for group in ("mean", "mir"):
        line = tables.last_round(records, group).set_index(["scorer", "baseline"]).loc[("own", "zero_shot")]
        assert line.difference == pytest.approx((4 * 0.1 + 5 * 0.2 + 6 * 0.3) / 15, abs=1e-6)
        assert (line.better, line.worse, line.backbones) == (1, 0, 1)
    thirds = tables.breakdown(records).set_index(["fact", "third"])
    assert thirds.groupby("fact").users.sum().tolist() == [len(GAINS)]
    shared = (4 * 0.1 + 0.2) / 5 / 2
    assert thirds.difference["interactions", "low"] == pytest.approx(shared, abs=1e-6), "of shared scorers"
    assert tables.user_mean(records, "dpo_round_2") == pytest.approx(0.3 + 3.2 / 15), "of own ones"


def test_an_accuracy_that_may_be_chance_is_not_learning():
    table = pd.DataFrame({"policy": ["below", "touching", "above"], "heldout_ci_low": [0.45, 0.5, 0.501]})
    assert words.unlearnt(table, table.policy) == " Not seen to learn: below, touching."
    assert words.unlearnt(table.iloc[2:], ["above"]) == ""


def test_a_loss_needs_the_other_scorers_word_as_a_gain_does(records):
    shared = tables.last_round(records).query("scorer == 'shared'").set_index("baseline")
    name = "zero_shot"
    assert words.side(shared.ci_low[name], shared.ci_high[name]) == 1
    assert words.confirmed(records, {name: 1}) == ([name], []) and words.unconfirmed(records, {name: 1}) == "none"
    assert words.confirmed(records, {name: -1}) == ([], [name])
    there = f"({shared.difference[name]:+.3f} there)"
    assert words.unconfirmed(records, {name: -1}) == f"the loss to zero-shot LLM {there}"
    assert words.unconfirmed(records, {"history_mean+dpo": -1}) == "none", "no shared scorer reads it"


def test_a_setting_that_an_older_record_lacks_stands_at_its_default():
    made, settings = as_dict(CONFIG), as_dict(CONFIG)
    assert list(differing(made, settings)) == []
    del made["reranker"]["texts"]
    assert list(differing(made, settings)) == []
    settings["reranker"]["texts"] = "mean"
    assert list(differing(made, settings)) == [("reranker.texts", "each", "mean")]
    assert list(differing(settings, made)) == [("reranker.texts", "mean", "each")]
    made["reranker"]["gone"] = 1
    assert ("reranker.gone", 1, None) not in list(differing(made, settings))


def test_losses_are_counted_like_wins(records):
    line = tables.last_round(records).set_index(["scorer", "baseline"]).loc[("own", "history_mean")]
    assert line.difference == pytest.approx(-0.05, abs=1e-6) and (line.better, line.worse) == (0, 1)
    table = pd.DataFrame({"difference": [0.1, -0.2, -0.3, 0.1], "p_holm": [0.01, 0.01, 0.04, 0.5]})
    assert tables.counts_of(table) == {"better": 1, "worse": 2, "backbones": 4}
    assert words.better_worse(tables.counts_of(table)) == "1 better, 2 worse of 4"
    lines = answer.answer(records)
    assert "zero-shot LLM +0.2133" in lines["Above"] and "history mean -0.0500" in lines["Below"]
    assert "15 test users, one loop" in lines["Seen on"] and "history mean" not in lines["Above"]
    effects = words.markdown(answer.effect_table(records))
    assert "+0.2133 (" in effects and "0 / 1 / 1" in effects
    assert "| MIR, NDCG@7" in effects, "what reads the history stands beside the mean"
    table = answer.differences([records, records]).set_index("NDCG@7 of the last round")
    assert table.loc["above history mean"].iloc[0].startswith("**-0.050 (-"), "bold, because zero is outside"
    assert table.loc["above history mean"].iloc[1] == "**-0.050**" and list(table) == [
        "MovieLens-100K, mean of PRM",
        "MovieLens-100K, MIR",
    ]


def test_a_round_that_got_too_few_pairs_is_told(records):
    store = Store(records.folder.parents[1], records.config)
    asked = records.config["alignment"]["pairs"]
    store.make(Stage("policy", "dpo_round_1", {}, lambda _: {"examples": asked, "log": []}))
    store.make(Stage("policy", "dpo_round_2", {}, lambda _: {"examples": asked // 2, "log": []}))
    assert words.shortfalls(records) == [f"DPO round 2 was trained on {asked // 2} pairs of {asked}"]


def test_reading_says_where_the_records_come_from(records):
    text = records.provenance()
    for part in ("commit ", "date 20", "machine ", "versions ", "torch ", "numpy "):
        assert part in text


def spoil_manifest(folder, change):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(change(content)))


def swapped(content):
    listed = content["records"]
    return content | {"records": listed | {"own-popularity-item": listed["own-popularity-none"]}}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), "holds no records; set MAKE = True"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\x00"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is no manifest"),
        (lambda f: spoil_manifest(f, lambda c: c | {"profile": "other"}), "is of profile 'other'"),
        (lambda f: spoil_manifest(f, lambda c: c | {"records": {}}), "lists no records"),
        (lambda f: spoil_manifest(f, lambda c: c | {"records": {"own-popularity-item": "x"}}), "without file, key and"),
        (lambda f: spoil_manifest(f, swapped), "own-popularity-item.json of .* is the record of own popularity-none"),
        (lambda f: (f / "records/own-popularity-item.json").unlink(), "own-popularity-item.json is listed .* and gone"),
        (lambda f: (f / "records/own-popularity-item.json").write_text("{}"), "own-popularity-item.json differs from"),
        (lambda f: (f / "records/own-popularity-item.parquet").write_text(""), "own-popularity-item.parquet differs"),
        (
            lambda f: (f / "records/shared-popularity.parquet").unlink(),
            "shared-popularity.parquet is listed .* and gone",
        ),
    ],
)
def test_a_missing_altered_or_foreign_record_is_one_sentence(records, spoil, words):
    spoil(records.folder)
    with pytest.raises(StudyError, match=words) as error:
        tables.headline(Records(records.folder))
    assert "\n" not in str(error.value)


def test_a_record_of_another_profile_is_refused(records):
    store = Store(records.folder.parents[1], records.config)
    record = json.loads((records.folder / "records/data-cohort.json").read_text())
    store.config = records.config | {"profile": "other"}
    store.publish(record, records.folder / "none")
    spoil_manifest(records.folder, lambda content: content | {"profile": records.profile})
    with pytest.raises(StudyError, match=f"data-cohort.json in results/{CONFIG.profile} is of profile 'other'"):
        Records(records.folder).get("data", "cohort")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alignment": CONFIG.alignment.changed(beta=0.2)}, "alignment.beta = 0.1, not 0.2"),
        ({"seed": 7}, "seed = 2026, not 7"),
        ({"data": CONFIG.data.changed(fold=1)}, "data.fold = 0, not 1"),
        ({"evaluation": CONFIG.evaluation.changed(backbones=("prm",))}, "evaluation.backbones"),
    ],
)
def test_records_of_other_settings_are_not_read_as_if_they_were_asked_for(records, change, words):
    records.require(CONFIG)
    records.require(CONFIG.changed(evaluation=CONFIG.evaluation.changed(workers=7)))
    with pytest.raises(StudyError, match=words):
        records.require(CONFIG.changed(**change))


def test_a_profile_that_ran_one_notebook_has_a_report_of_what_it_has(records):
    keep = ("data-cohort", "data-test_users")
    spoil_manifest(records.folder, lambda c: c | {"records": {k: v for k, v in c["records"].items() if k in keep}})
    (records.folder / "figures").mkdir()
    (records.folder / "figures" / "05_headline.png").write_text("of an older run")
    page = report.write_report(Records(records.folder)).read_text()
    assert "05_headline.png" not in page and "05_headline" in page.split("Not in this profile's records")[1]


def test_a_record_of_other_code_is_one_sentence(records):
    store = Store(records.folder.parents[1], records.config)
    store.make(Stage("samples", "gain", {}, lambda _: {"rows": []}))
    with pytest.raises(
        StudyError, match="samples cannot be drawn: a record of .* lacks 'texts', so other code made it"
    ):
        report.write_report(Records(records.folder))


def test_a_hundred_test_users_are_counted_once(monkeypatch, records):
    monkeypatch.setattr(tables, "count_test_users", lambda _: 100)
    power = tables.power(records)
    assert not power.duplicated(["scorer", "backbone", "baseline", "users"]).any() and 100 in set(power.users)


def test_a_table_without_records_is_a_missing_record(records):
    with pytest.raises(MissingRecordError, match="no record referees-rounds in"):
        loop_figures.rounds(records)


def test_what_a_round_has_learnt_by_hand():
    pairs = pd.DataFrame(
        {
            "user": [1, 1, 2, 2],
            "tokens": [0, 5, -2, -9],
            "unseen": [0.1, -0.2, 0.3, np.nan],
            "probe_facts": [1.0, -1.0, 1.0, 1.0],
            "probe_vector": [-1.0, -1.0, 1.0, 0.0],
            "probe_fit": [1.0, 1.0, 1.0, 1.0],
            "value": [2.0, 1.0, -1.0, 0.5],
        }
    )
    shares = loop_learning._pair_shares(pairs)
    assert shares["heldout_accuracy"] == 0.75 and shares["longer_wins"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert (shares["matched_pairs"], shares["matched_accuracy"]) == (2, 0.5)
    assert shares["realised_accuracy"] == pytest.approx(1 / 3) and shares["label_realised"] == pytest.approx(2 / 3)
    assert [shares[f"{name}_accuracy"] for name in ("facts", "vector", "probe")] == [0.75, 0.375, 1]
    assert shares["heldout_ci_low"] < 0.75 < shares["heldout_ci_high"]


def test_a_line_of_what_a_round_has_learnt_by_hand(monkeypatch):
    pairs = {"user": [1, 1, 2, 3], "tokens": [1, 1, 1, 1], "unseen": [0.1, 0.1, 0.1, 0.1], "value": [1.0, 2, -1, 3]}
    probes = dict.fromkeys(("probe_facts", "probe_vector", "probe_fit"), 0.0)
    table = pd.DataFrame(pairs).assign(**probes)
    heldout = {"loop": "dpo", "round": 1, "pairs": 8, "pair_users": 4, "kl": 1.5}
    texts = {"tokens": 120, "texts": 6, "finished": 3, "distinct": 2}
    made = SimpleNamespace(
        metrics=lambda kind, _: {"heldout": heldout, "texts": texts}[kind],
        values=lambda _, name: table if name == "dpo_round_1" else table.assign(value=[-1.0, 1, -1, -1]),
        get=lambda *_: {"seconds": 90},
        config={"evaluation": {"ablations": []}},
    )
    monkeypatch.setattr(loop_learning, "repetitive_share", lambda *_: 0.25)
    row = loop_learning.learning(made, ["dpo_round_1"]).iloc[0]
    assert (row.mean_tokens, row.finished, row.distinct_texts, row.repetitive) == (20, 0.5, 1 / 3, 0.25)
    assert (row.pairs, row.pair_users, row.kl, row.heldout_accuracy, row.over_random) == (8, 4, 1.5, 0.75, 0.5)
    judged = {"arm": ["dpo_round_1"], "split": "validation", "reward": "log_likelihood"}
    judged = pd.DataFrame(judged | {"difference": 0.1, "ci_half": 0.2, "t": 1.0})
    monkeypatch.setattr(loop_learning, "ablation_preference", lambda _: judged)
    monkeypatch.setattr(loop_learning, "trained_policies", lambda _: ["dpo_round_1", "dpo_round_2", "rft_round_1"])
    (variant,) = loop_learning.variants(made).itertuples()
    assert (variant.policy, variant.minutes, variant.referees_ci_half) == ("dpo_round_1", 1.5, 0.2)


def test_referees_of_dpo_above_random_labels_by_hand():
    values = {f"dpo_round_2/{split}/log_likelihood": np.array([0.3, 0.5, 0.4]) for split in ("validation", "test")}
    values["random_labels_round_2/validation/log_likelihood"] = np.array([0.1, 0.2, 0.6])
    turn = {"loop": "dpo", "round": 2, "after": "dpo_round_2"}
    row = loop_learning._referees_over_random(values, turn)
    gain = np.array([0.2, 0.3, -0.2])
    assert row["referees_over_random_validation"] == pytest.approx(0.1)
    assert row["referees_over_random_validation_t"] == pytest.approx(0.1 / (gain.std(ddof=1) / np.sqrt(3)))
    assert np.isnan(row["referees_over_random_test"]), "there is no control of test users here"
    other = loop_learning._referees_over_random(values, turn | {"loop": "random_labels"})
    assert np.isnan(list(other.values())).all()


def test_agreement_with_own_lists_by_hand():
    def pairs(values):
        unseen, tokens = [0.1, -0.2, 0.3, np.nan], [0, 5, -2, -9]
        return pd.DataFrame({"user": [1, 1, 2, 2], "tokens": tokens, "unseen": unseen, "value": values})

    values = {"dpo": [2.0, 1.0, -1.0, 0.5], "random_labels": [1.0, -1.0, 1.0, -1.0]}
    made = SimpleNamespace(
        config={"alignment": {"rounds": 2}, "evaluation": {"arms": ["random_labels"]}},
        values=lambda _, name: pairs(values[name.partition("_round_")[0]]),
    )
    table = loop_learning.agreement(made).set_index("order")
    assert table.agreement.to_dict() == pytest.approx(
        {"reward": 2 / 3, "longer": 0.5 / 3, "dpo": 1 / 3, "random_labels": 1}
    )
    assert (table.pairs == 6).all() and (table.users == 2).all() and (table["rounds"] == 2).all()


def test_noise_that_is_not_of_users_by_hand():
    values = {"dpo_round_1": 0.60, "dpo_round_1_drawn_1": 0.62, "dpo_round_1_drawn_2": 0.61}
    values |= {"dpo_round_1_trained_1": 0.70, "dpo_round_1_trained_2": 0.50}

    def metrics(kind, name):
        arm = name.partition("popularity-")[2]
        assert (kind, name.startswith("repeated-")) in {("own", False), ("ablation", True)}
        means = {"prm/ndcg@7": {"user": [values[arm], values[arm]]}, "mir/ndcg@7": {"user": [9.0, 9.0]}}
        return {"arms": {arm: {"means": means}}}

    made = SimpleNamespace(
        config={"evaluation": {"repeats": 2}}, metrics=metrics, backbones=["prm", "mir"], profile="p"
    )
    table = tables.repeats(made).set_index("repeated")
    assert table.times.tolist() == [3, 3] and table["mean"].tolist() == pytest.approx([0.61, 0.6])
    assert table["std"].tolist() == pytest.approx([0.01, 0.1]), "MIR reads the history and stands beside"
    made.config["evaluation"]["repeats"] = 0
    with pytest.raises(NotAskedError, match="p repeats no round"):
        tables.repeats(made)


def test_dpo_less_random_labels_pair_by_pair():
    values = {
        "dpo_round_1": pd.DataFrame({"user": [1, 1, 2, 3], "value": [1.0, 2.0, -1.0, 3.0]}),
        "random_labels_round_1": pd.DataFrame({"user": [1, 1, 2, 3], "value": [-1.0, 2.0, -1.0, -1.0]}),
    }
    made = SimpleNamespace(values=lambda _, name: values[name])
    columns = loop_learning._over_random(made, "dpo_round_1")
    assert columns["over_random"] == 0.5 and columns["over_random_ci_low"] < 0.5 < columns["over_random_ci_high"]
    assert np.isnan(loop_learning._over_random(made, "random_labels_round_1")["over_random"])


def test_loops_follow_from_the_arms():
    assert trained_loops(["item", "zero_shot", "dpo_shuffled"]) == ["dpo"]
    assert trained_loops(["random_labels", "history_mean+dpo_residual", "rft"]) == [
        *("dpo", "random_labels", "dpo_residual", "rft")
    ]
    assert set(trained_loops(list(ARMS))) == set(LOOPS)


# Arms in one place


def test_every_arm_is_made_and_compared_by_its_entry():
    for one in ABLATION_ARMS.values():
        assert one.user in comparison.MAKERS and {*one.against} <= {*ABLATION_ARMS, *ARMS, *LOOPS}
        assert (one.as_long_as is None) == (one.user != "cut")
    cut = [a.name for a in cut_arms(["warm_start", "longer_wins"])]
    assert cut == [
        *("dpo_cut_to_warm_start", "warm_start_cut_to_dpo", "longer_wins_cut_to_dpo", "dpo_cut_to_longer_wins"),
    ]
    assert label(cut[0]) == "last round, cut to warm start"
    for one in ARMS.values():
        assert one.user in comparison.MAKERS and one.label and one.question
        assert set(one.against) <= set(ARMS) and (one.policy is None) == (
            one.user not in ("texts", "shuffled", "noise")
        )
    assert arm("dpo_round_3").policy == "dpo_round_3" and label("dpo_round_3") == "DPO round 3"
    assert label("ipo_low") == "loss: IPO, rate 0.0003"
    names = ["none", "item", "zero_shot", "dpo_round_1", "dpo_round_2"]
    assert comparisons(names, "dpo_round_2", "zero_shot") == [
        ("dpo_round_2", "zero_shot"),
        ("dpo_round_2", "item"),
        ("dpo_round_1", "zero_shot"),
        ("dpo_round_2", "dpo_round_1"),
        ("zero_shot", "item"),
        ("item", "none"),
    ]
    assert comparisons(["warm_start", "dpo_round_1"], "dpo_round_1", "warm_start") == [("dpo_round_1", "warm_start")]


@pytest.mark.parametrize(("loop", "begins"), [("dpo", None), ("dpo_cold", "zero_shot"), ("dpo_warm", "warm_start")])
def test_a_loop_begins_as_configured_or_always_the_same(loop, begins):
    assert LOOPS[loop].starts_at(True) == (begins or "warm_start")
    assert LOOPS[loop].starts_at(False) == (begins or "zero_shot")


def test_a_loop_whose_start_has_too_few_texts_is_refused(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(study_module.Data, "dataset", dataset)
    study = made_study(load_config("smoke", CHANGE | {"evaluation": {"ladder": []}}), tmp_path)
    assert not study.zero_shot.rewarded
    with pytest.raises(StudyError, match="dpo_cold begins with zero_shot, whose texts make no pairs; add dpo_cold to"):
        study.round(1, "dpo_cold")
