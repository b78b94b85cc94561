"""Configuration: one YAML file a profile, read into frozen dataclasses; nothing else sets a knob.

An unknown key, a wrong type or a value out of range raises `ConfigError`, which names the key, the value and what is
allowed. `None` always means "not given": a typed value is never reinterpreted.
"""

import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

import yaml

from dpo4rec_utils.arms import ARMS, VARIANTS

PROFILES = Path(__file__).parent / "profiles"
BACKBONES = ("dlcm", "prm", "setrank", "mir", "dasalc")
PROTOCOLS = ("popularity", "uniform")
LOSSES = (
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
)
COMPARED = ("none", "item", "zero_shot", "random_pairs", "dpo_shuffled")


class ConfigError(ValueError):
    """A configuration problem, in one sentence a user can act on."""


def limited(default, low=None, high=None, choices=None, text=""):
    """A dataclass field with its allowed range `[low, high]` or `choices` (for a tuple: of every element)."""
    meta = {"low": low, "high": high, "choices": choices, "text": text}
    if isinstance(default, (list, dict)):
        raise TypeError("use a tuple: profiles are frozen")
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class DataConfig:
    """Histories, candidate lists and the user split (protocol: lists.py)."""

    name: str = limited("ml-100k", choices=("ml-100k", "ml-1m"), text="data set")
    max_users: int | None = limited(None, 20, 10**7, text="keep only this many users (by name hash); null keeps all")
    history_limit: int = limited(30, 5, 200, text="interactions the LLM reads at most")
    like_threshold: int = limited(4, 1, 5, text="rating from which an item counts as liked (label 1)")
    dislike_threshold: int = limited(2, 1, 5, text="rating up to which an item counts as disliked")
    positives_per_list: int = limited(4, 1, 20, text="later interactions that share one candidate list")
    negatives_per_list: int = limited(6, 1, 100, text="items never interacted with, added to each list")
    max_lists: int = limited(10, 1, 1000, text="lists a user, the nearest after the history")
    train_share: float = limited(0.6, 0.1, 0.9, text="share of users in train")
    validation_share: float = limited(0.1, 0.02, 0.5, text="share of users in validation; the rest is test")
    fold: int = limited(0, 0, 99, text="which users are test; the test users of two folds are never the same")


@dataclass(frozen=True)
class LLMConfig:
    """The language model and how it is sampled."""

    model: str = limited("embedded", text="'embedded' (SmolLM2-135M-Instruct), a local folder or a Hub id")
    engine: str = limited("openvino", choices=("openvino", "transformers"))
    prompt: str = limited("counts", choices=("counts", "titles"), text="user prompt template")
    train_samples: int = limited(8, 2, 64, text="texts of a user whose texts become pairs (N of the paper)")
    evaluation_samples: int = limited(4, 1, 64, text="texts of every other user")
    max_new_tokens: int = limited(40, 4, 512)
    temperature: float = limited(0.9, 0.05, 2.0)
    top_p: float = limited(0.95, 0.05, 1.0)
    shard_users: int = limited(96, 1, 10000, text="users a shard: what an interruption can lose")


@dataclass(frozen=True)
class EncoderConfig:
    """The sentence encoder."""

    model: str = limited("embedded", text="'embedded' (all-MiniLM-L6-v2), a local folder or a Hub id")
    pooling: str = limited("mean", choices=("mean", "cls"))
    batch_size: int = limited(64, 1, 4096)
    max_tokens: int = limited(96, 8, 512)


@dataclass(frozen=True)
class RerankerConfig:
    """Capacity and optimisation of a re-ranker; the same for every arm, so no arm gets a larger budget."""

    id_dim: int = limited(32, 2, 512)
    genre_dim: int = limited(16, 2, 512)
    knowledge_dim: int = limited(32, 2, 512, text="width of the adapted user and item knowledge")
    hidden: int = limited(64, 8, 1024)
    heads: int = limited(2, 1, 16)
    adapter: str = limited("hea", choices=("hea", "moe", "mlp"))
    interaction: bool = limited(True, text="explicit user-knowledge x item-knowledge interaction")
    learning_rate: float = limited(6e-3, 1e-6, 1.0, text="the highest of one cycle")
    weight_decay: float = limited(1e-2, 0.0, 1.0)
    dropout: float = limited(0.0, 0.0, 0.9, text="inside adapter and backbone")
    text_dropout: float = limited(0.5, 0.0, 0.9, text="of the user's text vector's elements: a user has few texts")
    batch_size: int = limited(256, 1, 65536, text="lists a step")
    epochs: int = limited(8, 1, 1000)


