"""A typo, a wrong type or a value out of range is an error that names the key, the value and what is allowed."""

import dataclasses

import pytest

from dpo4rec_utils import cli
from dpo4rec_utils.config import ABLATIONS, ConfigError, derive_seed, load_config, load_notebook_config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"llm": {"temprature": 0.9}}, ("llm.temprature", "0.9", "temperature")),
        ({"llm": {"temperature": "hot"}}, ("llm.temperature", "'hot'", "0.05 to 2.0")),
        ({"llm": {"temperature": 9.0}}, ("llm.temperature", "9.0", "0.05 to 2.0")),
        ({"llm": {"engine": "vllm"}}, ("llm.engine", "'vllm'", "openvino, transformers")),
        ({"alignment": {"warm_start": 1}}, ("alignment.warm_start", "1", "bool")),
        ({"alignment": {"rounds": True}}, ("alignment.rounds", "True", "int")),
        ({"evaluation": {"arms": ["item", "itme"]}}, ("evaluation.arms", "itme", "title_mean")),
        ({"evaluation": {"backbones": "prm"}}, ("evaluation.backbones", "'prm'", "dlcm")),
        ({"sed": 1}, ("sed", "1", "seed")),
        ({"data": 5}, ("data", "5", "history_limit")),
        ({"data": {"train_share": 0.9, "validation_share": 0.2}}, ("train_share", "validation_share", "below 1")),
        ({"llm": {"train_samples": 2, "evaluation_samples": 4}}, ("llm.train_samples", "llm.evaluation_samples")),
        ({"evaluation": {"arms": ["none", "item"]}}, ("evaluation.arms", "zero_shot", "random_pairs")),
        ({"data": {"fold": 3}}, ("data.fold", "3", "0 to 2")),
        ({"evaluation": {"folds": 4}}, ("evaluation.folds", "4", "up to 3")),
        ({"evaluation": {"folds": 2}, "data": {"fold": 1}}, ("evaluation.folds", "2", "data.fold = 0")),
        ({"data": {"train_share": float("nan")}}, ("data.train_share", "nan", "0.1 to 0.9")),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(overrides, words):
    with pytest.raises(ConfigError) as error:
        load_config("smoke", overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_profile_lists_the_profiles():
    with pytest.raises(ConfigError, match="ml-100k, ml-100k-folds, ml-100k-losses, ml-100k-thorough, smoke"):
        load_config("ml100k")


def test_malformed_yaml_is_one_sentence(tmp_path):
    (tmp_path / "mine.yaml").write_text("llm: [unclosed")
    with pytest.raises(ConfigError, match="mine.yaml is not valid YAML") as error:
        load_config(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(error.value)


def test_overrides_keep_the_rest_of_the_profile_and_freeze():
    config = load_config("smoke", {"llm": {"temperature": 1}})
    assert config.llm.temperature == 1.0 and config.llm.train_samples == 4
    assert load_config("smoke", {"alignment": {"learning_rate": "1e-4"}}).alignment.learning_rate == 1e-4
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3


def test_a_misspelt_papermill_parameter_stops_the_notebook():
    with pytest.raises(ConfigError, match="PROFLIE = 'smoke'; allowed: PROFILE, OVERRIDES"):
        load_notebook_config({"PROFILE": "ml-100k", "OVERRIDES": {}, "PROFLIE": "smoke", "In": [], "_i": ""})


def test_command_line_parameters_are_checked_too(capsys):
    assert cli.main(["study", "--profile", "smoke", "-p", "alignment.betta", "0.2"]) == 2
    shown = capsys.readouterr().err
    assert "alignment.betta = 0.2" in shown and "beta" in shown and "Traceback" not in shown
    assert cli.overrides_of({"alignment.beta": "0.2", "seed": "3"}) == {"alignment": {"beta": 0.2}, "seed": 3}


def test_seeds_differ_by_name_and_repeat():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    assert len({derive_seed(1, "a", 2), derive_seed(1, "a", 3), derive_seed(2, "a", 2)}) == 3


def test_every_ablation_is_a_valid_configuration():
    for name, change in ABLATIONS.items():
        change = dict(change)
        reward, prompt = change.pop("reward", "ndcg"), change.pop("prompt", "titles")
        assert all(change.pop(flag, True) is True for flag in ("llm_only", "grpo"))
        assert change.pop("samples", 2) < load_config("ml-100k-thorough").llm.train_samples
        config = load_config("smoke", {"alignment": change, "reward": {"kind": reward}, "llm": {"prompt": prompt}})
        assert all(getattr(config.alignment, field) == value for field, value in change.items()), name
