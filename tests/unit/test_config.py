"""A typo, a wrong type or a value out of range is an error that names the key, the value and what is allowed."""

import pytest
import yaml
from pydantic import ValidationError

from dpo4rec_utils import cli
from dpo4rec_utils.registries import EMBEDDED
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.settings import PROFILES, ConfigError, load_config, notebook_parameters, read_yaml
from dpo4rec_utils.variants import VARIANTS


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"llm": {"temprature": 0.9}}, ("llm.temprature", "0.9", "temperature")),
        ({"llm": {"temperature": "hot"}}, ("llm.temperature", "'hot'", "0.05 to 2.0")),
        ({"llm": {"temperature": 9.0}}, ("llm.temperature", "9.0", "0.05 to 2.0")),
        ({"llm": {"engine": "vllm"}}, ("llm.engine", "'vllm'", "openvino, transformers")),
        ({"alignment": {"warm_start": 1}}, ("alignment.warm_start", "1", "bool")),
        ({"alignment": {"rounds": True}}, ("alignment.rounds", "True", "int")),
        ({"evaluation": {"arms": ["item", "itme"]}}, ("evaluation.arms", "itme", "history_mean")),
        ({"evaluation": {"backbones": "prm"}}, ("evaluation.backbones", "'prm'", "dlcm")),
        ({"sed": 1}, ("sed", "1", "seed")),
        ({"data": 5}, ("data", "5", "history_limit")),
        ({"data": {"train_share": 0.9, "validation_share": 0.2}}, ("train_share", "validation_share", "below 0.99")),
        ({"llm": {"train_samples": 2, "evaluation_samples": 4}}, ("llm.train_samples", "llm.evaluation_samples")),
        ({"evaluation": {"arms": ["none", "item"]}}, ("evaluation.arms", "zero_shot", "random_labels")),
        ({"data": {"fold": 3}}, ("data.fold", "3", "0 to 2")),
        ({"data": {"train_share": float("nan")}}, ("data.train_share", "nan", "0.1 to 0.9")),
        ({"data": {"train_share": 0.9, "validation_share": 0.1}}, ("train_share", "test share")),
        ({"evaluation": {"backbones": []}}, ("evaluation.backbones", "[]", "not empty", "dlcm")),
        ({"evaluation": {"backbones": ["prm", "prm"]}}, ("evaluation.backbones", "prm", "each once")),
        ({"reranker": {"hidden": 30, "heads": 4}}, ("reranker.hidden", "30", "reranker.heads", "4")),
        ({"llm": None}, ("llm", "None", "a mapping", "temperature")),
        ({"llm": {"server": {"concurrency": 3}}}, ("llm.server.url is missing", "http://")),
        ({"llm": {"server": {"url": "ftp://x"}}}, ("llm.server.url", "'ftp://x'", "begins with http:// or https://")),
        ({"llm": {"server": {"url": "http://x", "extra": 3}}}, ("llm.server.extra", "3", "field of a request")),
        ({"data": {"name": "A b"}}, ("data.name", "'A b'", "a name for tables of yours")),
        ({"alignment": {"learning_rate": "1e-4"}}, ("alignment.learning_rate", "'1e-4'", "wrong type", "float")),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(overrides, words):
    with pytest.raises(ConfigError) as error:
        load_config("smoke", overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_profile_lists_the_profiles():
    with pytest.raises(
        ConfigError,
        match="allowed: amazon, amazon-2018, .*games, .*ml-100k, ml-100k-ablations, .*ml-1m, .*smoke, smoke-controls, or a YAML",
    ):
        load_config("ml100k")


def test_a_profile_extends_another_and_no_circle(tmp_path, monkeypatch):
    extending = tmp_path / "mine.yaml"
    extending.write_text("extends: ml-100k\nalignment: {beta: 0.3}")
    config, parent = load_config(str(extending)), load_config("ml-100k")
    assert config.alignment == parent.alignment.changed(beta=0.3) and config.llm == parent.llm
    assert config.profile == "mine"
    (tmp_path / "mine-too.yaml").write_text("extends: mine.yaml")
    assert load_config(str(tmp_path / "mine-too.yaml")).alignment.beta == 0.3, "a path is seen from its own file"
    (tmp_path / "a.yaml").write_text("extends: b")
    (tmp_path / "b.yaml").write_text("extends: a")
    monkeypatch.setattr("dpo4rec_utils.settings.PROFILES", tmp_path)
    with pytest.raises(ConfigError, match="in no circle"):
        load_config("a")


@pytest.mark.parametrize("name", ["...yaml", "-a.yaml", "A.yaml", "<img onerror>.yaml", "a b.yaml", "ml-100k.yaml"])
def test_a_profile_cannot_be_named_like_a_path_a_tag_or_a_built_in_one(tmp_path, name):
    (tmp_path / name).write_text("seed: 1")
    with pytest.raises(ConfigError, match="PROFILE = "):
        load_config(str(tmp_path / name))


def test_no_profile_repeats_what_another_sets():
    profiles = {path.stem: yaml.safe_load(path.read_text()) for path in PROFILES.glob("*.yaml")}
    assert all(profile.get("extends") for name, profile in profiles.items() if name.startswith("ml-100k-"))
    for profile in (p for p in profiles.values() if "extends" in p):
        parent = load_config(profile["extends"]).model_dump(mode="json")
        for part, values in profile.items():
            if isinstance(values, dict):
                assert all(parent[part][key] != value for key, value in values.items()), (part, values)


def test_numbers_without_a_dot_are_numbers():
    assert read_yaml("a: 1e-4\nb: -1E+2\nc: 5\nd: 1.5\ne: e5") == {"a": 1e-4, "b": -100.0, "c": 5, "d": 1.5, "e": "e5"}


def test_overrides_keep_the_rest_of_the_profile_and_freeze():
    config = load_config("smoke", {"llm": {"temperature": 1}})
    assert config.llm.temperature == 1.0 and config.llm.train_samples == 4
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


def test_a_parameter_that_a_notebook_has_beside_is_its_own_alone():
    cell = {"PROFILE": "smoke", "OVERRIDES": {}, "MAKE": True, "USER": 3}
    assert notebook_parameters(cell, USER=int)[1] is True
    with pytest.raises(ConfigError, match="Unknown notebook parameter USER = 3; allowed: PROFILE, OVERRIDES, MAKE"):
        notebook_parameters(cell)
    with pytest.raises(ConfigError, match="USER = True has the wrong type; allowed: int"):
        notebook_parameters(cell | {"USER": True}, USER=int)


def test_a_trial_has_a_results_folder_of_its_own():
    names = [load_config("smoke", change).profile for change in ({}, {"seed": 1}, {"seed": 2}, {"seed": 1})]
    assert names[0] == "smoke" and names[1] == names[3] != names[2] and names[1].startswith("smoke-")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (("alignment.betta=0.2",), ("alignment.betta = 0.2", "beta")),
        (("alignment.beta",), ("alignment.beta has no value", "section.key=value")),
        (("alignment.beta=0.2", "alignment.beta=0.3"), ("given twice",)),
        (("data.fold=[1",), ("'[1' is no YAML value",)),
        (("data=5", "data.fold=1"), ("given twice",)),
        (("data=5", "data.fold.x=2"), ("given twice",)),
        (("profile=smoke",), ("Unknown key profile",)),
    ],
)
def test_command_line_parameters_are_checked_too(capsys, parameters, words):
    options = [part for parameter in parameters for part in ("-p", parameter)]
    assert cli.main(["study", "--profile", "smoke", *options]) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in words) and "Traceback" not in shown and shown.count("\n") == 1, shown


