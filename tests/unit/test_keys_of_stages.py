"""A change of policy, prompt, decoding, data, text, list or setting is another key of the stages that read it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils.alignment.adapters import Aligner, Recipe
from dpo4rec_utils.config import TRAINING_SETTINGS, AlignmentConfig
from dpo4rec_utils.data.data import Data, cohort_stage, sanity_stage, user_facts_stage
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.engines import Request, texts_stage
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.rerankers.scorers import ArmKnowledge, Scorers
from dpo4rec_utils.settings import load_config
from tests.conftest import made_study

# Weights are named: "auto" is bfloat16 on a CPU that multiplies in it faster, and two settings would be one.
CONFIG = load_config(
    "smoke",
    {"data": {"max_users": None}, "evaluation": {"backbones": ["prm"]}, "device": {"sampling": "float32"}},
)
REQUESTS = [Request("0", "prompt", 2, 7), Request("1", "other", 1, 8)]


def policy(folder, weights: bytes, settings: bytes = b"{}") -> Policy:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_bytes(settings)
    return Policy("dpo_round_1", "embedded", (folder,))


def test_texts_by_policy_prompt_sample_seed_and_decoding(tmp_path):
    one = policy(tmp_path / "a", b"one")
    key = texts_stage("t", one, REQUESTS, CONFIG).key
    assert key == texts_stage("t", policy(tmp_path / "b", b"one"), REQUESTS, CONFIG).key, "by content, not by place"
    two_bytes = CONFIG.changed(
        llm=CONFIG.llm.changed(engine="transformers"), device=CONFIG.device.changed(sampling="bfloat16")
    )
    others = [
        texts_stage("t", policy(tmp_path / "c", b"two"), REQUESTS, CONFIG),
        texts_stage("t", policy(tmp_path / "d", b"one", b'{"lora_alpha": 9}'), REQUESTS, CONFIG),
        texts_stage("t", Policy("dpo_round_1", "embedded"), REQUESTS, CONFIG),
        *(texts_stage("t", one, [REQUESTS[0]._replace(**change), REQUESTS[1]], CONFIG) for change in CHANGES),
        texts_stage("t", one, REQUESTS[::-1], CONFIG),
        *(texts_stage("t", one, REQUESTS, CONFIG.changed(llm=CONFIG.llm.changed(**change))) for change in DECODINGS),
        texts_stage("t", one, REQUESTS, two_bytes),
    ]
    assert len({key, *(stage.key for stage in others)}) == 1 + len(others)


CHANGES = ({"id": "9"}, {"prompt": "prompt "}, {"samples": 3}, {"seed": 9})
DECODINGS = (
    {"temperature": 0.8},
    {"top_p": 0.9},
    {"max_new_tokens": 41},
    {"engine": "transformers"},
    {"shard_users": 9},
)


@pytest.fixture
def data(dataset):
    made = Data(CONFIG)
    made.dataset = dataset
    return made


def changed_tables(dataset):
    """One rating, one title and one genre other than they were."""
    rows, items = dataset.interactions.copy(), dataset.items.copy()
    rows.loc[3, "rating"] = 6 - rows.loc[3, "rating"] if rows.loc[3, "rating"] != 3 else 4.0
    yield replace(dataset, interactions=rows)
    for column, value in (("title", "Another film"), ("genres", ("War",))):
        other = items.copy()
        other.at[2, column] = value
        yield replace(dataset, items=other)


@pytest.mark.parametrize("stage", [cohort_stage, sanity_stage, user_facts_stage])
def test_data_stages_by_content_settings_and_seed(data, dataset, stage):
    others = []
    for tables in changed_tables(dataset):
        others.append(Data(CONFIG))
        others[-1].dataset = tables
    for config in (CONFIG.changed(seed=7), CONFIG.changed(data=CONFIG.data.changed(history_limit=9))):
        others.append(Data(config))
        others[-1].dataset = dataset
    assert len({stage(one).key for one in (data, *others)}) == 1 + len(others)


def test_scorers_by_text_item_text_lists_and_settings(data):
    rng = np.random.default_rng(0)
    text = rng.normal(size=(len(data.cohort.users), 2, 8)).astype(np.float32)
    items = rng.normal(size=(len(data.dataset.items), 8)).astype(np.float32)
    other = text.copy()
    other[data.cohort.of("test")[0], 0, 0] += 1e-6
    scorers, knowledge = Scorers(data, items, CONFIG), ArmKnowledge("template", text, items)
    key = scorers.own_stage("popularity", knowledge).key
    keys = [
        scorers.own_stage("popularity", replace(knowledge, user_vectors=other)).key,
        scorers.own_stage("popularity", replace(knowledge, item_vectors=items * 2)).key,
        scorers.own_stage("uniform", knowledge).key,
        scorers.own_stage("popularity", knowledge, "mlp", adapter="mlp").key,
        scorers.own_stage("popularity", knowledge, "mir", backbones=("mir",)).key,
        Scorers(data, items, CONFIG.changed(seed=3)).own_stage("popularity", knowledge).key,
        scorers.shared_stage("popularity", [knowledge], ["template"]).key,
        scorers.shared_stage("popularity", [replace(knowledge, user_vectors=other)], ["template"]).key,
    ]
    assert len({key, *keys}) == 1 + len(keys)
    assert (
        key
        == Scorers(data, items.copy(), CONFIG).own_stage("popularity", replace(knowledge, user_vectors=text.copy())).key
    )


def policy_key(method="dpo", device=None, **change) -> str:
    made, config = [], CONFIG.changed(alignment=CONFIG.alignment.changed(**change))
    store = SimpleNamespace(make=lambda stage: made.append(stage) or Path("made"))
    aligner = Aligner(store, config.changed(device=config.device.changed(**(device or {}))))
    aligner.train(Policy("warm_start", "embedded"), pd.DataFrame({"prompt": ["p"]}), Recipe("x", method))
    return made[0].key


TRAININGS = {
    **{"loss": "ipo", "beta": 0.3, "chosen_weight": 0.7, "label_smoothing": 0.1, "length_margin": 0.1},
    **{"learning_rate": 1e-5, "implementation": "stock", "batch_size": 4, "epochs": 7.0, "lora_rank": 6},
    **{"lora_layers": "all", "pairs": 3},
}


@pytest.mark.parametrize(("method", "setting"), [(m, s) for m, names in TRAINING_SETTINGS.items() for s in names])
def test_a_policy_by_every_setting_that_its_training_reads(method, setting):
    value = TRAININGS[setting]
    assert getattr(CONFIG.alignment, setting) != value, "the change would be none"
    assert policy_key(method) != policy_key(method, **{setting: value})


def test_every_setting_of_an_alignment_is_in_a_key_or_in_what_it_reads():
    """A new one has to be put into a key, or be named here as one that changes texts, pairs or rounds alone."""
    elsewhere = {"rounds", "warm_start", "warm_start_examples", "warm_start_learning_rate", "warm_start_texts"}
    elsewhere |= {"heldout_users", "pair_users", "pairs_per_user", "unfinished", "repetitive"}
    elsewhere |= {"checkpoint_steps", "precision"}  # the arithmetic that it comes to is in the key
    read = {name for names in TRAINING_SETTINGS.values() for name in names}
    assert set(AlignmentConfig.model_fields) - read - elsewhere == set()


def test_a_policy_by_the_weights_and_the_prompts_of_a_pass_where_they_are_part_of_its_loss():
    assert len({policy_key(), policy_key(device={"training": "bfloat16"}), policy_key(precision="bf16")}) == 3
    one, two = ({"micro_prompts": number} for number in (1, 2))
    assert policy_key(device=one, chosen_weight=0.05) != policy_key(device=two, chosen_weight=0.05)
    assert policy_key(device=one, chosen_weight=0.0) == policy_key(device=two, chosen_weight=0.0)


class Interrupted:
    """Knowledge whose texts can be asked for once more after they failed once."""

    def __init__(self):
        self.asked = 0

    def texts(self, policy):
        self.asked += 1
        if self.asked == 1:
            raise KeyboardInterrupt
        raise StudyError("the second time it gets further")


def test_a_round_that_was_interrupted_can_be_asked_for_again(tmp_path):
    study = made_study(CONFIG.changed(alignment=CONFIG.alignment.changed(warm_start=False)), tmp_path)
    study.knowledge = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        study.round(1)
    with pytest.raises(StudyError, match="second time"):
        study.round(1)
