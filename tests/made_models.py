"""Tiny random language models with the habits of real families: how a text begins, how a turn ends, what a template
refuses."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
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
    special = {"bos_token": control[0] if begun else None, "eos_token": control[1]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=control, **special)
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


def made_gguf(architecture: str, folder: Path) -> str:
    """A folder with a random Qwen as GGUF, F16, as llama.cpp's converter lays it out; its path as `llm.model` takes
    it."""
    tokenizer = made_tokenizer("qwen")
    torch.manual_seed(0)
    size = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    if architecture == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**size, head_dim=128))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**size))
    config, folder = model.config, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if architecture == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_words(writer, tokenizer)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            place = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(place, weight.numpy().astype(np.float16 if weight.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(folder)


def _add_words(writer: gguf.GGUFWriter, tokenizer) -> None:
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    control = [gguf.TokenType.CONTROL if word in FAMILIES["qwen"][0] else gguf.TokenType.NORMAL for word, _ in words]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types(control)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
