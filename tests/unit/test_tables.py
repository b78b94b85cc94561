"""Folds pooled into one table, by hand-computed numbers, and records of folds kept apart."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dpo4rec_utils.evaluation import arm_names
from dpo4rec_utils.understanding import breakdown

from dpo4rec_utils import reports, tables
from dpo4rec_utils import study as study_module
from dpo4rec_utils.config import load_config
from dpo4rec_utils.metrics import CUTOFFS, METRICS

BACKBONES = ("prm", "mir")


def part(users, values, lists, list_means):
    """Metrics of one arm: two backbones whose values differ by 1, two seeds."""
    seeds = [
        {"backbone": b, "seed": s, "metric": "ndcg@7", "list": mean + i, "user": float(np.mean(values)) + i}
        for s, mean in list_means.items()
        for i, b in enumerate(BACKBONES)
    ]
    by_user = {f"{b}/ndcg@7": [v + i for v in values] for i, b in enumerate(BACKBONES)}
    summary = {"seeds": seeds, "by_user": by_user, "users": users, "lists": lists}
    return {
        "protocol": "popularity",
        "scorer": "own",
        "arms": {"item": summary | {"validation": {"prm": [[0.1], [0.2]]}}},
    }


def test_pooled_folds_are_one_group_of_users():
    first, second = part([3, 5], [0.2, 0.6], 10, {0: 0.3, 1: 0.4}), part([4], [1.0], 30, {1: 0.8, 0: 0.7})
    (arm,) = tables._pooled((first, second))["arms"].values()
    assert (arm["users"], arm["by_user"]["prm/ndcg@7"], arm["lists"]) == ([3, 5, 4], [0.2, 0.6, 1.0], 40)
    assert arm["by_user"]["mir/ndcg@7"] == [1.2, 1.6, 2.0]
    found = {(row["backbone"], row["seed"]): (row["list"], row["user"]) for row in arm["seeds"]}
    expected = {("prm", 0): (10 * 0.3 + 30 * 0.7) / 40, ("prm", 1): (10 * 0.4 + 30 * 0.8) / 40}
    for (backbone, seed), mean in expected.items():
        assert found[backbone, seed] == pytest.approx((mean, 0.6))
        assert found["mir", seed] == pytest.approx((mean + 1, 1.6))
    assert len(found) == 4 and arm["validation"]["prm"] == [[0.1, 0.1], [0.2, 0.2]]


@pytest.fixture
def folded(tmp_path, monkeypatch, dataset):
    """A study of three folds whose encoder and last policy are never asked for."""
    monkeypatch.setattr(study_module.Study, "dataset", dataset)
    monkeypatch.setattr(study_module.Study, "final", SimpleNamespace(name="dpo_round_2"))
    change = {"data": {"max_users": None}, "evaluation": {"folds": 3, "backbones": list(BACKBONES), "seeds": 2}}
    study = study_module.Study(load_config("smoke", change), tmp_path)
    study.encoder = None
    return study


def test_folds_share_no_test_user_and_no_record(folded):
    test_users = [set(fold.cohort.users[fold.cohort.of("test")]) for fold in folded.folds]
    assert len(set.union(*test_users)) == sum(map(len, test_users)) > 0
    assert [fold.config.data.fold for fold in folded.folds] == [0, 1, 2]
    assert [len(fold.folds) for fold in folded.folds[1:]] == [1, 1]
    for fold in folded.folds:
        (record,) = fold.store.records("data")
        assert (
            record == fold.store.record("data", "cohort") and record["config"]["data"]["fold"] == fold.config.data.fold
        )
    shown = reports.stages_table(folded).stage.tolist()
    assert shown == ["data:cohort", "data:cohort-fold1", "data:cohort-fold2"]


def test_tables_of_folds_show_each_fold_and_all_users(folded, monkeypatch):
    def metrics(study, arm):
        """Everyone gains 0.1 x (fold + 1) from the last round over every other arm."""
        gain = 0.1 * (study.config.data.fold + 1) if arm == "dpo_round_2" else 0.0
        users = study.cohort.of("test")
        names = [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
        rows = [{"backbone": b, "seed": s, "metric": n} for b in BACKBONES for s in range(2) for n in names]
        return {
            "seeds": [row | {"list": 0.3 + gain, "user": 0.3 + gain} for row in rows],
            "by_user": {f"{b}/{n}": [0.3 + gain] * len(users) for b in BACKBONES for n in names},
            "users": users.tolist(),
            "lists": len(users),
            "validation": {b: [[0.3 + gain, 0.3], [0.3, 0.3]] for b in BACKBONES},
        }

    def own(study, protocol, arm):
        return {"arms": {arm: metrics(study, arm)}}

    def shared(study, protocol):
        arms = {arm: metrics(study, arm) for arm in arm_names(study, protocol) if arm != "none"}
        return {"protocol": protocol, "scorer": "shared", "arms": arms}

    monkeypatch.setattr(tables, "own", own)
    monkeypatch.setattr(tables, "shared", shared)
    by_fold = tables.fold_table(folded)
    chosen = by_fold[(by_fold.scorer == "own") & (by_fold.baseline == "zero_shot")]
    assert chosen.difference.tolist() == pytest.approx([0.1, 0.2, 0.3])
    users = chosen.users.to_numpy()
    paired, power = tables.paired_table(folded), tables.power_table(folded, int(users.sum()), ())
    assert set(paired.users) == {users.sum()} and set(power.validation_users) == {2}
    line = tables.headline(folded, paired, power).set_index(["protocol", "scorer", "baseline"])
    mean = (users * [0.1, 0.2, 0.3]).sum() / users.sum()
    assert line.difference["popularity", "own", "zero_shot"] == pytest.approx(mean)
    assert line.significant["popularity", "own", "zero_shot"] == "2 of 2"
    thirds = breakdown(folded, "dpo_round_2", "zero_shot")
    assert thirds.groupby("fact").users.sum().tolist() == [users.sum()] * 3


def test_the_effect_table_shows_what_the_csv_holds_fold_by_fold(tmp_path):
    row = {"protocol": "popularity", "scorer": "own", "baseline": "zero_shot", "users": 9, "difference": 0.02}
    row |= {"ci_low": 0.01, "ci_high": 0.03, "significant": "2 of 4", "seen_from": 0.015}
    rows = [row, row | {"baseline": "item", "difference": 0.5}, row | {"protocol": "uniform"}]
    pd.DataFrame(rows).to_csv(tmp_path / "headline.csv", index=False)
    shown = reports._effect(tmp_path, ("zero_shot",)).splitlines()
    assert len(shown) == 3 and "+0.0200 (+0.0100 to +0.0300)" in shown[2] and "2 of 4" in shown[2]
    assert len(reports._effect(tmp_path).splitlines()) == 4
    values = {("own", "zero_shot"): (0.1, -0.1), ("own", "item"): (0.2, 0.3), ("shared", "zero_shot"): (0.4, 0.5)}
    folds = [
        {"scorer": scorer, "baseline": baseline, "fold": f"fold {i}", "difference": d}
        for (scorer, baseline), differences in values.items()
        for i, d in enumerate(differences)
    ]
    pd.DataFrame(folds).to_csv(tmp_path / "folds.csv", index=False)
    shown = reports._effect(tmp_path).splitlines()
    assert "+0.1000, -0.1000" in shown[2] and "+0.2000, +0.3000" in shown[3]
