"""Folds pooled into one table, by hand-computed numbers, and records of folds kept apart."""

import numpy as np
import pytest

from dpo4rec_utils import study as study_module
from dpo4rec_utils import tables
from dpo4rec_utils.config import load_config


def part(users, values, lists, list_mean):
    seeds = [{"backbone": "prm", "seed": 0, "metric": "ndcg@7", "list": list_mean, "user": float(np.mean(values))}]
    summary = {"seeds": seeds, "by_user": {"prm/ndcg@7": values}, "users": users, "lists": lists}
    return {"protocol": "popularity", "scorer": "own", "arms": {"item": summary | {"validation": {"prm": [[0.1, 0.2]]}}}}


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
