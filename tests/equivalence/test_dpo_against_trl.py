"""Prefix sharing against stock trl: the same loss and LoRA gradients, on a tiny model and on one SmolLM2 batch."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from dpo4rec_utils.alignment import packing, trainers
from dpo4rec_utils.alignment.trainer_classes import REFERENCE, PrefixSharedDPOTrainer
from dpo4rec_utils.alignment.trainers import Run
from dpo4rec_utils.config import LOSSES, AlignmentConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.models import load_tokenizer
from dpo4rec_utils.knowledge.policies import Policy

PROMPTS = ["Movies liked: Heat.\nThis viewer enjoys", "Movies liked: Alien; Aliens; The Thing.\nThis viewer enjoys"]
PAIRS = pd.DataFrame(
    [
        (PROMPTS[0], " crime dramas.", " horror, or anything at all really."),
        (PROMPTS[0], " slow crime stories from the 1990s.", " cartoons."),
        (PROMPTS[1], " science fiction horror.", " romance and musicals."),
    ],
    columns=["prompt", "chosen", "rejected"],
)
CONFIG = AlignmentConfig().changed(lora_rank=4, batch_size=4)
NOISY = ("sigmoid", "robust", "exo_pair")  # losses with a label_smoothing to set
EMBEDDED = Policy("zero_shot", "embedded")


def test_packing_by_hand():
    pad = 0
    ids = torch.tensor([[5, 6, 7, 8, pad], [5, 6, 9, pad, pad], [4, 1, 2, 3, 1]])
    attention = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, 9, -100, -100], [-100, 1, 2, 3, 1]])
    packed = packing.pack_rows(ids, attention, labels, pad)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, pad], [pad, 4, 1, 2, 3, 1]]  # rows 0 and 1 share their prompt
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2, 0], [0, 0, 1, 2, 3, 4]]  # positions restart behind the prompt
    assert packed.group.tolist() == [0, 0, 1] and packed.offset.tolist() == [0, 2, 0] and packed.prompt_width == 2
    sees = packed.mask[0, 0].int().tolist()
    assert sees[4] == [1, 1, 0, 0, 1, 0]  # the second completion sees the prompt and itself, not the first completion
    assert packed.mask[1, 0, 5].int().tolist() == [0, 1, 1, 1, 1, 1]  # left padding is never seen by a token


def test_a_forward_pass_holds_two_prompts_or_so():
    whole, single = pd.Series(list("aaaabbbb")), pd.Series(list("abcdefgh"))
    assert trainers.micro_batch(whole, 16) == 4 and trainers.micro_batch(single, 16) == 2
    assert trainers.micro_batch(single, 1) == trainers.micro_batch(whole, 3) == 1, "the batch size must be kept"


def tiny_model(*_):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def away_from_zero(model) -> None:
    """LoRA's B begins at zero, where all gradients of A are zero, too."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02


