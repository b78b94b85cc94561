"""Vectors of what is known of a user, by hand; who trains the models that reward a user, and who does not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils import comparison
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.knowledge.facts import Facts
from dpo4rec_utils.knowledge.vectors import TextVectors, means_without
from dpo4rec_utils.rewards.model import RewardInputs, RewardModels, assigned_folds
from dpo4rec_utils.rewards.referees import claimed_change
from dpo4rec_utils.settings import load_config
from tests.conftest import made_study

POLICY = SimpleNamespace(name="p")
ITEMS = np.eye(4, dtype=np.float32)  # item i points along axis i


class LengthEncoder:
    """A text's vector is the number of its letters and the place of its last one in the alphabet."""

    def encode(self, texts, _=""):
        return np.array([[len(text), ord(text[-1]) - ord("a")] for text in texts], np.float32)


def vectors_of(histories: list[list[tuple[int, int]]], texts: pd.DataFrame | None = None) -> TextVectors:
    """Vectors of users with histories of (item, rating)."""
    past = [pd.DataFrame(rows, columns=["item", "rating"]) for rows in histories]
    facts = [Facts((), (), (), (), items=tuple(item for item, _ in rows[:2])) for rows in histories]
    data = SimpleNamespace(cohort=SimpleNamespace(history=past))
    knowledge = SimpleNamespace(
        config=SimpleNamespace(data=DataConfig()),
        data=data,
        facts=facts,
        users=range(len(histories)),
        texts=lambda policy: texts,
        prefix_of=lambda policy: "x",
    )
    vectors = TextVectors(knowledge, LengthEncoder())
    vectors.__dict__["item_vectors"] = ITEMS
    return vectors


def test_a_history_mean_adds_what_is_liked_and_takes_away_what_is_disliked():
    vectors = vectors_of([[(0, 5), (1, 4), (2, 1), (3, 3)], [(0, 3), (2, 3)], [(1, 1)]])
    assert np.allclose(vectors.history_mean[0], [1 / 3, 1 / 3, -1 / 3, 0]), "three stars are between"
    assert np.allclose(vectors.history_mean[1], [0.5, 0, 0.5, 0]), "all between: a plain mean"
    assert np.allclose(vectors.history_mean[2], [0, -1, 0, 0])


def test_the_mean_of_items_shown_reads_those_of_the_prompt_alone():
    vectors = vectors_of([[(0, 5), (1, 4), (2, 1)], [(3, 2), (1, 5)]])
    assert np.allclose(vectors.shown_mean, [[0.5, 0.5, 0, 0], [0, 0.5, 0, 0.5]])


