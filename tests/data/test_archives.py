"""The real archives, where `DPO4REC_ASSETS` names a folder that holds them."""

import os
from pathlib import Path

import pytest

from dpo4rec_utils.config import DataConfig
from dpo4rec_utils.data import movielens
from dpo4rec_utils.data.cohort import build_cohort
from dpo4rec_utils.data.lists import Draw, build_lists

FOLDER = Path(os.environ.get("DPO4REC_ASSETS", "."))
pytestmark = pytest.mark.data


def test_ml_100k_is_whole():
    data = movielens.load_ml_100k()
    assert (len(data.interactions), len(data.users), len(data.items)) == (100_000, 943, 1682)
    assert data.items.year.isna().sum() == 1 and data.interactions.rating.between(1, 5).all()


@pytest.mark.skipif(not (FOLDER / "ml-1m.zip").exists(), reason="DPO4REC_ASSETS holds no ml-1m.zip")
def test_ml_1m_in_the_official_layout():
    data = movielens.load_ml_1m(FOLDER / "ml-1m.zip")
    assert len(data.users) == 6040 and len(data.items) == 3883 and len(data.interactions) > 999_000
    config = DataConfig(name="ml-1m", max_users=200)
    cohort = build_cohort(data, config, 1)
    assert len(build_lists(data, cohort, config, Draw("popularity", 1))) > 1000
