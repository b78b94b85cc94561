"""Tiny models with the habits of four families through sample -> pairs -> DPO -> sample, and what goes wrong with
models."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from dpo4rec_utils.alignment import log_probs, trainers
from dpo4rec_utils.alignment.pairs import RewardedTexts, build_pairs
from dpo4rec_utils.config import AlignmentConfig, Config
from dpo4rec_utils.data.domain import load_domain
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import exports, models, prompts
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.knowledge.gguf_export import gguf_obstacle
from dpo4rec_utils.knowledge.policies import Policy, load_model
from tests.made_models import FAMILIES, made_gguf, made_model

DOMAIN = load_domain("movies")
QUESTIONS = [
    "Movies liked: Heat\nDescribe this viewer's taste.",
    "Movies liked: Alien; Heat\nDescribe this viewer's taste.",
]
TRAINING = AlignmentConfig().changed(lora_rank=4, batch_size=2, learning_rate=5e-3, epochs=6.0)


def study_config(model: str, **llm) -> Config:
    base = Config(profile="made")
    settings = {"model": model, "engine": "transformers", "max_new_tokens": 12, **llm}
    return base.changed(llm=base.llm.changed(**settings), device=base.device.changed(sampling="float32"))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    return made_model(family, tmp_path_factory.mktemp(family))


def asked(model: str) -> list[str]:
    return [prompts.render(models.load_tokenizer(model), DOMAIN, text, "This viewer enjoys") for text in QUESTIONS]


def test_a_prompt_begins_once_and_is_what_the_family_writes(family, model):
    tokenizer = models.load_tokenizer(model)
    for prompt in asked(model):
        ids = models.token_ids(tokenizer, prompt)
        begun = FAMILIES[family][1]
        assert ids.count(tokenizer.bos_token_id) == int(begun) and (not begun or ids[0] == tokenizer.bos_token_id)
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": QUESTIONS[0]}]
            turns = turns if family == "gemma" else [{"role": "system", "content": ""}, *turns]
            wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            assert models.token_ids(tokenizer, asked(model)[0])[: len(wanted)] == wanted
        else:
            assert prompt.endswith("taste.\nThis viewer enjoys")


def test_completions_end_as_the_family_ends_a_turn(family, model):
    tokenizer, word = models.load_tokenizer(model), FAMILIES[family]
    assert {tokenizer.decode([token]) for token in models.end_tokens(model)} == set(word[3])
    last = {"llama": "<|eot_id|>", "qwen": "<|im_end|>", "gemma": "<end_of_turn>", "base": "</s>"}[family]
    assert tokenizer.decode([models.turn_end(model)]) == last


def test_tokens_are_those_of_stock_trl(family, model):
    """trl's own rows of the same strings, less what its tokenizer puts before them; its end word set to the turn's."""
    table = pd.DataFrame({"prompt": asked(model), "chosen": [" crime."] * 2, "rejected": [" dramas, all of them."] * 2})
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = tokenizer.decode([models.turn_end(model)])
    begin = tokenizer.bos_token if FAMILIES[family][1] else ""
    kept = {}
    for kind, trainer in (("dpo", DPOTrainer), ("sft", SFTTrainer)):
        rows = table.assign(prompt=[prompt.removeprefix(begin) for prompt in table.prompt])
        rows = rows if kind == "dpo" else rows.rename(columns={"chosen": "completion"}).drop(columns="rejected")
        arguments = (DPOConfig if kind == "dpo" else SFTConfig)(output_dir="unused", max_length=None, use_cpu=True)
        shell = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=True)
        extra = () if kind == "dpo" else (False, None)
        table_rows = Dataset.from_pandas(rows)
        kept[kind] = trainer._prepare_dataset(shell, table_rows, tokenizer, arguments, *extra, "train")
    ours = trainers.pair_rows(model, table)
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[name][:] == kept["dpo"][name][:]
    ours = trainers.example_rows(model, table.rename(columns={"chosen": "completion"}))
    assert ours["input_ids"][:] == kept["sft"]["input_ids"][:]


def test_the_engine_continues_as_generate_does(model, tmp_path):
    config = study_config(model, temperature=0.05, top_p=0.05)
    sampler = open_sampler(Policy("zero_shot", model), config, tmp_path)
    answers = sampler.sample(asked(model), [2, 3], [1, 2])
    for prompt, row in zip(asked(model), answers, strict=True):
        ids = torch.tensor([models.token_ids(sampler.tokenizer, prompt)])
        with torch.no_grad():
            alone = sampler.model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        ended = alone[-1] in models.end_tokens(model)
        assert {(answer.text, answer.tokens, answer.finished) for answer in row} == {
            (sampler.tokenizer.decode(alone, skip_special_tokens=True), len(alone) - ended, ended)
        }


@pytest.fixture(scope="module")
def aligned(family, model, tmp_path_factory):
    """Sample, pair by a made reward (shorter is better), align twice: the second round on the merged first."""
    folder, policy, config = tmp_path_factory.mktemp("aligned"), Policy("zero_shot", model), study_config(model)
    pairs = []
    for number in (1, 2):
        answers = open_sampler(policy, config, folder).sample(asked(model), [6, 6], [number, 2])
        texts = [[completion.text for completion in row] for row in answers]
        reward = np.array([[-float(len(text)) for text in row] for row in texts])
        candidates = RewardedTexts(np.array([0, 1]), asked(model), texts, reward, np.array([4, 4]))
        pairs.append(build_pairs(candidates, TRAINING.changed(pairs_per_user=2)))
        run = trainers.Run(folder / f"round-{number}", TRAINING, 3, "fp32")
        trainers.dpo(policy, pairs[-1], run)
        policy = policy.extended(f"dpo_round_{number}", run.folder / "adapter", round=number)
    return policy, pairs


def test_the_loop_runs_and_learns(model, aligned, tmp_path):
    policy, pairs = aligned
    first, before = Policy("dpo_round_1", model, policy.adapters[:1]), Policy("zero_shot", model)
    ratio = {}
    for side in ("chosen", "rejected"):
        after, start = (
            log_probs.completion_log_probs(p, list(pairs[0].prompt), list(pairs[0][side])) for p in (first, before)
        )
        ratio[side] = after - start
    assert (ratio["chosen"] > ratio["rejected"]).mean() == 1.0, "the pairs that it was trained on"
    again = open_sampler(policy, study_config(model), tmp_path).sample(asked(model), [6, 6], [1, 2])
    start = open_sampler(before, study_config(model), tmp_path).sample(asked(model), [6, 6], [1, 2])
    assert again != start and again == open_sampler(policy, study_config(model), tmp_path).sample(
        asked(model), [6, 6], [1, 2]
    )


def test_what_is_taken_home_is_the_policy(model, aligned, tmp_path):
    policy, _ = aligned
    ids = torch.tensor([models.token_ids(models.load_tokenizer(model), asked(model)[0])])
    with torch.no_grad():
        wanted = load_model(policy)(ids).logits
        exports.save_merged(policy, tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
        one = exports.save_adapter(policy, tmp_path / "adapter")
        summed = PeftModel.from_pretrained(models.load_base(model), one)(ids).logits
        plain = models.load_base(model)(ids).logits
    assert torch.allclose(merged, wanted, atol=1e-5) and torch.allclose(summed, wanted, atol=1e-3)
    assert (plain - wanted).abs().max() > 1e-2
    obstacle = exports.export_stage(policy).build(tmp_path / "stage")["no_gguf"]
    assert "convert_hf_to_gguf" in obstacle and "\n" not in obstacle


def test_an_adapter_beside_one_of_the_upper_half_has_the_same_bytes_each_time(tmp_path):
    model = made_model("llama", tmp_path / "model")
    for name, layers in (("whole", None), ("upper", [1])):
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], layers_to_transform=layers, init_lora_weights=False)
        get_peft_model(models.load_base(model), lora).save_pretrained(tmp_path / name)
    policy, contents = Policy("dpo", model, (tmp_path / "whole", tmp_path / "upper")), set()
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        folder = exports.save_adapter(policy, tmp_path / f"all-{seed}")
        contents.add((folder / "adapter_model.safetensors").read_bytes())
    assert len(contents) == 1


def test_weights_of_two_bytes_train_and_sample(model, tmp_path, monkeypatch):
    trained, load_model = [], trainers.load_model
    monkeypatch.setattr(
        trainers, "load_model", lambda policy, dtype: trained.append(dtype) or load_model(policy, dtype)
    )
    base = study_config(model)
    config = base.changed(
        device=base.device.changed(sampling="bfloat16", training="bfloat16", gradient_checkpointing=True)
    )
    pairs = pd.DataFrame({"prompt": asked(model), "chosen": [" crime."] * 2, "rejected": [" dramas."] * 2})
    run = trainers.Run(tmp_path / "run", TRAINING.changed(epochs=1.0), 3, "fp32", config.device)
    log = trainers.dpo(Policy("zero_shot", model), pairs, run)
    policy = Policy("dpo", model, (run.folder / "adapter",))
    sampler = open_sampler(policy, config, tmp_path)
    assert log and trained == [torch.bfloat16] and sampler.model.dtype == torch.bfloat16
    assert len(sampler.sample(asked(model), [2, 2], [1, 2])[0]) == 2


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_qwen_gguf_with_an_adapter_reaches_openvino(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = made_gguf(architecture, tmp_path / "model")
    assert gguf_obstacle(model) is None
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(models.load_base(model), lora).save_pretrained(tmp_path / "adapter")
    base, said = Policy("zero_shot", model), {}
    for policy in (base, base.extended("adapted", tmp_path / "adapter")):
        for engine in ("transformers", "openvino"):
            config = study_config(model, engine=engine, temperature=0.05, top_p=0.05, max_new_tokens=4)
            answers = open_sampler(policy, config, tmp_path).sample(asked(model), [1, 1], [1, 2])
            said[policy.name, engine] = [row[0].text for row in answers]
    assert said["zero_shot", "openvino"] == said["zero_shot", "transformers"]
    assert said["adapted", "openvino"] == said["adapted", "transformers"] != said["zero_shot", "transformers"]


# What cannot be used is one sentence with a way out.


def without(folder, *patterns):
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def of_bert(folder):
    without(folder, "*.safetensors", "config.json")
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(folder)


def renamed(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoiled(folder):
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    weights[first] = torch.full_like(weights[first], float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def indexed(folder, name):
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def ended(folder, end):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": end}))


BROKEN = {
    "no tokenizer": (lambda f: without(f, "tokenizer*"), "lacks a tokenizer"),
    "no weights": (lambda f: without(f, "*.safetensors"), "lacks weights"),
    "no config": (lambda f: without(f, "config.json"), "lacks config.json"),
    "empty": (lambda f: without(f, "*"), "lacks config.json and a tokenizer"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "cut or damaged"),
    "emptied weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cut or damaged"),
    "cut config": (lambda f: cut(f / "config.json"), "could not be loaded"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\x00\xff\xfe"), "could not be loaded"),
    "cut tokenizer": (lambda f: cut(f / "tokenizer.json"), "could not be loaded"),
    "unknown kind": (lambda f: renamed(f, model_type="nothing", architectures=["No"]), "could not be loaded"),
    "other sizes": (lambda f: renamed(f, hidden_size=64, head_dim=16), "could not be loaded|lacks"),
    "more layers": (lambda f: renamed(f, num_hidden_layers=3), "no whole causal language model"),
    "no causal LM": (of_bert, "could not be loaded|no whole causal"),
    "a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "lacks weights"),
    "two GGUF files": (lambda f: [(f / f"{n}.gguf").write_bytes(b"GGUF") for n in "ab"], "holds 2 GGUF files"),
    "a broken GGUF": (lambda f: (without(f, "*"), (f / "a.gguf").write_bytes(b"GGUF\x03\x00")), "could not be loaded"),
    "weights that are no numbers": (spoiled, "weights that are no numbers"),
    "an index of pickles": (lambda f: indexed(f, "pytorch_model.bin"), "lacks pytorch_model.bin"),
    "an index of elsewhere": (lambda f: indexed(f, "../model.safetensors"), "lacks ../model.safetensors"),
    "a cut generation config": (lambda f: cut(f / "generation_config.json"), "generation_config.json is damaged"),
    "an end token as text": (lambda f: ended(f, "</s>"), "which are no tokens"),
    "an end token of another model": (lambda f: ended(f, 10**6), "which are no tokens"),
    "a list of end tokens that are none": (lambda f: ended(f, [1, None, True]), "which are no tokens"),
    "no GGUF": (lambda f: (without(f, "*"), (f / "a.gguf").write_bytes(b"what else")), "could not be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_sentence(case, tmp_path):
    folder = tmp_path / "model"
    made_model("llama", folder)
    breaks, expected = BROKEN[case]
    breaks(folder)
    with pytest.raises(StudyError, match=expected) as error:
        models.load_tokenizer.__wrapped__(str(folder))
        models.load_base(str(folder))
        models.end_tokens.__wrapped__(str(folder))
    assert "\n" not in str(error.value) and len(str(error.value)) < 420


def test_code_of_a_folder_is_never_run(tmp_path):
    folder = tmp_path / "model"
    made_model("llama", folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass C: pass\n")
    renamed(folder, model_type="evil", auto_map=dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.C"))
    with pytest.raises(StudyError, match="could not be loaded"):
        models.load_base(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["nobody/nothing-at-all", "nowhere", "./nowhere", "a/b/c", "~/nowhere", "", "bad name/x"]
)
def test_a_model_that_is_nowhere_is_one_sentence(name, monkeypatch):
    with pytest.raises(StudyError) as error:
        models.load_tokenizer.__wrapped__(name)
    assert "\n" not in str(error.value) and "llm.model" in str(error.value)


def test_a_gated_model_says_how(monkeypatch):
    def gated(*_, **__):
        raise OSError(
            "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/x"
        )

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", gated)
    with pytest.raises(StudyError, match="gated; accept its licence on the Hub and set HF_TOKEN"):
        models.load_tokenizer.__wrapped__("meta/llama")


def test_an_adapter_of_another_base_is_one_sentence(aligned, tmp_path):
    policy, _ = aligned
    other = made_model("llama", tmp_path / "other")
    weights = AutoModelForCausalLM.from_pretrained(other)
    weights.config.hidden_size = 64
    renamed(tmp_path / "other", hidden_size=64, head_dim=16)
    type(weights)(weights.config.__class__.from_pretrained(other)).save_pretrained(other)
    with pytest.raises(StudyError, match="of another base model or damaged"):
        load_model(Policy("x", other, policy.adapters[:1]))
    broken = tmp_path / "adapter"
    shutil.copytree(policy.adapters[0], broken)
    cut(broken / "adapter_model.safetensors")
    with pytest.raises(StudyError, match="of another base model or damaged"):
        load_model(Policy("x", policy.model, (broken,)))


def test_a_model_that_does_not_fit_says_what_it_needs(tmp_path, monkeypatch):
    model = made_model("llama", tmp_path)
    numbers = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(model).parameters())
    assert models.parameters(model) == numbers
    monkeypatch.setattr(models, "free_memory", lambda: 1e-6)
    with pytest.raises(StudyError, match="needs 0.0 GiB for its weights .* take a smaller model"):
        models.load_base(model)


def test_system_words_that_a_template_refuses_are_one_sentence(tmp_path):
    tokenizer = models.load_tokenizer(made_model("gemma", tmp_path))
    silent, told = DOMAIN.model_copy(update={"system": ""}), DOMAIN.model_copy(update={"system": "Be short."})
    assert prompts.render(tokenizer, silent, "Q", " A").count("<start_of_turn>user") == 1
    with pytest.raises(StudyError, match="refuses a system turn .*System role not supported"):
        prompts.render(tokenizer, told, "Q", " A")


def test_a_system_word_stands_in_the_completion_prompt(tmp_path):
    tokenizer = models.load_tokenizer(made_model("base", tmp_path))
    told = DOMAIN.model_copy(update={"system": "Be short."})
    assert prompts.render(tokenizer, told, "Q", " A") == "<s>Be short.\n\nQ\n A"
