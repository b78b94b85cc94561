"""Configuration: frozen pydantic models with a range for every number; settings.py reads profiles into them.

`None` always means "not given"; nothing is converted silently.
"""

import typing
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_serializer,
    model_validator,
)

from dpo4rec_utils.arms import ARMS
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import public_address
from dpo4rec_utils.registries import BACKBONES, ENGINES, ESTIMATES
from dpo4rec_utils.rungs import RUNGS
from dpo4rec_utils.sections import Names, Section, SomeNames, name_in
from dpo4rec_utils.variants import VARIANTS

ENOUGH = 0.8  # of the pairs that a round asks for; with fewer it stops
PROTOCOLS = ("popularity", "uniform")
SPLITS = ("train", "validation", "test")
REFEREE_KINDS = ("log_likelihood", "ndcg")


BackboneName = Annotated[str, *name_in(BACKBONES)]
ArmName = Literal[tuple(ARMS)]
VariantName = Literal[tuple(VARIANTS)]
RungName = Literal[tuple(RUNGS)]
Loss = Literal[
    "sigmoid",
    "ipo",
    "hinge",
    "robust",
    "exo_pair",
    "nca_pair",
    "aot",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
LOSSES = typing.get_args(Loss)
# Arms that the tables compare with, so every profile has them.
COMPARED = ("none", "item", "zero_shot", "random_labels", "dpo_shuffled")


def model_name(model: str) -> str:
    """In records and keys, where weights stand by content: of a folder on this machine its name alone."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


class ServerConfig(Section):
    """A server with an OpenAI-compatible `/v1/completions` (vLLM, SGLang, llama.cpp, transformers serve)."""

    url: str = Field(
        pattern=r"^https?://", description="an address that begins with http:// or https://, up to and with /v1"
    )
    names: dict[str, str] = Field(
        {}, description="a policy (zero_shot: the base) to the name that the server knows it by"
    )
    extra: dict[str, Any] = Field(
        {}, description="another field of a request to its value, such as top_k: -1 where the server cuts by itself"
    )
    listed: bool = Field(
        True, description="false: the server loads what is asked for and lists nothing (transformers serve)"
    )
    concurrency: int = Field(16, ge=1, le=1024, description="requests at a time")
    retries: int = Field(4, ge=0, le=20, description="of a request, each after twice the wait")
    timeout: float = Field(300.0, ge=1, le=3600, description="seconds for a whole answer")

    @field_serializer("url")
    def _public(self, url: str) -> str:
        return public_address(url)


class LLMConfig(Section):
    """The language model and how it is sampled."""

    model: str = Field(
        "embedded", description="'embedded' (SmolLM2-135M-Instruct), 'gemma-3-270m', a local folder or a Hub id"
    )
    engine: Annotated[str, *name_in(ENGINES)] = "openvino"
    server: ServerConfig | None = Field(None, description="where engine: server finds the policies")
    prompt: str = Field("counts", description="a user template of the domain: counts or titles, or one of your own")
    titles: int = Field(10, ge=1, le=200, description="items that a prompt shows, the best rated and latest")
    title_tokens: int = Field(24, ge=3, le=256, description="tokens of a title in a prompt; whole words are left out")
    train_samples: int = Field(8, ge=2, le=64, description="texts of a user whose texts become pairs (N of the paper)")
    evaluation_samples: int = Field(4, ge=1, le=64, description="texts of every other user")
    max_new_tokens: int = Field(60, ge=4, le=512, description="of a text with its end; templates keep to it, too")
    temperature: float = Field(0.9, ge=0.05, le=2.0)
    top_p: float = Field(0.95, ge=0.05, le=1.0)
    shard_users: int = Field(96, ge=1, le=10000, description="users a shard: what an interruption can lose")

    @field_serializer("model")
    def _public(self, model: str) -> str:
        return model_name(model)

    @model_validator(mode="after")
    def _server_has_an_address(self):
        if (self.engine == "server") != (self.server is not None):
            raise ValueError("llm.server goes with llm.engine = 'server'; give both or none.")
        return self

    @model_validator(mode="after")
    def _evaluated_texts(self):
        if self.train_samples < self.evaluation_samples:
            raise ValueError(
                "llm.train_samples must be at least llm.evaluation_samples: their first texts are evaluated, too."
            )
        return self


class EncoderConfig(Section):
    """The sentence encoder."""

    model: str = Field(
        "embedded", description="'embedded' (all-MiniLM-L6-v2), a sentence-transformers folder or Hub id"
    )
    prompt: str | None = Field(None, description="the name of one of the model's prompts; null: the model's default")
    batch_size: int = Field(16, ge=1, le=4096)

    @field_serializer("model")
    def _public(self, model: str) -> str:
        return model_name(model)

    max_tokens: int = Field(96, ge=8, le=512)


class RerankerConfig(Section):
    """Capacity and optimisation of a re-ranker; the same for every arm, so no arm gets a larger budget."""

    id_dim: int = Field(32, ge=2, le=512)
    tag_dim: int = Field(16, ge=2, le=512)
    knowledge_dim: int = Field(32, ge=2, le=512, description="width of the adapted user and item knowledge")
    hidden: int = Field(64, ge=8, le=1024)
    heads: int = Field(2, ge=1, le=16)
    texts: Literal["each", "mean"] = Field(
        "each",
        description="a user's texts: each by itself (one drawn a list in training, scores averaged), or their mean vector as one",
    )
    adapter: Literal["hea", "moe", "mlp"] = "hea"
    interaction: bool = Field(True, description="explicit user-knowledge x item-knowledge interaction")
    learning_rate: float = Field(6e-3, ge=1e-6, le=1.0, description="the highest of one cycle")
    weight_decay: float = Field(1e-2, ge=0.0, le=1.0)
    dropout: float = Field(0.0, ge=0.0, le=0.9, description="inside adapter and backbone")
    text_dropout: float = Field(0.5, ge=0.0, le=0.9, description="of the elements of the user's text vector")
    batch_size: int = Field(256, ge=1, le=65536, description="lists a step")
    epochs: int = Field(8, ge=1, le=1000)

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.hidden % self.heads:
            raise ValueError(f"reranker.hidden = {self.hidden} must be a multiple of reranker.heads = {self.heads}.")
        return self


class RewardConfig(Section):
    """The reward model: a knowledge-augmented re-ranker, cross-fitted over parts of the users, averaged over seeds."""

    kind: Literal["log_likelihood", "ndcg", "map"] = "log_likelihood"
    estimate: Annotated[str, *name_in(ESTIMATES)] = Field(
        "amortised",
        description="realised: on a user's lists; amortised: what a text like this can expect; embedding: its cosine with "
        "the history mean, no re-ranker",
    )
    equal_length: bool = Field(True, description="take out of the reward what a text's tokens explain within a user")
    backbone: BackboneName = "prm"
    folds: int = Field(3, ge=2, le=20)
    seeds: int = Field(2, ge=1, le=20)
    templates: int = Field(8, ge=1, le=64, description="randomised templated profiles a user in the mixture")
    referee_seeds: int = Field(2, ge=1, le=20, description="seeds a backbone of the scorers that never gave a reward")


class AlignmentConfig(Section):
    """Warm start, pairs and DPO (trl + peft)."""

    rounds: int = Field(2, ge=1, le=20)
    warm_start: bool = Field(True, description="supervised fine-tuning on templated profiles before round 1")
    warm_start_examples: int = Field(800, ge=8, le=10**6)
    warm_start_learning_rate: float = Field(5e-4, ge=1e-7, le=1.0, description="of the warm start alone")
    warm_start_texts: int = Field(4, ge=1, le=64, description="examples a user: they share the prompt's computation")
    heldout_users: int = Field(
        94, ge=2, le=10**7, description="train users that no step of the LLM is trained on: their pairs measure it"
    )
    pair_users: int | None = Field(
        None, ge=4, le=10**7, description="train users whose texts become pairs, asked in turn; null: all of them"
    )
    pairs_per_user: int = Field(3, ge=1, le=32, description="best/worst, second/second-worst, ...")
    pairs: int = Field(
        640,
        ge=1,
        le=10**6,
        description="pairs kept a round, the largest gap first (realised rewards: gap x sqrt(lists))",
    )
    unfinished: Literal["rejected", "left_out", "paired"] = Field(
        "rejected",
        description="texts cut at llm.max_new_tokens: rejected: a user's worst, never chosen; left_out: in no pair; paired: as any",
    )
    repetitive: Literal["rejected", "unchosen", "paired"] = Field(
        "paired",
        description="texts that repeat themselves: rejected: a user's worst, never chosen; unchosen: never chosen; paired: as any",
    )
    implementation: Literal["prefix_shared", "stock"] = "prefix_shared"
    loss: Loss = Field("sigmoid", description="trl's losses that need chosen and rejected texts alone")
    beta: float = Field(0.1, ge=1e-4, le=10.0)
    chosen_weight: float = Field(
        0.0, ge=0.0, le=10.0, description="weight of the chosen texts' own likelihood beside the loss (trl's sft)"
    )
    label_smoothing: float = Field(0.0, ge=0.0, le=0.5)
    length_margin: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="alpha of R-DPO (arXiv 2403.19159): a longer chosen text has so much a token already",
    )
    learning_rate: float = Field(2e-4, ge=1e-7, le=1.0, description="of a round, by DPO or by a control")
    batch_size: int = Field(16, ge=1, le=4096)
    epochs: float = Field(1.0, ge=0.01, le=100.0)
    lora_rank: int = Field(16, ge=1, le=512)
    lora_layers: Literal["all", "upper_half"] = Field(
        "all",
        description="where a round's adapter is; upper_half: no gradient for the layers below. The warm start's is in all",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: fp32 on a CPU; on a GPU bf16 where it multiplies faster"
    )
    checkpoint_steps: int = Field(10, ge=1, le=10**6)


# What each kind of training reads of `AlignmentConfig`: an adapter is made anew when one of these changes.
_COMMON = ("batch_size", "epochs", "lora_rank", "lora_layers")
TRAINING_SETTINGS = {
    "fine_tune": ("learning_rate", "implementation", *_COMMON),
    "dpo": (
        *("loss", "beta", "chosen_weight", "label_smoothing", "length_margin"),
        *("learning_rate", "implementation", *_COMMON),
    ),
    "grpo": ("pairs", "learning_rate", *_COMMON),
}


class DeviceConfig(Section):
    """Where and how models compute; a GPU is used where there is one."""

    sampling: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="weights that engine: transformers samples with; auto: bfloat16 where it is faster"
    )
    training: Literal["float32", "bfloat16"] = Field(
        "float32", description="the LLM's weights in training; the adapter's are float32"
    )
    gradient_checkpointing: bool = Field(False, description="a third slower, for models that would not fit")
    micro_prompts: int = Field(2, ge=1, le=64, description="prompts of a training pass, two completions or pairs each")


class EvaluationConfig(Section):
    """The main table."""

    arms: Annotated[tuple[ArmName, ...], *SomeNames] = Field(tuple(ARMS), description="dpo_round_<r> is always added")
    uniform_arms: Annotated[tuple[ArmName, ...], *Names] = ("item", "template", "zero_shot")
    backbones: Annotated[tuple[BackboneName, ...], *SomeNames] = tuple(BACKBONES)
    ablations: Annotated[tuple[VariantName, ...], *Names] = Field(
        (), description="variants of round 1, judged on held-out pairs and by referees"
    )
    ladder: Annotated[tuple[RungName, ...], *Names] = Field(
        (), description="rungs of the ladder, what texts can give before any training (notebook 03)"
    )
    seeds: int = Field(5, ge=1, le=50)
    shared_seeds: int = Field(5, ge=1, le=50)
    repeats: int = Field(
        0,
        ge=0,
        le=20,
        description="times that round 1 is trained and its texts are drawn again: noise that is not of users",
    )
    most_samples: int | None = Field(None, ge=2, le=64, description="largest N of the sample analysis")
    bootstrap: int = Field(10000, ge=2000, le=10**6)
    workers: int = Field(2, ge=1, le=64, description="processes that train re-rankers, one thread each")

    @model_validator(mode="after")
    def _compared_arms(self):
        missing = [arm for arm in COMPARED if arm not in self.arms]
        if missing:
            raise ValueError(f"evaluation.arms lacks {', '.join(missing)}; the tables compare {', '.join(COMPARED)}.")
        return self


class Config(Section):
    """Everything a run depends on."""

    profile: str
    seed: int = Field(2026, ge=0, le=2**31 - 1)
    data: DataConfig = DataConfig()
    llm: LLMConfig = LLMConfig()
    encoder: EncoderConfig = EncoderConfig()
    reranker: RerankerConfig = RerankerConfig()
    reward: RewardConfig = RewardConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    device: DeviceConfig = DeviceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _texts_suffice(self):
        rungs = [
            ("ladder", name, RUNGS[name].count) for name in self.evaluation.ladder if RUNGS[name].source == "texts"
        ]
        arms = [("arms", name, ARMS[name].samples or 0) for name in self.evaluation.arms]
        for key, name, count in rungs + arms:
            if count > self.llm.evaluation_samples:
                raise ValueError(
                    f"evaluation.{key} names {name!r}, which needs {count} texts of every user; "
                    f"llm.evaluation_samples = {self.llm.evaluation_samples} is too few."
                )
        return self


def as_dict(config: Section) -> dict:
    """The resolved configuration as plain data, for records and keys; addresses without user, password and query."""
    return config.model_dump(mode="json")
