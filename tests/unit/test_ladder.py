"""The ladder: which texts a rung takes, what it is compared with, and its table by hand-computed numbers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils.config import as_dict
from dpo4rec_utils.evidence import contents, ladder
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import NotAskedError
from dpo4rec_utils.ladder import Ladder, climb
from dpo4rec_utils.rungs import RUNGS, Rung
from dpo4rec_utils.settings import ConfigError, load_config
from dpo4rec_utils.store import Stage, Store, write_values

CONFIG = load_config("smoke")


def rung_stage(name: str, values: dict[str, list[float]]) -> Stage:
    """A record of a rung: split -> a value a user, the same for two seeds but for 0.02 around it."""

    def build(folder):
        rows = [
            ("prm", split, seed, user, value + shift)
            for split, users in values.items()
            for user, value in enumerate(users)
            for seed, shift in enumerate((-0.02, 0.02))
        ]
        write_values(pd.DataFrame(rows, columns=["backbone", "split", "seed", "user", "value"]), folder)
        return {"texts": RUNGS[name].count, "tokens": 20.0}

    return Stage("ladder", name, {"name": name}, build)


def test_a_rung_is_compared_by_user_with_the_one_that_it_names(tmp_path):
    store = Store(tmp_path, as_dict(CONFIG))
    store.make(rung_stage("texts_2", {"validation": [0.2, 0.4, 0.6], "train_later": [0.1]}))
    store.make(rung_stage("mean_2", {"validation": [0.3, 0.5, 0.5], "train_later": [0.4]}))
    records = Records(tmp_path / "results/smoke")
    table = ladder.ladder(records).set_index(["rung", "split"])
    row = table.loc["mean_2", "validation"]
    assert row.ndcg == pytest.approx(1.3 / 3) and row.against == "texts_2" and row.users == 3
    assert row.difference == pytest.approx(0.1 / 3, abs=1e-7)
    # differences 0.1, 0.1, -0.1: deviation sqrt(4/3) / 10, so t = (1/3) / (sqrt(4/3) / sqrt(3)) = 0.5
    assert row.t == pytest.approx(0.5, abs=1e-5)
    assert table.loc["mean_2", "train_later"].difference == pytest.approx(0.3, abs=1e-6)
    assert "mean vector of two +0.033 (t 0.5)" in contents.draw(records, "03_ladder")


def test_data_sets_stand_side_by_side(tmp_path):
    columns = {}
    for name, splits in (
        ("one", {"validation": [0.2, 0.4, 0.6], "train_later": [0.1]}),
        ("two", {"validation": [0.5]}),
    ):
        config = CONFIG.changed(data=CONFIG.data.changed(name=name))
        store = Store(tmp_path / name, as_dict(config))
        store.make(rung_stage("texts_2", splits))
        columns[name] = Records(tmp_path / name / "results/smoke")
    store.make(rung_stage("mean_2", {"validation": [0.75]}))
    table = ladder.side_by_side(list(columns.values())).set_index("NDCG@7")
    assert table.columns.tolist() == [
        "one, validation users (3)",
        "one, train users' later lists (1)",
        "two, validation users (1)",
    ]
    assert table.loc[RUNGS["texts_2"].label].tolist() == ["0.400", "0.100", "0.500"]
    assert table.loc[RUNGS["mean_2"].label].tolist() == ["", "", "0.750 (+0.250, t nan)"]


def test_a_rung_by_itself_is_compared_with_nothing(tmp_path):
    Store(tmp_path, as_dict(CONFIG)).make(rung_stage("texts_2", {"validation": [0.2, 0.4]}))
    assert contents.draw(Records(tmp_path / "results/smoke"), "03_ladder") == "No rung could be compared."


def test_a_profile_without_a_ladder_says_so(tmp_path, capsys):
    Store(tmp_path, as_dict(CONFIG)).make(Stage("data", "cohort", {}, lambda _: {}))
    records = Records(tmp_path / "results/smoke")
    with pytest.raises(NotAskedError, match="asks for no ladder"):
        ladder.ladder(records)
    contents.show(records, "ladder")
    assert "asks for no ladder; ml-100k-ladder and games-ladder do" in capsys.readouterr().out


def made_ladder() -> Ladder:
    """Two users with four texts each, of tokens and vectors that tell them apart; user 1 is a test user."""
    one = object.__new__(Ladder)
    one.config, one.count, one.users = CONFIG, 4, np.array([0])
    tokens = np.array([[3.0, 9.0, 1.0, 5.0], [4.0, 3.0, 2.0, 1.0]])
    estimates = [np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[9.0, 1.0, 2.0, 8.0]]), np.array([[0.0, 5.0, 6.0, 0.0]])]
    vectors = np.arange(8.0).reshape(2, 4, 1)
    one.__dict__ |= {"_tokens": tokens, "_estimates": estimates, "_vectors": vectors}
    one.study = SimpleNamespace(
        data=SimpleNamespace(shuffled_users=lambda: np.array([1, 0])),
        vectors=SimpleNamespace(history_mean=np.array([[7.0], [8.0]])),
    )
    return one


PICKS = {
    "texts_2": [0, 1],
    "pick_longest": [1, 3],
    "pick_shortest": [2, 0],
    "pick_nearest": [3, 2],
    "pick_amortised": [0, 3],
    "pick_equal_length": [2, 1],
    "pick_least_amortised": [1, 2],
}


@pytest.mark.parametrize("name", PICKS)
def test_which_texts_a_rung_takes(name):
    vectors, tokens = made_ladder()._chosen(RUNGS[name])
    assert vectors[0, :, 0].tolist() == PICKS[name]
    assert tokens[0].tolist() == [[3.0, 9.0, 1.0, 5.0][i] for i in PICKS[name]]


def test_a_mean_is_one_input_and_another_users_is_another_users():
    assert made_ladder()._chosen(RUNGS["mean_4"])[0].tolist() == [[[1.5]], [[5.5]]]
    assert made_ladder()._chosen(Rung("x", "x", "on top", "texts_2", count=4, together=True, shuffled=True))[
        0
    ].tolist() == [
        [[5.5]],
        [[1.5]],
    ]
    vectors, tokens = made_ladder()._chosen(RUNGS["history_mean"])
    assert vectors.tolist() == [[[7.0]], [[8.0]]] and tokens is None


def test_the_lengths_are_those_of_the_texts_that_are_read():
    one = made_ladder()
    del one.__dict__["_tokens"]
    rows = [(user, sample, 10 * user + sample) for user in (0, 1) for sample in range(6)]
    texts = pd.DataFrame(rows, columns=["user", "sample", "tokens"])
    one.policy, one.study.knowledge = None, SimpleNamespace(texts=lambda _: texts)
    assert one._tokens.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]


def test_every_rung_is_compared_with_one_that_is_there():
    assert all(rung.against in RUNGS for rung in RUNGS.values())
    assert all(rung.history for name, rung in RUNGS.items() if name.startswith("history_mean+"))
    with pytest.raises(ValueError, match="pick = 'best'"):
        Rung("x", "x", "number", "texts_2", pick="best")


def test_a_rung_that_needs_more_texts_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="'mean_8', which needs 8 texts of every user; llm.evaluation_samples = 2"):
        load_config("smoke", {"evaluation": {"ladder": ["mean_8"]}})
    with pytest.raises(ConfigError, match="evaluation.ladder"):
        load_config("smoke", {"evaluation": {"ladder": ["mean_3"]}})


def test_what_a_rung_is_compared_with_is_made_too():
    made = []
    study = SimpleNamespace(
        config=CONFIG.changed(evaluation=CONFIG.evaluation.changed(ladder=("mean_2", "history_mean+mean_2"))),
        zero_shot=None,
        data=SimpleNamespace(cohort=SimpleNamespace(of=lambda *_: np.array([0]))),
        store=SimpleNamespace(make=made.append),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ladder, "stage", lambda _, rung: rung.name)
        climb(study)
    assert made == ["mean_2", "history_mean+mean_2", "texts_2", "history_mean"]
