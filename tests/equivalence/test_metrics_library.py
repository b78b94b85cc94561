"""Our metrics against torchmetrics, an independent implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_normalized_dcg

from dpo4rec_utils import metrics


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(metrics.CUTOFFS))
def test_equal_to_torchmetrics(seed, k):
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((4, 10)), (rng.random((4, 10)) < rng.random()).astype(float)
    ranked = metrics.ranked_labels(scores, labels)
    for i in range(4):
        one, truth = torch.tensor(scores[i]), torch.tensor(labels[i]).long()
        # torchmetrics 1.9 takes positive scores, discounts as we do and divides AP@k by the hits within k, which is
        # KAR's definition.
        assert metrics.ndcg(ranked, k)[i] == pytest.approx(
            float(retrieval_normalized_dcg(one, truth, top_k=k)), abs=1e-6
        )
        kar = float(retrieval_average_precision(one, truth, top_k=k))
        assert metrics.average_precision_kar(ranked, k)[i] == pytest.approx(kar, abs=1e-6)
        hits, positives = ranked[i, :k].sum(), min(k, labels[i].sum())
        ours = kar * hits / positives if positives else 0.0
        assert metrics.average_precision(ranked, k)[i] == pytest.approx(ours, abs=1e-6)