@dataclass(frozen=True)
class RewardConfig:
    """The reward model: a knowledge-augmented re-ranker, cross-fitted over user folds, averaged over seeds."""

    kind: str = limited("log_likelihood", choices=("log_likelihood", "ndcg", "map"))
    backbone: str = limited("prm", choices=BACKBONES)
    folds: int = limited(3, 2, 20)
    seeds: int = limited(2, 1, 20)
    templates: int = limited(8, 1, 64, text="randomised templated profiles a user in the mixture")
    referee_seeds: int = limited(2, 1, 20, text="seeds a backbone of the scorers that never gave a reward")


@dataclass(frozen=True)
class AlignmentConfig:
    """Warm start, pairs and DPO (trl + peft)."""

    rounds: int = limited(2, 1, 20)
    warm_start: bool = limited(True, text="supervised fine-tuning on templated profiles before round 1")
    warm_start_examples: int = limited(800, 8, 10**6)
    warm_start_learning_rate: float = limited(5e-4, 1e-7, 1.0, text="of supervised fine-tuning, rft included")
    warm_start_texts: int = limited(4, 1, 64, text="examples a user: they share the prompt's computation")
    pair_users: int | None = limited(
        None, 4, 10**7, text="train users whose texts become pairs, others each round; null: all of them"
    )
    pairs_per_user: int = limited(3, 1, 32, text="best/worst, second/second-worst, ...")
    pairs: int = limited(640, 4, 10**6, text="pairs kept a round, largest gap x sqrt(lists) first")
    margin: float = limited(0.0, 0.0, 10.0, text="smallest reward gap of a pair")
    finished_only: bool = limited(True, text="texts cut at llm.max_new_tokens make no pair, so length earns nothing")
    implementation: str = limited("prefix_shared", choices=("prefix_shared", "stock"))
    loss: str = limited("sigmoid", choices=LOSSES, text="trl's losses that need chosen and rejected texts alone")
    beta: float = limited(0.1, 1e-4, 10.0)
    label_smoothing: float = limited(0.0, 0.0, 0.5)
    learning_rate: float = limited(2e-4, 1e-7, 1.0, text="of DPO")
    batch_size: int = limited(16, 1, 4096)
    epochs: float = limited(1.0, 0.01, 100.0)
    lora_rank: int = limited(16, 1, 512)
    precision: str = limited("auto", choices=("auto", "fp32", "bf16"), text="'auto' times both GEMMs once")
    checkpoint_steps: int = limited(10, 1, 10**6)


# What each kind of training reads of `AlignmentConfig`: an adapter is made anew when one of these changes.
_COMMON = ("batch_size", "epochs", "lora_rank")
TRAINING_SETTINGS = {
    "warm_start": ("warm_start_learning_rate", "implementation", *_COMMON),
    "align": ("loss", "beta", "label_smoothing", "learning_rate", "implementation", *_COMMON),
    "grpo": ("pairs", "learning_rate", *_COMMON),
}


@dataclass(frozen=True)
class EvaluationConfig:
    """The main table."""

    arms: tuple[str, ...] = limited(tuple(ARMS), choices=tuple(ARMS), text="dpo_round_<r> is always added")
    uniform_arms: tuple[str, ...] = limited(("item", "template", "zero_shot"), choices=tuple(ARMS))
    backbones: tuple[str, ...] = limited(BACKBONES, choices=BACKBONES)
    ablations: tuple[str, ...] = limited((), choices=tuple(VARIANTS), text="variants judged by referees")
    folds: int = limited(
        1, 1, 100, text="user folds in the main table, each with a loop of its own: data.fold 0, 1, ..."
    )
    seeds: int = limited(5, 1, 50)
    shared_seeds: int = limited(5, 1, 50)
    most_samples: int | None = limited(None, 2, 64, text="largest N of the sample analysis; null: llm.train_samples")
    bootstrap: int = limited(10000, 2000, 10**6)
    workers: int = limited(2, 1, 64, text="processes that train re-rankers, one thread each")


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    profile: str
    seed: int = limited(2026, 0, 2**31 - 1)
    data: DataConfig = DataConfig()
    llm: LLMConfig = LLMConfig()
    encoder: EncoderConfig = EncoderConfig()
    reranker: RerankerConfig = RerankerConfig()
    reward: RewardConfig = RewardConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def allowed(spec) -> str:
    """Say in words what a field accepts."""
    meta = spec.metadata
    if meta.get("choices"):
        return "one of " + ", ".join(map(str, meta["choices"]))
    kind = getattr(spec.type, "__name__", str(spec.type))
    if meta.get("low") is not None or meta.get("high") is not None:
        return f"{kind} from {meta.get('low')} to {meta.get('high')}"
    return kind


