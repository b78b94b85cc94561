"""Folds pooled into one table, by hand-computed numbers, and records of folds kept apart."""

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils import reports, tables
from dpo4rec_utils import study as study_module
from dpo4rec_utils.config import load_config


def part(users, values, lists, list_mean):
    seeds = [{"backbone": "prm", "seed": 0, "metric": "ndcg@7", "list": list_mean, "user": float(np.mean(values))}]
    summary = {"seeds": seeds, "by_user": {"prm/ndcg@7": values}, "users": users, "lists": lists}
    return {
        "protocol": "popularity",
        "scorer": "own",
        "arms": {"item": summary | {"validation": {"prm": [[0.1, 0.2]]}}},
    }


def test_pooled_folds_are_one_group_of_users():
    pooled = tables._pooled((part([3, 5], [0.2, 0.6], 10, 0.3), part([4], [1.0], 30, 0.7)))
    (arm,) = pooled["arms"].values()
    assert (arm["users"], arm["by_user"]["prm/ndcg@7"], arm["lists"]) == ([3, 5, 4], [0.2, 0.6, 1.0], 40)
    (seed,) = arm["seeds"]
    assert seed["list"] == pytest.approx((10 * 0.3 + 30 * 0.7) / 40) and seed["user"] == pytest.approx(0.6)
    assert arm["validation"]["prm"] == [[0.1, 0.2, 0.1, 0.2]]


def test_folds_share_no_test_user_and_no_record(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(study_module.Study, "dataset", dataset)
    config = load_config("smoke", {"data": {"max_users": None}, "evaluation": {"folds": 3}})
    first = study_module.Study(config, tmp_path)
    first.encoder = None
    folds = first.folds
    test_users = [set(fold.cohort.users[fold.cohort.of("test")]) for fold in folds]
    assert len(set.union(*test_users)) == sum(map(len, test_users)) > 0
    assert [r["name"] for r in first.store.records("data")] == ["cohort", "cohort-fold1", "cohort-fold2"]
    assert [fold.store.record("data", "cohort")["config"]["data"]["fold"] for fold in folds] == [0, 1, 2]
    assert first.store.folder("own", "x", {}) != folds[1].store.folder("own", "x", {})


def test_the_effect_table_shows_what_the_csv_holds_fold_by_fold(tmp_path):
    row = {"protocol": "popularity", "scorer": "own", "baseline": "zero_shot", "users": 9, "difference": 0.02}
    row |= {"ci_low": 0.01, "ci_high": 0.03, "significant": "2 of 4", "seen_from": 0.015}
    other = row | {"baseline": "item", "difference": 0.5}
    pd.DataFrame([row, other, row | {"protocol": "uniform"}]).to_csv(tmp_path / "headline.csv", index=False)
    shown = reports._effect(tmp_path, ("zero_shot",)).splitlines()
    assert len(shown) == 3 and "+0.0200 (+0.0100 to +0.0300)" in shown[2] and "2 of 4" in shown[2]
    assert len(reports._effect(tmp_path).splitlines()) == 4
    folds = [
        {"scorer": "own", "baseline": b, "fold": f, "difference": d}
        for b in ("zero_shot", "item")
        for f, d in ((0, 0.1), (1, -0.1))
    ]
    pd.DataFrame(folds).to_csv(tmp_path / "folds.csv", index=False)
    assert "+0.1000, -0.1000" in reports._effect(tmp_path, ("zero_shot",))
