"""Rewards, folds, reliability and statistics against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.evidence import statistics
from dpo4rec_utils.knowledge import vectors
from dpo4rec_utils.rewards import estimates, model, reliability, values


def made_lists(users):
    users = np.asarray(users)
    items = np.arange(len(users) * 2).reshape(-1, 2)
    return CandidateLists("uniform", users, items, np.tile([1.0, 0.0], (len(users), 1)), np.ones_like(items, bool))


def test_list_rewards_by_hand():
    scores = np.array([[[2.0, -2.0], [-2.0, 2.0], [np.nan, np.nan]]])
    labels = np.array([[1.0, 0.0]])
    likely = values.list_rewards(scores, labels, "log_likelihood")[0]
    assert likely[:2] == pytest.approx([-np.log1p(np.exp(-2)), -np.log1p(np.exp(2))]) and np.isnan(likely[2])
    assert values.list_rewards(scores, labels, "ndcg")[0, :2] == pytest.approx([1, 1 / np.log2(3)])
    assert values.list_rewards(scores, labels, "map")[0, :2] == pytest.approx([1, 0.5])


@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 99))
@settings(deadline=None)
def test_folds_are_balanced(users, folds, seed):
    fold = model.assigned_folds(np.arange(users), folds, seed)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.sum() == users and sizes.max() - sizes.min() <= 1


def test_merging_averages_the_models_that_scored_a_list():
    lists = made_lists([0, 0, 1])
    scored = {"a": lists.of_users([0]), "b": lists.of_users([0])}
    results = {"a": {"ndcg": np.array([[1.0], [0.0]])}, "b": {"ndcg": np.array([[0.0], [0.5]])}}
    merged = model.merge_scored(results, scored, lists, "ndcg")
    assert merged[:2].tolist() == [[0.5], [0.25]] and np.isnan(merged[2, 0])


def test_every_second_list_of_a_user():
    lists, rewards = made_lists([0, 1, 0, 0, 2]), np.array([[1.0, 5], [2, 2], [3, 5], [5, 8], [7, 7]])
    first, second = (values.half_rewards(rewards, lists, [0, 2], half) for half in (0, 1))
    assert first.tolist() == [[3, 6.5], [7, 7]] and second[0].tolist() == [3, 5]
    assert np.isnan(second[1]).all(), "one list has no other half"


def test_what_a_text_adds_is_asked_by_leaving_it_out():
    texts = np.array([[[1.0], [3], [8]], [[2], [4], [np.nan]], [[5], [np.nan], [np.nan]]])
    rest = vectors.means_without(texts)[..., 0]
    np.testing.assert_array_equal(rest, [[5.5, 4.5, 2], [4, 2, np.nan], [np.nan] * 3])
    added, alone = model.RewardInputs(addition=True), model.RewardInputs()
    np.testing.assert_array_equal(added.asked(texts)[..., 0], rest)
    assert added.sign == -1 and alone.sign == 1 and alone.asked(texts) is texts
    assert (
        model.RewardInputs(residual=True, llm_only=True).suffix == "-residual-llm-only" and added.suffix == "-addition"
    )


def test_a_users_texts_as_re_rankers_read_them():
    texts = np.array([[[1.0, 2], [3, 6]], [[5, 5], [7, 5]]])
    assert vectors.as_read(texts, "each") is texts
    assert vectors.as_read(texts, "mean").tolist() == [[[2, 4]], [[6, 5]]]


def test_split_half_of_a_perfect_and_of_a_noisy_reward():
    lists = made_lists(np.repeat(np.arange(200), 4))
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.normal(size=(200, 6)), 4, axis=0)
    perfect = reliability.split_half(truth, lists, np.arange(200))
    assert perfect["r"] == pytest.approx(1) and perfect["gain"] > 0.5 and perfect["users"] == 200
    noise = reliability.split_half(rng.normal(size=truth.shape), lists, np.arange(200))
    assert abs(noise["r"]) < 0.12 and abs(noise["gain"]) < 0.12


def test_split_half_by_hand():
    """Two users with two lists each. Deviations of the first: (1, -1) and (-2, 2), which disagree; of the second:
    (3, -3) and (1, -1). Best by one half gains on the other: -(2 + 1) / 2 and (1 + 3) / 2."""
    rewards = np.array([[2.0, 0], [1, 5], [7, 1], [4, 2]])
    halves = reliability.split_half(rewards, made_lists([0, 0, 1, 1]), [0, 1])
    assert halves["gain"] == pytest.approx((-1.5 + 2) / 2)
    assert halves["ci_half"] == pytest.approx(1.96 * np.std([-1.5, 2], ddof=1) / np.sqrt(2))
    assert halves["r"] == pytest.approx((-2 + 3) / 2 / np.sqrt(5 * 2.5))
    alone = reliability.split_half(rewards[:2], made_lists([0, 0]), [0])
    assert alone["users"] == 1 and np.isnan(alone["ci_half"])


def test_points_are_counted_y_by_x():
    drawn = reliability.density([-1, 0, 1], [1, 0, -0.9])
    assert drawn["edges"][0] < -0.9 and drawn["edges"][-1] > 0.9 and np.sum(drawn["counts"]) == 3
    assert [drawn["counts"][y][x] for y, x in ((40, 0), (20, 20), (2, 40))] == [1, 1, 1]


def test_an_interval_of_pairs_counts_users_not_pairs():
    right, users = np.array([1.0, 1, 1, 1, 0, 0, 0, 0]), np.repeat([0, 1], 4)
    mean, low, high = statistics.clustered_share(right, users)
    # Two users, deviations +2 and -2 of 8 pairs: the error is sqrt((4 + 4) * 2 / 1) / 8.
    assert (mean, low, high) == (0.5, 0.0, 1.0), "an interval of shares ends at 0 and 1: 1.96 * 4 / 8 is more"
    half = statistics.clustered_share(np.tile(right, 10), np.repeat(np.arange(20), 4))
    # Deviations of +2 and -2 of 80 pairs, 20 users.
    assert half[2] - half[1] == pytest.approx(2 * 1.96 * np.sqrt(20 * 4 * 20 / 19) / 80)
    apart = statistics.clustered_share(right, np.arange(8))
    assert apart[2] - apart[1] < high - low, "pairs of different users say more"
    assert np.isnan(statistics.clustered_share(np.array([]), np.array([]))).all()


def made_features(rng, users=60, samples=6, width=5):
    facts, vector = rng.normal(size=(users, samples, 6)), rng.normal(size=(users, samples, width))
    fold = model.assigned_folds(np.arange(users), 5, 0)
    fold[:10] = -1
    return estimates.TextFeatures(facts, vector, rng.normal(size=(users, width)), fold)


def test_an_amortised_reward_finds_what_texts_tell_and_no_noise():
    rng = np.random.default_rng(0)
    features = made_features(rng, users=200)
    signal = features.facts[..., 0] - 2 * features.facts[..., 2]
    estimate = estimates.cross_fitted(features.of("facts"), signal + rng.normal(size=signal.shape), features.fold)
    centred = signal - signal.mean(axis=1, keepdims=True)
    assert np.corrcoef(estimate.ravel(), centred.ravel())[0, 1] > 0.97
    noise = estimates.cross_fitted(features.of("fit"), rng.normal(size=signal.shape), features.fold)
    assert np.abs(noise).max() < 1
    rewards = signal + rng.normal(size=signal.shape)
    one, other = (estimates.cross_fitted(features.facts * unit, rewards, features.fold) for unit in (1, 1000))
    assert other == pytest.approx(one), "in whatever unit a fact is counted"


def test_no_user_is_guessed_from_own_rewards():
    """Rewards that are changed for one user change every guess but those of the user's own fold; of fold -1 none."""
    features, rewards = made_features(np.random.default_rng(1)), np.random.default_rng(2).normal(size=(60, 6))
    before = estimates.cross_fitted(features.of("facts"), rewards, features.fold)
    for user in (3, *(np.flatnonzero(features.fold == number)[0] for number in range(5))):
        changed = rewards.copy()
        changed[user] = 100 * np.arange(6)
        moved = (estimates.cross_fitted(features.of("facts"), changed, features.fold) != before).any(axis=1)
        expected = np.zeros(60, bool) if features.fold[user] == -1 else features.fold != features.fold[user]
        assert (moved == expected).all()