def loss_and_gradients(folder, implementation, model=None, **settings):
    """Loss and LoRA gradients of one batch; every gradient counts."""
    config = CONFIG.changed(implementation=implementation, **settings)
    with pytest.MonkeyPatch.context() as patch:
        if model:
            patch.setattr(trainers, "load_model", model)
        trainer = trainers.dpo_trainer(EMBEDDED, PAIRS, Run(folder, config, 3, "fp32"))
    away_from_zero(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    if implementation == "prefix_shared":
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
        batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    value = trainer.compute_loss(trainer.model, batch)
    value.backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
    return value.item(), gradients, {k: v[-1] for k, v in trainer._metrics["train"].items()}


def assert_equal(ours, stock):
    assert ours[0] == pytest.approx(stock[0], rel=1e-4)
    assert abs(stock[0] - 0.6931) > 1e-5, "the comparison would be of an untrained loss"
    for name, gradient in stock[1].items():
        error = (ours[1][name] - gradient).norm() / gradient.norm()
        assert gradient.norm() > 0 and error < 1e-4, f"{name}: {error:.1e}"
    for name in ("rewards/margins", "logps/chosen", "entropy", "mean_token_accuracy", "logits/chosen"):
        assert ours[2][name] == pytest.approx(stock[2][name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("loss", "smoothing"),
    [*((loss, 0.0) for loss in LOSSES if loss not in NOISY[1:]), *((loss, 0.1) for loss in NOISY)],
)
def test_tiny_model(tmp_path, loss, smoothing):
    asked = {"model": tiny_model, "loss": loss, "label_smoothing": smoothing}
    ours = loss_and_gradients(tmp_path / "a", "prefix_shared", **asked)
    stock = loss_and_gradients(tmp_path / "b", "stock", **asked)
    assert_equal(ours, stock)


def test_adapters_of_the_upper_half_alone(tmp_path):
    weights = {
        layers: loss_and_gradients(tmp_path / layers, "prefix_shared", tiny_model, lora_layers=layers)[1]
        for layers in ("all", "upper_half")
    }
    placed = {layers: {name.split("layers.")[1][0] for name in names} for layers, names in weights.items()}
    assert placed == {"all": {"0", "1"}, "upper_half": {"1"}} and len(weights["upper_half"]) == len(weights["all"]) / 2


def test_the_chosen_texts_own_likelihood_is_stock_trls_sft(tmp_path):
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        ours, stock = (
            loss_and_gradients(tmp_path / f"{kind}{weight}", kind, tiny_model, chosen_weight=weight)
            for kind in ("prefix_shared", "stock")
        )
        assert_equal(ours, stock)
        losses[weight] = ours[0]
    likelihood = losses[1.0] - losses[0.0]
    assert likelihood > 5, "an untrained model: about ln 49152 a token"
    assert losses[0.5] - losses[0.0] == pytest.approx(likelihood / 2, rel=1e-5)


def test_a_resumed_training_does_not_read_with_the_reference_again(tmp_path, monkeypatch):
    monkeypatch.setattr(trainers, "load_model", tiny_model)
    run, columns = Run(tmp_path, CONFIG, 3, "fp32"), list(REFERENCE)
    first = trainers.dpo_trainer(EMBEDDED, PAIRS, run).train_dataset
    assert np.abs(np.array(first["ref_chosen_logps"])).min() > 1
    monkeypatch.setattr(PrefixSharedDPOTrainer, "compute_ref_log_probs", None)  # would not be callable
    again = trainers.dpo_trainer(EMBEDDED, PAIRS, run).train_dataset
    assert again[:] == first[:] and set(columns) < set(again.column_names)
    (tmp_path / "checkpoints/reference-train.npz").unlink()
    with pytest.raises(TypeError, match="not callable"):
        trainers.dpo_trainer(EMBEDDED, PAIRS, run)


def test_a_margin_that_pays_for_length_by_hand(tmp_path):
    """R-DPO: a pair whose chosen text is longer by three tokens; before the first step policy and reference agree."""
    pair = pd.DataFrame({"prompt": ["Once"], "chosen": [" upon a time there was"], "rejected": [" upon a"]})
    rows = trainers.pair_rows(EMBEDDED.model, pair)
    longer = len(rows[0]["chosen_ids"]) - len(rows[0]["rejected_ids"])
    assert longer == 3
    for kind in ("prefix_shared", "stock"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainers, "load_model", tiny_model)
            config = CONFIG.changed(implementation=kind, length_margin=0.2)
            trainer = trainers.dpo_trainer(EMBEDDED, pair, Run(tmp_path / kind, config, 3, "fp32"))
        batch = trainer.data_collator([trainer.train_dataset[0]])
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
        batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        loss = trainer.compute_loss(trainer.model, batch).item()
        assert loss == pytest.approx(np.log1p(np.exp(-0.2 * longer)), rel=1e-5)
        assert (batch["ref_chosen_logps"] == chosen).all(), "the batch itself is left as it is"


def test_one_smollm2_batch(tmp_path):
    ours = loss_and_gradients(tmp_path / "a", "prefix_shared")
    stock = loss_and_gradients(tmp_path / "b", "stock")
    assert_equal(ours, stock)


@pytest.mark.parametrize("family", ["gemma", "mistral", "gemma, full alone"])
def test_layers_with_a_sliding_window_see_what_they_see_in_rows_of_their_own(family):
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    size |= {"num_key_value_heads": 1, "vocab_size": 50, "sliding_window": 4}
    torch.manual_seed(0)
    if family == "mistral":
        model = MistralForCausalLM(MistralConfig(**size)).eval()
    else:
        kinds = [packing.FULL if "full" in family else packing.SLIDING, packing.FULL]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**size, layer_types=kinds)).eval()
    torch.nn.init.normal_(model.get_input_embeddings().weight)  # so that what is seen matters
    rows = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 6, 7, 8, 14, 15, 16, 17, 18], [4, 3, 2, 19, 20, 21, 22, 23, 24]]
    ids = torch.tensor(rows)
    starts = torch.tensor([4, 4, 3])
    labels = torch.where(torch.arange(9) < starts[:, None], -100, ids)
    with torch.no_grad():
        shared = packing.prefix_shared_forward(
            model, 0, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels
        )
        logits = model(ids).logits[:, :-1].log_softmax(dim=2)
    own = torch.where(labels[:, 1:] != -100, logits.gather(2, ids[:, 1:, None])[..., 0], 0)
    assert torch.allclose(shared.log_probs, own, atol=1e-5)