def _typed(value, kind):
    """Return `value` as `kind`, or raise TypeError; an int passes for a float, a bool never for an int."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(value, next(k for k in typing.get_args(kind) if k is not type(None)))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        return tuple(_typed(v, typing.get_args(kind)[0]) for v in value)
    if kind is float and type(value) in (int, str):  # YAML reads 1e-4, without a dot, as a string
        try:
            return float(value)
        except ValueError:
            raise TypeError from None
    if type(value) is not kind:
        raise TypeError
    return value


def _build(cls, given, prefix=""):
    known = {f.name: f for f in fields(cls)}
    if not isinstance(given, dict):
        raise ConfigError(f"{prefix.rstrip('.')} = {given!r}: a mapping is expected; keys: {', '.join(known)}.")
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"Unknown key {prefix}{key} = {value!r}; allowed here: {', '.join(known)}.")
        spec = known[key]
        if is_dataclass(spec.type):
            values[key] = _build(spec.type, value, f"{prefix}{key}.")
            continue
        try:
            value = _typed(value, spec.type)
        except TypeError:
            raise ConfigError(f"{prefix}{key} = {value!r} has the wrong type; allowed: {allowed(spec)}.") from None
        for part in value if isinstance(value, tuple) else (value,):
            meta = spec.metadata
            low, high, choices = meta.get("low"), meta.get("high"), meta.get("choices")
            if part is not None and (
                (choices and part not in choices)
                or (low is not None and not part >= low)
                or (high is not None and not part <= high)
            ):
                raise ConfigError(f"{prefix}{key} = {value!r} is out of range; allowed: {allowed(spec)}.")
        values[key] = value
    return cls(**values)


def _merge(base: dict, over: dict) -> dict:
    return base | {
        k: _merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()
    }


def load_config(profile: str, overrides: dict | None = None) -> Config:
    """Read a profile by name, or by the path of a YAML file, and lay `overrides` (nested dict) over it.

    Raises `ConfigError` for an unknown profile, a malformed file, an unknown key, a wrong type or a value out of range.
    """
    names = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    path = Path(profile) if str(profile).endswith((".yaml", ".yml")) else PROFILES / f"{profile}.yaml"
    if not path.is_file():
        raise ConfigError(f"PROFILE = {profile!r} does not exist; allowed: {', '.join(names)}, or a YAML file's path.")
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(given, dict) or not isinstance(overrides or {}, dict):
        raise ConfigError(f"{path.name} and OVERRIDES must be mappings; keys: seed, data, llm, ... (see config.py).")
    config = _build(Config, _merge(given, overrides or {}) | {"profile": path.stem})
    if config.data.train_share + config.data.validation_share >= 1:
        raise ConfigError("data.train_share + data.validation_share must stay below 1: the rest is the test share.")
    others = 1 - config.data.validation_share
    folds = int(round(others / (others - config.data.train_share), 6))
    if config.data.fold >= folds:
        raise ConfigError(
            f"data.fold = {config.data.fold} is out of range; allowed with these shares: 0 to {folds - 1}."
        )
    if config.evaluation.folds > (1 if config.data.fold else folds):
        raise ConfigError(
            f"evaluation.folds = {config.evaluation.folds} is out of range; allowed: 1, or up to {folds} with these shares "
            "and data.fold = 0."
        )
    if config.llm.train_samples < config.llm.evaluation_samples:
        raise ConfigError(
            "llm.train_samples must be at least llm.evaluation_samples: their first texts are evaluated, too."
        )
    missing = [arm for arm in COMPARED if arm not in config.evaluation.arms]
    if missing:
        raise ConfigError(f"evaluation.arms lacks {', '.join(missing)}; the tables compare {', '.join(COMPARED)}.")
    return config


def notebook_parameters(namespace: dict) -> tuple[Config, bool]:
    """The configuration of a notebook and whether it makes what is missing, from its parameters cell.

    `namespace` is the notebook's `globals()` right after that cell, so any other plain value in it is a misspelt
    papermill parameter: an error, never a silent default.
    """
    plain, known = (str, int, float, bool, list, dict, type(None)), ("PROFILE", "OVERRIDES", "MAKE")
    ours = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in ("In", "Out")}
    for name, value in ours.items():
        if isinstance(value, plain) and name not in known:
            raise ConfigError(f"Unknown notebook parameter {name} = {value!r}; allowed: {', '.join(known)}.")
    making = namespace.get("MAKE", False)
    if not isinstance(making, bool):
        raise ConfigError(f"MAKE = {making!r} has the wrong type; allowed: True, False.")
    return load_config(namespace["PROFILE"], namespace.get("OVERRIDES")), making


def as_dict(config) -> dict:
    """The resolved configuration as plain data, for records and keys."""
    return asdict(config)
