"""Properties of histories, splits and candidate lists (hypothesis), and the assertions inside the pipeline."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo4rec_utils.data import cohort as users
from dpo4rec_utils.data import lists
from dpo4rec_utils.data.lists import Draw
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator
from tests.conftest import made_dataset

CONFIG = DataConfig()


@pytest.mark.parametrize(
    ("interactions", "limit", "length"),
    [
        (1, 30, 1),
        (2, 30, 1),
        (7, 30, 4),
        (58, 30, 29),
        (59, 30, 30),
        (60, 30, 30),
        (61, 30, 30),
        (400, 30, 30),
        (9, 3, 3),
    ],
)
def test_a_history_is_the_first_half_and_no_longer_than_the_limit(interactions, limit, length):
    assert users.history_length(interactions, limit) == length


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from(["uniform", "popularity"]), st.integers(1, 6))
def test_protocol_holds_for_any_seed(seed, protocol, size):
    config = CONFIG.changed(positives_per_list=size, max_lists=3)
    dataset = made_dataset(seed=seed % 7)
    cohort = users.build_cohort(dataset, config, seed)
    made = lists.build_lists(dataset, cohort, config, Draw(protocol, seed))
    rated = {u: set(rows.item_id) for u, rows in dataset.interactions.groupby("user_id")}
    ids = dataset.items.item_id.to_numpy()
    for user, items, labels, observed in zip(made.user, made.items, made.labels, made.observed, strict=True):
        assert len(set(items)) == size + CONFIG.negatives_per_list
        assert observed.sum() == size
        assert not set(ids[items[~observed]]) & rated[cohort.users[user]]
        ratings = cohort.future[user].set_index("item").rating
        for item, label, seen in zip(items, labels, observed, strict=True):
            assert label == float(seen and ratings[item] >= config.like_threshold)
    assert np.bincount(made.user).max() <= 3
    # Re-rankers read positions and ties keep them: later items stand at each place as often as at another.
    expected = len(made.items) * size / made.items.shape[1]
    assert (np.abs(made.observed.sum(axis=0) - expected) < 5 * np.sqrt(expected)).all()
    later = lists.build_lists(dataset, cohort, config, Draw(protocol, seed, later=True))
    for user in np.unique(later.user):
        first, second = (set(some.items[some.user == user][some.observed[some.user == user]]) for some in (made, later))
        in_time = cohort.future[user].item.tolist()
        assert first == set(in_time[: 3 * size]) and second == set(in_time[3 * size :][: len(second)])
    for past, later in zip(cohort.history, cohort.future, strict=True):
        assert past.timestamp.max() <= later.timestamp.min()


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_splits_are_disjoint_and_complete(seed):
    cohort = users.build_cohort(made_dataset(), CONFIG, seed)
    parts = [set(cohort.of(split)) for split in users.SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(cohort.users)
    assert abs(len(parts[0]) - 0.6 * len(cohort.users)) <= 1 and len(parts[1]) >= 1


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), st.integers(20, 2000))
def test_no_user_is_test_in_two_folds_and_validation_stays(seed, count):
    others = count - max(1, round(count * CONFIG.validation_share))
    if 3 * (others - round(count * CONFIG.train_share)) > others:  # by rounding
        with pytest.raises(StudyError, match="data.fold = 2: 3 folds of"):
            users._split(count, CONFIG.changed(fold=2), seed)
        return
    splits = [users._split(count, CONFIG.changed(fold=fold), seed) for fold in range(3)]
    times = sum((split == "test").astype(int) for split in splits)
    validation = splits[0] == "validation"
    assert all(((split == "validation") == validation).all() for split in splits)
    assert times[validation].max() == 0 and times[~validation].max() == 1
    assert count - times.sum() - validation.sum() <= 3, "nearly everyone is a test user once"
    order, train = generator(seed, "split").permutation(count), round(count * CONFIG.train_share)
    assert set(np.flatnonzero(splits[0] == "train")) == set(order[:train])


def test_a_user_keeps_its_lists_when_others_leave(dataset):
    few = made_dataset()
    kept = few.interactions[few.interactions.user_id != "u3"].reset_index(drop=True)
    for whole, part in ((dataset, replace(few, interactions=kept)),):
        a, b = (users.build_cohort(d, CONFIG, 1) for d in (whole, part))
        la, lb = (lists.build_lists(d, c, CONFIG, Draw("uniform", 1)) for d, c in ((whole, a), (part, b)))
        ua, ub = np.flatnonzero(a.users == "u5")[0], np.flatnonzero(b.users == "u5")[0]
        assert la.items[la.user == ua].tolist() == lb.items[lb.user == ub].tolist()


def test_ties_in_time_keep_file_order():
    rows = [("u", f"i{i}", 4.0, 100) for i in range(12)]
    one = made_dataset()
    table = pd.concat([one.interactions, pd.DataFrame(rows, columns=one.interactions.columns)], ignore_index=True)
    cohort = users.build_cohort(replace(one, interactions=table), CONFIG, 0)
    index = np.flatnonzero(cohort.users == "u")[0]
    assert cohort.history[index].item.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.history.__setitem__(0, c.history[0].iloc[:0]), "empty history"),
        (lambda c: c.history.__setitem__(0, c.future[0].assign(timestamp=10**9)), "later than the lists"),
        (lambda c: c.users.__setitem__(1, c.users[0]), "twice"),
    ],
)
def test_a_broken_cohort_is_refused(dataset, spoil, words):
    cohort = users.build_cohort(dataset, CONFIG, 0)
    spoil(cohort)
    with pytest.raises(StudyError, match=words):
        users.check_cohort(cohort)


def test_broken_lists_are_refused(dataset):
    cohort = users.build_cohort(dataset, CONFIG, 0)
    made = lists.build_lists(dataset, cohort, CONFIG, Draw("uniform", 0))
    twice = made.items.copy()
    twice[0, 0] = twice[0, 1]
    with pytest.raises(StudyError, match="twice"):
        lists.check_lists(replace(made, items=twice), cohort)
    with pytest.raises(StudyError, match="label 1"):
        lists.check_lists(replace(made, labels=np.ones_like(made.labels)), cohort)
    past = made.items.copy()
    past[0, 0] = cohort.history[made.user[0]].item.iloc[0]
    with pytest.raises(StudyError, match="history item"):
        lists.check_lists(replace(made, items=past), cohort)


def test_too_few_users_is_one_sentence():
    with pytest.raises(StudyError, match="only 9 users are long enough for a list; ten"):
        users.build_cohort(made_dataset(users=9), CONFIG, 0)
    with pytest.raises(StudyError, match="only 9 users are long enough for a list and not skipped; ten"):
        users.build_cohort(made_dataset(users=12), CONFIG.changed(skip_users=3), 0)
    assert len(users.build_cohort(made_dataset(users=10), CONFIG, 0).users) == 10


def test_rejection_has_the_distribution_of_drawing_from_what_is_allowed():
    weight, own, count = np.array([5.0, 0, 1, 3, 1, 8, 2]), {5}, 3
    sampler, rng = lists.NegativeSampler(weight), np.random.default_rng(0)
    allowed = weight.copy()
    allowed[list(own)] = 0
    ours, theirs = Counter(), Counter()
    for _ in range(6000):
        ours[tuple(sampler.draw(count, own, rng))] += 1
        theirs[tuple(rng.choice(len(weight), count, replace=False, p=allowed / allowed.sum()))] += 1
    assert set(ours) == set(theirs)
    for drawn, times in theirs.items():
        assert abs(ours[drawn] - times) < 5 * np.sqrt(2 * times + 1), (drawn, ours[drawn], times)


def test_negatives_are_popular_or_any_that_was_ever_met():
    """Sixty fans met the first ten of 60 items alone; nobody met the last."""
    dataset = made_dataset(users=40)
    rows = dataset.interactions[dataset.interactions.item_id != "i59"]
    fans = [(f"fan{n}", f"i{item}", 4.0, item) for n in range(60) for item in range(10)]
    table = pd.concat([rows, pd.DataFrame(fans, columns=rows.columns)], ignore_index=True)
    dataset = replace(dataset, interactions=table)
    cohort = users.build_cohort(dataset, CONFIG, 0)
    others, drawn = np.flatnonzero([not user.startswith("fan") for user in cohort.users]), {}
    for protocol in ("popularity", "uniform"):
        made = lists.build_lists(dataset, cohort, CONFIG, Draw(protocol, 0)).of_users(others)
        drawn[protocol] = made.items[~made.observed]
    assert (drawn["popularity"] < 10).mean() > 2 * (drawn["uniform"] < 10).mean()
    assert 59 not in drawn["popularity"] and 59 not in drawn["uniform"]
    assert set(drawn["uniform"]) == set(range(59)), "every item that anybody met is drawn"


def test_what_rejection_cannot_find_is_drawn_directly():
    """Nineteen items with nearly all the mass are the user's own; the others are drawn as if these were not there."""
    weight = np.array([1e9] * 19 + [1.0, 2.0, 3.0, 4.0])
    sampler, rng = lists.NegativeSampler(weight), np.random.default_rng(0)
    drawn = [sampler.draw(1, set(range(19)), rng)[0] for _ in range(2000)]
    share = np.bincount(drawn, minlength=23)[19:] / 2000
    assert np.abs(share - [0.1, 0.2, 0.3, 0.4]).max() < 0.04
    assert sorted(sampler.draw(4, set(range(19)), rng)) == [19, 20, 21, 22]