def test_at_equal_length_tokens_explain_nothing():
    rng = np.random.default_rng(0)
    tokens, known = rng.integers(5, 60, size=(50, 8)).astype(float), np.ones(50, bool)
    rewards = 0.01 * tokens + rng.normal(size=(50, 1)) + 0.001 * rng.normal(size=tokens.shape)
    left = estimates.at_equal_length(rewards, tokens, known)
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (tokens, left))
    assert abs((x * y).sum()) < 1e-9 and np.allclose(left + 0.01 * tokens, rewards, atol=1e-3)
    same = estimates.at_equal_length(rewards, np.full_like(tokens, 7.0), known)
    assert (same == rewards).all(), "texts of one length are left as they are"


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]).max() == 1


def test_paired_differences_agree_with_the_normal_theory():
    rng = np.random.default_rng(1)
    sample = rng.normal(0.2, 1, size=(400, 1))
    result = statistics.paired_differences(sample, 4000, rng)[0]
    error = sample.std() / 20
    assert result["difference"] == pytest.approx(sample.mean())
    assert result["ci_low"] == pytest.approx(sample.mean() - 1.96 * error, abs=0.15 * error)
    assert result["ci_high"] == pytest.approx(sample.mean() + 1.96 * error, abs=0.15 * error)


def test_noise_of_seeds_widens_the_interval():
    rng = np.random.default_rng(4)
    users, seeds = rng.normal(0.2, 1, size=(400, 1)), rng.normal(0.2, 0.1, size=(5, 1))
    result = statistics.paired_differences(users, 20000, rng, seeds)[0]
    error = np.sqrt(users.std() ** 2 / 400 + seeds.std(ddof=1) ** 2 / 5)
    assert (result["ci_high"] - result["ci_low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert result["difference"] == pytest.approx(users.mean())


def test_no_effect_is_significant_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(80, 400))
    share = np.mean([r["p"] < 0.05 for r in statistics.paired_differences(table, 1000, rng)])
    assert 0.02 < share < 0.09


def test_missing_values_and_single_users_are_refused():
    for bad in (np.array([[1.0], [np.nan]]), np.array([[1.0]])):
        with pytest.raises(ValueError, match="two users"):
            statistics.paired_differences(bad, 100, np.random.default_rng(0))


def test_detectable_difference_agrees_with_the_normal_theory():
    rng = np.random.default_rng(3)
    pilot = np.repeat(rng.normal(0.3, 1, size=(1, 500)), 40, axis=0)  # no noise of seeds; its mean must not count
    usual, strict = statistics.detectable_difference(pilot, 400, rng, (0.05, 0.001))
    assert usual == pytest.approx((1.96 + 0.84) / 20, rel=0.08)
    assert strict == pytest.approx((3.29 + 0.84) / 20, rel=0.08)
    seeds = pilot + np.linspace(-1, 1, 40)[:, None]  # and noise of forty seeds
    (noisy,) = statistics.detectable_difference(seeds, 400, rng)
    assert noisy == pytest.approx((1.96 + 0.84) * np.sqrt(1 / 400 + seeds.mean(axis=1).var() / 40), rel=0.08)


def test_t_of_mean_by_hand():
    assert statistics.t_of_mean(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / (1 / np.sqrt(3)))
    assert np.isnan(statistics.t_of_mean(np.array([1.0])))
