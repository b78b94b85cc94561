"""What notebooks say they saw, against the records read another way."""

import re
from pathlib import Path

import pandas as pd
import pytest

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence.committed import read_records
from dpo4rec_utils.evidence.findings import FINDINGS, seen

ROOT = Path(__file__).parents[2]
PROFILES = [name for name in ("ml-100k", "games") if (ROOT / "results" / name / "manifest.json").exists()]


def ndcg_at_7(profile: str, arm: str) -> pd.Series:
    """NDCG@7 by test user: own scorers, mean over seeds, then over the backbones that do not read the history."""
    values = pd.read_parquet(ROOT / f"results/{profile}/records/own-popularity-{arm}.parquet")
    rows = values[
        (values.metric == "ndcg@7") & (values.split == "test") & values.backbone.isin(["dlcm", "prm", "setrank"])
    ]
    return rows.groupby(["user", "backbone"]).value.mean().groupby("user").mean()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_main_results_are_those_of_the_parquet_files(profile):
    records = read_records(ROOT / "results" / profile)
    line = seen("05", [records])
    last = ndcg_at_7(profile, records.last)
    for baseline in ("zero_shot", "random_labels", records.start):
        assert f"{(last - ndcg_at_7(profile, baseline)).mean():+.3f} (" in line, baseline
    assert f"history mean {ndcg_at_7(profile, 'history_mean').mean():.3f}" in line
    assert f"**{label(records.last)}** {last.mean():.3f}" in line


@pytest.mark.parametrize("notebook", FINDINGS)
def test_three_sentences_a_data_set_each_with_a_number(notebook):
    assert PROFILES, "no record would be read"
    profiles = [read_records(ROOT / "results" / name) for name in PROFILES]
    lines = seen(notebook, profiles).splitlines()
    assert len(lines) == len(PROFILES)
    for line in lines:
        sentences = re.split(r"(?<=\.) (?=[A-Z0-9])", line.split("** ", 1)[1])
        assert len(sentences) == 3 and all(re.search(r"\d", sentence) for sentence in sentences), line
        assert "nan" not in line
