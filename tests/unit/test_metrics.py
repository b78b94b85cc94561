"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from dpo4rec_utils import metrics

LABELS = np.array([[1.0, 0, 1, 0]])  # in rank order


def test_ndcg_by_hand():
    # DCG@3 = 1/log2(2) + 1/log2(4) = 1.5; ideal = 1 + 1/log2(3) = 1.63093
    assert metrics.ndcg(LABELS, 3) == pytest.approx([1.5 / 1.6309297535714573])


def test_ndcg_at_one_uses_the_ideal_at_one():
    assert metrics.ndcg(LABELS, 1) == pytest.approx([1.0])
    assert metrics.ndcg(LABELS[:, ::-1], 1) == pytest.approx([0.0])


def test_average_precision_by_hand():
    # hits at ranks 1 and 3: (1 + 2/3) / 2
    assert metrics.average_precision(LABELS, 4) == pytest.approx([(1 + 2 / 3) / 2])
    # k = 2 holds one hit, normalised by min(2, 2 positives)
    assert metrics.average_precision(LABELS, 2) == pytest.approx([1 / 2])
    # KAR divides by the one hit within k
    assert metrics.average_precision_kar(LABELS, 2) == pytest.approx([1.0])


@pytest.mark.parametrize("metric", metrics.METRICS.values())
def test_a_list_without_positive_is_zero(metric):
    assert metric(np.zeros((1, 5)), 3) == [0.0]


def test_log_likelihood_by_hand():
    # sigmoid(0) = 1/2 for both candidates: log(1/2)
    assert metrics.log_likelihood(np.zeros((1, 2)), np.array([[1.0, 0]])) == pytest.approx([np.log(0.5)])
    # log sigmoid(2) for the liked one, log(1 - sigmoid(-1)) for the other: the better the scores, the less is lost
    expected = -(np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    assert metrics.log_likelihood(np.array([[2.0, -1.0]]), np.array([[1.0, 0]])) == pytest.approx([expected])
    # an extreme wrong score costs itself, not infinity
    assert metrics.log_likelihood(np.array([[1000.0]]), np.array([[0.0]])) == pytest.approx([-1000.0])


def test_ties_keep_the_list_order_and_nan_is_refused():
    labels = np.array([[0.0, 1, 0]])
    assert metrics.ranked_labels(np.zeros((1, 3)), labels).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="NaN"):
        metrics.ranked_labels(np.array([[np.nan, 0, 0]]), labels)


def test_user_means_by_hand():
    means = metrics.user_means(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9]), np.array([7, 8, 9]))
    assert means[0] == 2 and np.isnan(means[1]) and means[2] == 5
    columns = metrics.user_means(np.array([[1.0, 2], [3, 6], [5, 5]]), np.array([7, 7, 9]), np.array([9, 7]))
    assert columns.tolist() == [[5, 5], [2, 4]]


def test_a_tie_is_half_right():
    assert metrics.rightly_ordered([0.3, 0, -0.1]).tolist() == [1, 0.5, 0]