def test_every_command_explains_itself(capsys):
    for command in ("study", "report", "assets", "doctor"):
        assert cli.main([command, "--help"]) == 0
        assert len(capsys.readouterr().out) > 150
    assert cli.main(["stduy"]) == 2 and "stduy" in capsys.readouterr().err


def test_seeds_differ_by_name_and_repeat():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    assert len({derive_seed(1, "a", 2), derive_seed(1, "a", 3), derive_seed(2, "a", 2)}) == 3


def test_an_arm_that_needs_more_texts_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="'two_texts', which needs 2 texts of every user; llm.evaluation_samples = 1"):
        load_config("ml-100k-loop-2", {"llm": {"evaluation_samples": 1}})


def test_every_variant_is_a_valid_configuration_and_changes_something():
    """But for those that are the profile's own recipe, which it does not ask for."""
    base, unchanged = load_config("ml-100k-ablations"), set()
    own = {"realised_any"}
    assert not own & set(base.evaluation.ablations)
    for variant in VARIANTS.values():
        changed = base.alignment.changed(**variant.alignment)
        reward = base.reward.changed(**variant.reward)
        prompt = base.llm.changed(prompt=variant.prompt or base.llm.prompt)
        other_samples = variant.samples not in (None, base.llm.train_samples)
        flags = variant.residual or variant.llm_only or variant.addition or variant.grpo or other_samples
        if (changed, reward, prompt) == (base.alignment, base.reward, base.llm) and not flags:
            unchanged.add(variant.name)
    assert unchanged == own


def test_every_embedded_model_is_an_asset():
    from dpo4rec_utils import assets

    assert {asset for names in EMBEDDED.values() for asset in names.values()} <= set(assets.ASSETS)
