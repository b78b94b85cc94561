"""Tiny random language models with the habits of real families: how a text begins, how a turn ends, what a template refuses."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = "Movies liked: Heat; Alien. Describe this viewer's taste in movies in one sentence. This viewer enjoys crime dramas."
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZE |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}

LLAMA = (
    "{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n{{ turn.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for turn in messages %}<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n{{ turn.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Control words (begin, end, others), whether a text is begun by the tokenizer, the chat template, and all end words.
FAMILIES = {
    "llama": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        True,
        LLAMA,
        ["<|end_of_text|>", "<|eot_id|>"],
    ),
    "qwen": (["<|endoftext|>", "<|im_end|>", "<|im_start|>"], False, QWEN, ["<|im_end|>", "<|endoftext|>"]),
    "gemma": (
        ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"],
        True,
        GEMMA,
        ["<eos>", "<end_of_turn>"],
    ),
    "base": (["<s>", "</s>"], True, None, ["</s>"]),
}


def made_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred words with the family's control words."""
    control, begun, template, _ = FAMILIES[family]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator([WORDS] * 4, trainers.BpeTrainer(special_tokens=control, initial_alphabet=alphabet))
    if begun:
        begin = control[0]
        words.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, words.token_to_id(begin))]
        )
    # Of Qwen the end of a turn is the tokenizer's end, of Llama and Gemma it is not.
    given = {"bos_token": control[0] if begun else None, "eos_token": control[1]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=control, **given)
    tokenizer.chat_template = template
    return tokenizer


def made_model(family: str, folder: Path, seed: int = 0) -> str:
    """A folder with a random model of the family and its tokenizer; its path as `llm.model` takes it."""
    tokenizer = made_tokenizer(family)
    torch.manual_seed(seed)
    size = SIZE | {"vocab_size": len(tokenizer)}
    if family == "gemma":  # every other layer sees eight tokens, fewer than a prompt has
        kinds = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**size, sliding_window=8, layer_types=kinds))
    elif family == "qwen":
        model = Qwen3ForCausalLM(Qwen3Config(**size, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**size))
    ends = [tokenizer.convert_tokens_to_ids(word) for word in FAMILIES[family][3]]
    model.generation_config = GenerationConfig(eos_token_id=ends, bos_token_id=tokenizer.bos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
