"""The real archives, where `DPO4REC_ASSETS` names a folder that holds them."""

import os
from pathlib import Path

import pytest

from dpo4rec_utils.data import movielens
from dpo4rec_utils.data.cohort import build_cohort
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.data.lists import Draw, build_lists
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.settings import load_config

FOLDER = Path(os.environ.get("DPO4REC_ASSETS", "."))
pytestmark = pytest.mark.data


def test_ml_100k_is_whole():
    data = movielens.load_ml_100k()
    assert (len(data.interactions), data.interactions.user_id.nunique(), len(data.items)) == (100_000, 943, 1682)
    assert data.items.year.isna().sum() == 1 and data.interactions.rating.between(1, 5).all()


@pytest.mark.skipif(not (FOLDER / "ml-1m.zip").exists(), reason="DPO4REC_ASSETS holds no ml-1m.zip")
def test_ml_1m_in_the_official_layout():
    data = movielens.load_ml_1m(FOLDER / "ml-1m.zip")
    assert data.interactions.user_id.nunique() == 6040 and len(data.items) == 3883
    assert len(data.interactions) > 999_000 and (
        len(data.interactions) == 1_000_209 or "reconstructed" in data.notes[0]
    )
    config = DataConfig(name="ml-1m", max_users=200)
    cohort = build_cohort(data, config, 1)
    assert len(build_lists(data, cohort, config, Draw("popularity", 1))) > 1000


@pytest.mark.parametrize(
    ("profile", "archive", "order", "users"),
    [
        ("games", "amazon-video-games-implicit.zip", "position", 4987),
        ("book-crossing", "BX-CSV-Dump-subset.zip", "arbitrary", 2391),
    ],
)
def test_archives_go_the_way_of_your_tables(profile, archive, order, users):
    if not (FOLDER / archive).exists():
        pytest.skip(f"DPO4REC_ASSETS holds no {archive}")
    data = Data(load_config(profile, {"data": {"archive": archive}}))
    tables = data.dataset
    assert tables.order == order and tables.interactions.user_id.nunique() == users
    assert set(tables.dropped) <= {"outside the core"}
    lists = data.lists("popularity")
    assert len(data.cohort.users) == 943 and len(lists) > 2000 and 1 < lists.labels.sum(axis=1).mean() <= 4
    assert len(tables.notes) == (order == "arbitrary")