def test_layers_that_packed_rows_do_not_serve_are_refused():
    model = tiny_model()
    model.config.layer_types = ["linear_attention", packing.FULL]
    ids = torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(StudyError, match="do not serve .linear_attention.; set alignment.implementation to stock"):
        packing.prefix_shared_forward(model, 0, input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)


def test_gradients_repeat_bit_by_bit():
    rows = [[5, 6, 7, last] for last in range(10, 26)]  # completions that share the prompt's last column
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, :2] = -100
    gradients = []
    for _ in range(8):
        model = tiny_model()
        answer = packing.prefix_shared_forward(
            model, 0, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels
        )
        (answer.log_probs.sum(1) * torch.linspace(-1, 1, len(rows))).sum().backward()
        gradients.append(model.lm_head.weight.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_supervised_loss_and_gradients_equal_stock(tmp_path):
    table = PAIRS.rename(columns={"chosen": "completion"})
    results = {}
    for kind in ("prefix_shared", "stock"):
        found_trainers = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainers, "load_model", tiny_model)
            patch.setattr(trainers, "_train", lambda trainer, run, keep=found_trainers: keep.append(trainer))
            run = Run(tmp_path / kind, CONFIG.changed(implementation=kind), 3, "fp32")
            trainers.fine_tune(EMBEDDED, table, run)
        trainer = found_trainers[0]
        away_from_zero(trainer.model)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(table))])
        value = trainer.compute_loss(trainer.model, batch)
        value.backward()
        results[kind] = value.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert results["prefix_shared"][0] == pytest.approx(results["stock"][0], rel=1e-4)
    for name, gradient in results["stock"][1].items():
        error = (results["prefix_shared"][1][name] - gradient).norm() / gradient.norm()
        assert gradient.norm() > 0 and error < 1e-3, f"{name}: {error:.1e}"


def test_grpo_reads_the_stored_texts_and_rewards(tmp_path):
    texts, rewards = [" crime dramas.", " slow crime stories.", " cartoons.", " musicals."], [0.2, -0.4, None, 0.5]
    groups = pd.DataFrame([(PROMPTS[0], texts, rewards)], columns=["prompt", "texts", "rewards"])
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "load_model", tiny_model)
        patch.setattr(trainers, "_train", lambda trainer, run: kept.append(trainer))
        trainers.grpo(EMBEDDED, groups, Run(tmp_path, CONFIG, 3, "fp32"))
    (trainer,) = kept
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    value = trainer.compute_loss(trainer.model, batch)
    value.backward()
    ours = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    # By hand: minus the mean over texts of advantage x mean log-probability of the text's tokens, the unscored text
    # at 0.
    known = torch.tensor([0.2, -0.4, 0.5])
    advantage = torch.zeros(4)
    advantage[[0, 1, 3]] = (known - known.mean()) / (known.std() + 1e-4)
    tokenizer, loss = load_tokenizer("embedded"), 0.0
    head = tokenizer(PROMPTS[0], add_special_tokens=False).input_ids
    for text, weight in zip(texts, advantage, strict=True):
        tail = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        logits = trainer.model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        loss -= weight * logits.log_softmax(dim=1)[range(len(tail)), tail].mean() / len(texts)
    loss.backward()
    moved = [n for n in ours if "lora_B" in n]  # at the start, the gradient of A is zero
    for name, parameter in trainer.model.named_parameters():
        if name in moved:
            error = (ours[name] - parameter.grad).norm() / parameter.grad.norm()
            assert parameter.grad.norm() > 0 and error < 1e-3, f"{name}: {error:.1e}"
    assert moved


def test_truncation_is_refused(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "load_model", tiny_model)
        trainer = trainers.dpo_trainer(EMBEDDED, PAIRS, Run(tmp_path, CONFIG, 3, "fp32"))
    trainer.args.max_length = 8
    with pytest.raises(ValueError, match="max_length=None"):
        PrefixSharedDPOTrainer(
            tiny_model(),
            args=trainer.args,
            train_dataset=trainer.train_dataset,
            processing_class=load_tokenizer("embedded"),
        )


def test_no_pairs_is_one_sentence(tmp_path):
    with pytest.raises(trainers.StudyError, match="No preference pairs"):
        trainers.dpo_trainer(EMBEDDED, PAIRS[:0], Run(tmp_path, CONFIG, 3, "fp32"))