def texts_of(*rows: tuple[int, int, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user", "sample", "text"])


def test_a_texts_vector_stands_at_its_user_and_place():
    vectors = vectors_of([[(0, 5)], [(1, 5)]], texts_of((1, 1, "ab"), (0, 0, "c"), (1, 0, "abcd")))
    read = vectors.policy_vectors(POLICY)
    assert read[0, 0].tolist() == [2, 2] and read[1].tolist() == [[5, 3], [3, 1]], "with the prefix"
    assert np.isnan(read[0, 1]).all() and vectors.policy_vectors(POLICY, 1).shape == (2, 1, 2)


def test_arms_are_read_by_equally_many_texts_or_not_at_all():
    whole = texts_of(*((user, sample, "ab") for user in (0, 1) for sample in (0, 1, 2)))
    assert vectors_of([[(0, 5)], [(1, 5)]], whole).equal_vectors(POLICY, 2).shape == (2, 2, 2)
    for texts in (whole.iloc[:-2], whole[whole["sample"] == 0]):
        with pytest.raises(StudyError, match="p: not every user has 2 texts"):
            vectors_of([[(0, 5)], [(1, 5)]], texts).equal_vectors(POLICY, 2)


@pytest.mark.parametrize(("name", "mean"), [("one_text", [2, 3]), ("two_texts", [3, 2]), ("dpo_round_2", [4.5, 1])])
def test_an_arm_of_few_texts_reads_the_first_of_a_user(name, mean):
    texts = texts_of((0, 2, "abcdea"), (0, 0, "d"), (0, 1, "aab"), (0, 3, "aaaa"))  # (7, 0), (2, 3), (4, 1), (5, 0)
    llm, reranker = SimpleNamespace(evaluation_samples=4), SimpleNamespace(texts="mean")
    study = SimpleNamespace(vectors=vectors_of([[(0, 5)]], texts), config=SimpleNamespace(llm=llm, reranker=reranker))
    study.policy = lambda _: POLICY
    read = comparison.arm_knowledge(study, name).user_vectors
    assert read.tolist() == [[mean]]


def test_texts_are_cut_to_the_words_of_others_and_never_grow():
    texts = texts_of((0, 0, " Drama,  and old films."), (0, 1, "b"), (1, 0, "one two"), (1, 1, "x y"))
    lengths = texts_of((0, 0, "two words"), (0, 1, "c d e"), (1, 0, ""), (1, 1, "a b"))
    assert comparison.cut_texts(texts, lengths).tolist() == [" Drama,  and", "b", "", "x y"]
    with pytest.raises(ValueError, match="of the same users and samples"):
        comparison.cut_texts(texts, lengths.iloc[::-1].reset_index(drop=True))


def test_an_arm_of_cut_texts_reads_the_first_of_a_user_with_their_prefix():
    tables = {
        "dpo": texts_of((0, 0, "a bb c"), (0, 1, "d"), (0, 2, "never read")),
        "warm_start": texts_of((0, 0, "e f"), (0, 1, "g h i"), (0, 2, "j")),
    }
    knowledge = SimpleNamespace(texts=tables.get, prefix="x", users=range(1))
    config = SimpleNamespace(llm=SimpleNamespace(evaluation_samples=2), reranker=SimpleNamespace(texts="all"))
    study = SimpleNamespace(policy=str, knowledge=knowledge, encoder=LengthEncoder(), config=config)
    study.vectors = vectors_of([[(0, 5)]])
    read = comparison.arm_knowledge(study, "dpo_cut_to_warm_start").user_vectors
    assert read.tolist() == [[[5, 1], [2, 3]]], "of 'xa bb' and 'xd'"


def test_a_claim_is_the_mean_of_the_texts_after_less_before():
    before, after = np.full((2, 2, 1), 1.0), np.array([[[3.0], [np.nan]], [[0.0], [2.0]]])
    rewards = np.array([[1, 3, 4, np.nan], [1, 1, 2, np.nan], [0, 2, 5, 7]], float)

    def rescore(vectors):
        assert vectors.shape == (2, 4, 1) and np.array_equal(vectors[:, 2:], after, equal_nan=True)
        return {"log_likelihood": rewards}

    change = claimed_change(SimpleNamespace(rescore=rescore), before, after)
    assert np.allclose(change, [4 - 2, 2 - 1, 6 - 1])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_study(load_config("smoke"), tmp_path_factory.mktemp("study"))


def test_a_text_is_rewarded_by_models_that_saw_no_list_of_its_user(study):
    models = study.reward_models
    train, unseen = (study.data.cohort.of(split) for split in ("train", "validation"))
    fold = assigned_folds(train, study.config.reward.folds, study.seed)
    mixture = np.zeros((len(study.data.cohort.users), 1, 8), np.float32)
    trainings = models._trainings(mixture, fold, study.seed, None)
    assert len(trainings) == study.config.reward.folds * study.config.reward.seeds
    rewarded = []
    for training in trainings.values():
        fitted, scored = set(training.task.train.user), set(training.scored.user)
        assert fitted and fitted <= set(train) and not fitted & scored
        assert set(training.task.validation.user) <= set(unseen) <= scored
        rewarded += scored - set(unseen)
    with_lists = set(models.lists.user) & set(train)
    assert sorted(rewarded) == sorted([*with_lists] * study.config.reward.seeds), "every train user, once a seed"
    assert not set(models.lists.user) & set(study.data.cohort.of("test"))


@pytest.mark.parametrize(
    ("inputs", "templates", "history"),
    [
        (RewardInputs(), True, False),
        (RewardInputs(llm_only=True), False, False),
        (RewardInputs(residual=True), True, True),
        (RewardInputs(addition=True), True, False),
    ],
)
def test_a_reward_model_reads_what_its_inputs_say(study, monkeypatch, inputs, templates, history):
    """A text's vector is its number: 10, 11, ... and 20, 21, ... of two policies, -1, -2, ... of templates."""
    users, trained = len(study.data.cohort.users), {}

    def numbered(first, count, step=1):
        return np.tile(first + step * np.arange(count, dtype=float)[:, None], (users, 1, 2))

    def templates_of(count, full):
        assert not full, "randomised"
        return numbered(-1, count, -1)

    made = SimpleNamespace(
        policy_vectors=lambda policy: numbered(float(policy.name), 4),
        equal_vectors=lambda policy, count: numbered(float(policy.name), count),
        template_vectors=templates_of,
        history_mean=np.ones((users, 2)),
        knowledge=SimpleNamespace(
            config=study.config, seed=1, data=study.data, store=SimpleNamespace(make=lambda stage: stage)
        ),
    )

    def trainings(_, mixture, fold, seed, history_vector):
        trained.update(mixture=mixture[0, :, 0].tolist(), history_vector=history_vector)
        return {}

    monkeypatch.setattr(RewardModels, "_trainings", trainings)
    first, last = SimpleNamespace(name="10"), SimpleNamespace(name="20")
    stage = RewardModels(made, None).of(last, [first, last], inputs)
    few, written = study.config.llm.evaluation_samples, study.config.reward.templates * templates
    sources = [made.equal_vectors(first, few), made.equal_vectors(last, few), numbered(-1, written, -1)]
    read = [means_without(part) if inputs.addition else part for part in sources if part.shape[1]]
    assert trained["mixture"] == np.concatenate(read, axis=1)[0, :, 0].tolist()
    asked, name = made.policy_vectors(last), f"20{inputs.suffix}"
    text = fingerprint(means_without(asked) if inputs.addition else asked)
    assert (stage.name, stage.depends["text"]) == (name, text)
    assert (trained["history_vector"] is made.history_mean) == history


@pytest.mark.parametrize("split", ["test", "train"])
def test_later_ratings_of_test_users_are_in_no_training_and_nobodys_in_a_prompt(study, tmp_path, split):
    cohort, table = study.data.cohort, study.data.dataset.interactions.copy()
    item_ids = study.data.dataset.items.item_id.to_numpy()
    later = {(cohort.users[u], item_ids[item]) for u in cohort.of(split) for item in cohort.future[u].item}
    swapped = [met in later for met in zip(table.user_id, table.item_id, strict=True)]
    table.loc[swapped, "rating"] = 6 - table.loc[swapped, "rating"]  # what was liked is disliked
    other = made_study(load_config("smoke"), tmp_path)
    other.data.__dict__["dataset"] = replace(study.data.dataset, interactions=table)
    other.vectors.__dict__["item_vectors"] = study.vectors.item_vectors
    before, after = (one.data.lists_of("popularity", split) for one in (study, other))
    assert np.array_equal(before.items, after.items) and not np.array_equal(before.labels, after.labels)

    def trainings(one):
        train, mixture = one.data.cohort.of("train"), np.zeros((len(cohort.users), 1, 8), np.float32)
        fold = assigned_folds(train, one.config.reward.folds, one.seed)
        rewards = one.reward_models._trainings(mixture, fold, one.seed, None)
        own = [one.scorers.task(name, "popularity", mixture, 0) for name in one.config.evaluation.backbones]
        return [task.key for task in (*(training.task for training in rewards.values()), *own)]

    same = [a == b for a, b in zip(trainings(study), trainings(other), strict=True)]
    assert all(same) if split == "test" else not any(same), "a key holds all that a training reads, by content"
    assert study.knowledge.prompts() == other.knowledge.prompts()


def test_another_user_is_of_the_same_split_and_stands_for_one_alone(study):
    cohort, other = study.data.cohort, study.data.shuffled_users()
    assert sorted(other) == list(range(len(cohort.users))) and (other != np.arange(len(other))).all()
    for split in ("train", "validation", "test"):
        assert set(other[cohort.of(split)]) == set(cohort.of(split))
