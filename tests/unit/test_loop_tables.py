"""Tables about the loop by hand-computed numbers: training, repetition, referees, rewards and cost by round."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils.evidence import loop_tables

# What referees give two test users by arm, and what the reward models claim of two train and two validation users.
REFEREES = {
    ("zero_shot", "test", "log_likelihood"): [-0.6, -0.8],
    ("warm_start", "test", "log_likelihood"): [-0.5, -0.7],
    ("dpo_round_1", "test", "log_likelihood"): [-0.4, -0.4],
    ("dpo_round_2", "test", "log_likelihood"): [-0.3, -0.4],
    ("random_labels_round_1", "test", "log_likelihood"): [-0.5, -0.6],
    ("random_labels_round_2", "test", "log_likelihood"): [9.0, 9.0],
    ("dpo_shuffled", "test", "log_likelihood"): [9.0, 9.0],
    ("dpo_round_1", "validation", "claimed"): [0.1, 0.3],
    ("dpo_round_2", "validation", "claimed"): [0.2, 0.6],
    ("dpo_round_1", "train", "claimed"): [0.0, 0.0],
    ("dpo_round_2", "train", "claimed"): [0.0, 0.0],
}
ROUNDS = {
    "policies": ["zero_shot", "warm_start", "dpo_round_1", "dpo_round_2"],
    "loop": ["warm_start", "dpo_round_1", "dpo_round_2"],
    "others": ["random_labels_round_1", "random_labels_round_2", "dpo_shuffled"],
}
STEPS = [{"loss": 0.7 - 0.1 * n, "rewards/margins": 0.1 * n, "rewards/accuracies": n / 10} for n in range(6)]
SECONDS = {"policy": 240, "texts": 120, "reward": 60}


@pytest.fixture
def records():
    metrics = {
        ("referees", "rounds"): ROUNDS,
        ("repetition", "dpo_round_1"): {"repetitive": 3, "texts": 12},
        ("samples", "gain"): {
            "texts": "warm_start",
            "users": 10,
            "rows": [{"samples": n, "reward": "ndcg", "gain": 0.01 * n} for n in (2, 4)],
        },
    }
    rows = [(*key, value) for key, values in REFEREES.items() for value in values]
    values = pd.DataFrame(rows, columns=["arm", "split", "kind", "value"])
    texts = {"texts": 60, "tokens": 1200, "distinct": 45}
    return SimpleNamespace(
        profile="made",
        start="warm_start",
        listed={"repetition-dpo_round_1": {}},
        config={"alignment": {"rounds": 1}, "evaluation": {"arms": ["random_labels", "rft"]}},
        metrics=lambda kind, name: (
            {"policy": {"examples": 8, "log": STEPS}, "texts": texts}.get(kind) or metrics[kind, name]
        ),
        values=lambda *_: values,
        get=lambda kind, _: {"seconds": SECONDS[kind], "metrics": texts},
    )


def test_the_share_of_texts_that_repeat_themselves(records):
    assert loop_tables.repetitive_share(records, "dpo_round_1") == 0.25
    assert np.isnan(loop_tables.repetitive_share(records, "template")), "they were not counted"


def test_a_line_of_training(records):
    table = loop_tables.training_summary(records)
    assert table.policy.tolist() == ["dpo_round_1", "random_labels_round_1"], "best of N imitates"
    row = table.iloc[0]
    assert (row.pairs, row.steps) == (8, 6)
    assert row[["first_loss", "last_loss", "last_margin"]].tolist() == pytest.approx([0.7, 0.2, 0.5])
    assert row.accuracy == pytest.approx((0.3 + 0.4 + 0.5) / 3), "from the fourth step on"
    assert np.isnan(loop_tables.accuracy_on_new_pairs(STEPS[:3]))


def test_what_referees_think_of_first_rounds(records):
    table = loop_tables.ablation_preference(records).set_index("arm")
    assert table.index.tolist() == ["dpo_round_1", "zero_shot", "random_labels_round_1"], "nothing of later rounds"
    assert table.difference.tolist() == pytest.approx([0.2, -0.1, 0.05])
    row = table.loc["dpo_round_1"]  # differences 0.1 and 0.3: deviation 0.2 / sqrt(2), error 0.1
    assert (row.users, row.ci_half, row.t) == (2, pytest.approx(1.96 * 0.1), pytest.approx(2))


def test_rewards_by_round_stand_against_the_loops_start(records):
    table = loop_tables.rewards_by_round(records).set_index(["round", "split", "reward"])
    independent = table.xs(("test", "independent_log_likelihood"), level=("split", "reward"))
    assert independent["mean"].to_dict() == pytest.approx({-1: -0.7, 0: -0.6, 1: -0.4, 2: -0.35})
    assert independent.difference_to_round_0.to_dict() == pytest.approx({-1: -0.1, 0: 0, 1: 0.2, 2: 0.25})
    assert set(table.mean_tokens) == {20} and set(table.distinct_texts) == {0.75}
    claimed = table.xs(("validation", "claimed_log_likelihood"), level=("split", "reward"))
    assert claimed.difference_to_round_0.to_dict() == pytest.approx({1: 0.2, 2: 0.6}), "claims add up over rounds"
    assert claimed["mean"].isna().all()


def test_what_rounds_cost_and_give(records):
    """Zero-shot texts take 2 minutes; the warm start and round 1 7 each, with the reward of their texts; round 2 6."""
    table = loop_tables.cost(records).set_index("round")
    assert table.minutes.to_dict() == {-1: 2, 0: 9, 1: 16, 2: 22}
    assert table.gain_a_minute[1] == pytest.approx(0.2 / 7) and table.gain_a_minute[2] == pytest.approx(0.05 / 6)
    assert table.ci_half[1] == pytest.approx(1.96 * 0.1)


def test_what_more_samples_cost_and_give(records):
    table = loop_tables.samples(records).set_index("samples")
    assert table.minutes.to_dict() == pytest.approx({2: 2 / 60 * 2 * 10, 4: 2 / 60 * 4 * 10})
    assert table.gain_a_minute[4] == pytest.approx(0.02 / (2 / 60 * 2 * 10)) and np.isnan(table.gain_a_minute[2])
