"""A toy of each kind, added from outside the package with one entry, is read, run, named and part of the key."""

from dataclasses import replace

import numpy as np
import pytest

from dpo4rec_utils.config import RewardConfig
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.evidence.words import backbone_label
from dpo4rec_utils.keys import code_key
from dpo4rec_utils.knowledge.engines import Request, texts_stage
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.registries import (
    BACKBONES,
    DATASETS,
    ENGINES,
    ESTIMATES,
    Backbone,
    Engine,
    Entry,
    Estimate,
    Registry,
)
from dpo4rec_utils.rerankers import training
from dpo4rec_utils.rewards.estimates import TextFeatures, estimated_rewards
from dpo4rec_utils.settings import ConfigError, load_config
from dpo4rec_utils.store import Store
from tests.equivalence.test_rerankers import keep_trace, made_task


@pytest.fixture
def added(request):
    """Adds an entry for one test."""
    registry, entry = request.param
    registry.add(entry)
    yield entry
    registry.remove(entry.name)


def adding(registry: Registry, entry: Entry):
    return pytest.mark.parametrize("added", [(registry, entry)], indirect=True)


@adding(BACKBONES, Backbone("toy_mean", "mean of features", "tests.toys:MeanRanker"))
def test_a_backbone(added, tmp_path):
    config = load_config("smoke", {"evaluation": {"backbones": ["toy_mean", "mir"]}})
    assert config.evaluation.backbones == ("toy_mean", "mir") and backbone_label("toy_mean") == "mean of features"
    task = replace(made_task(), backbone=BACKBONES["toy_mean"])
    assert task.key != made_task().key
    tasks = {f"seed{seed}": replace(task, seed=seed) for seed in range(2)}
    done = training.train_all(tasks, tmp_path, 2, "toy", dict.fromkeys(tasks, keep_trace))
    assert all(np.isfinite(arrays["validation"]) for arrays in done.values()), "in workers that import it themselves"


@adding(ENGINES, Engine("toy_echo", "echo", "tests.toys:EchoEngine"))
def test_an_engine(added, tmp_path):
    config = load_config("smoke", {"llm": {"engine": "toy_echo"}})
    requests = [Request("0", "so much for words", 2, 7), Request("1", "a prompt", 1, 8)]
    stage = texts_stage("toy", Policy("zero_shot", "embedded"), requests, config)
    table = Store(tmp_path, {"profile": "toy", "seed": 1}).make(stage)
    assert table.text.tolist() == [" words 0", " words 1", " prompt 0"]
    assert stage.depends["engine"]["code"] == code_key("tests.toys")


@adding(ESTIMATES, Estimate("toy_short", "the shorter wins", "tests.toys:shorter_is_better"))
def test_an_estimate(added):
    config = load_config("smoke", {"reward": {"estimate": "toy_short", "equal_length": False}}).reward
    facts = np.zeros((2, 3, 6))
    facts[..., -1] = [[5, 3, 4], [9, 9, 1]]
    features = TextFeatures(facts, np.ones((2, 3, 4)), np.ones((2, 4)), np.array([0, 1]))
    assert (estimated_rewards(features, np.zeros((2, 3)), config) == [[-5, -3, -4], [-9, -9, -1]]).all()


@adding(DATASETS, Entry("toy-films", "toy films", "tests.toys:load_toy"))
def test_a_data_set(added):
    config = load_config("smoke", {"data": {"name": "toy-films", "max_users": None}})
    assert len(Data(config).dataset.items) == 60
    with pytest.raises(ConfigError, match="built-in data set"):
        load_config("smoke", {"data": {"name": "toy-films", "interactions": "a.csv"}})


def test_unknown_and_repeated_names_say_what_there_is():
    with pytest.raises(LookupError, match="no backbone 'prmm'; there are dlcm, prm, setrank, mir, dasalc"):
        BACKBONES["prmm"]
    with pytest.raises(ValueError, match="a backbone 'prm' already"):
        BACKBONES.add(Backbone("prm", "another", "tests.toys:MeanRanker"))
    for name in ("mean", "a/b", "two words"):
        with pytest.raises(ValueError, match=f"'{name}' names no backbone; use letters, digits and _"):
            Backbone(name, "another", "tests.toys:MeanRanker")
    with pytest.raises(ConfigError, match="reward.estimate = 'x' is out of range; allowed: one of amortised, realised"):
        load_config("smoke", {"reward": {"estimate": "x"}})
    assert RewardConfig().estimate in ESTIMATES and "prmm" not in BACKBONES


@pytest.mark.parametrize("registry", [BACKBONES, ESTIMATES, DATASETS, ENGINES], ids=lambda registry: registry.kind)
def test_every_entry_has_its_code(registry):
    assert all(callable(entry.load()) and entry.label for entry in registry.values())