def test_a_user_who_knows_nearly_everything_is_one_sentence():
    sampler = lists.NegativeSampler(np.ones(5))
    assert sampler.draw(3, {0, 1, 2}, np.random.default_rng(0)) is None
    assert set(sampler.draw(2, {0, 1, 2}, np.random.default_rng(0))) == {3, 4}


def test_skipped_users_are_those_that_the_first_group_kept():
    dataset = made_dataset(users=60)
    short = (
        dataset.interactions.groupby("user_id").head(5).query("user_id in ('u1', 'u2', 'u3')")
    )  # too short for a list
    rows = dataset.interactions[~dataset.interactions.user_id.isin({"u1", "u2", "u3"})]
    table = replace(dataset, interactions=pd.concat([rows, short], ignore_index=True))
    groups = [users.build_cohort(table, CONFIG.changed(**change), 0).users.tolist() for change in GROUPS]
    every, first, rest = groups
    assert len(every) == 57 and first == every[:20] and rest == every[20:]


GROUPS = ({}, {"max_users": 20}, {"skip_users": 20})


def test_implicit_feedback_labels_every_later_interaction(dataset):
    config = CONFIG.changed(feedback="implicit")
    cohort = users.build_cohort(dataset, config, 0)
    made = lists.build_lists(dataset, cohort, config, Draw("uniform", 0))
    assert (made.labels == made.observed).all()
