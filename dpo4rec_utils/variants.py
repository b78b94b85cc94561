"""Notebook 06: every variant of round 1, one entry each, and every change of the re-ranker; plain data that both the
making and the reading side import."""

from dataclasses import dataclass, field

# Fields of `RerankerConfig`, in PRM.
RERANKER_CHANGES = {
    "hea": {"adapter": "hea"},
    "moe": {"adapter": "moe"},
    "mlp": {"adapter": "mlp"},
    "hea-no-interaction": {"interaction": False},
}


def knowledge_backbones(configured: tuple[str, ...]) -> tuple[str, ...]:
    """The backbones of the arms that are notebook 06's alone: PRM and SetRank, where neither is configured all."""
    return tuple(name for name in ("prm", "setrank") if name in configured) or tuple(configured)


@dataclass(frozen=True)
class Variant:
    """Round 1 with one thing changed, judged on held-out pairs and by referees; or the zero-shot LLM asked otherwise
    (`prompt`).

    alignment, reward: fields of `AlignmentConfig` and `RewardConfig`. residual: a reward model that reads the history
    mean, too. llm_only: one that never read a template. addition: one that asks what a text adds to the mean of the
    user's others. samples: N texts of a user instead of `llm.train_samples`.
    grpo: the same texts and rewards without pairs.
    """

    name: str
    label: str
    alignment: dict = field(default_factory=dict)
    reward: dict = field(default_factory=dict)
    residual: bool = False
    llm_only: bool = False
    addition: bool = False
    samples: int | None = None
    grpo: bool = False
    prompt: str | None = None

    @property
    def orders_otherwise(self) -> bool:
        """Whether another reward than the round's orders its pairs."""
        return bool(self.reward) or self.residual or self.llm_only or self.addition


def _rewards() -> list[Variant]:
    """What a text is rewarded for, at any and at equal length, whatever the profile's own reward is."""
    variants = []
    for equal, end in ((False, "any"), (True, "equal")):
        length, words = {"equal_length": equal}, f"{end} length"
        variants += [
            Variant(f"realised_{end}", f"reward: realised, {words}", reward={"estimate": "realised"} | length),
            Variant(f"amortised_{end}", f"reward: amortised, {words}", reward={"estimate": "amortised"} | length),
            Variant(f"addition_{end}", f"reward: what it adds, {words}", reward=length, addition=True),
        ]
    return variants


def _form() -> list[Variant]:
    """What keeps texts short, whole and without repetition."""
    return [
        Variant("weight_0", "chosen text's likelihood, weight 0", {"chosen_weight": 0.0}),
        Variant("weight_1", "chosen text's likelihood, weight 1", {"chosen_weight": 1.0}),
        Variant("length_margin", "a margin that pays for length", {"length_margin": 0.02}),
        Variant("beta_0_1", "beta 0.1", {"beta": 0.1}),
        Variant("unfinished_paired", "unfinished texts as any others", {"unfinished": "paired"}),
        Variant("repetitive_paired", "repetitive texts as any others", {"repetitive": "paired"}),
        Variant("repetitive_rejected", "repetitive texts rejected", {"repetitive": "rejected"}),
    ]


def _losses() -> list[Variant]:
    """Losses of trl at two learning rates each; `ml-100k` is the sigmoid at the higher one."""
    variants = []
    for loss, label, more in (
        ("sigmoid", "sigmoid", {}),
        ("ipo", "IPO", {}),
        ("apo_zero", "APO zero", {}),
        ("exo_pair", "EXO", {"label_smoothing": 0.001}),
        ("sigmoid_norm", "sigmoid per token", {}),
    ):
        for name, rate in (("high", 1e-3), ("low", 3e-4))[loss == "sigmoid" :]:
            change = {"loss": loss, "learning_rate": rate} | more
            variants.append(Variant(f"{loss}_{name}", f"loss: {label}, rate {rate:g}", change))
    return variants


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("titles_prompt", "zero-shot, titles alone", prompt="titles"),
        Variant("demographics_prompt", "zero-shot, and age, gender, occupation", prompt="demographics"),
        Variant("embedding_reward", "reward: fit to the history mean", reward={"estimate": "embedding"}),
        Variant("residual_reward", "reward: beyond the history mean", residual=True),
        *_rewards(),
        Variant("ndcg_reward", "reward: NDCG", reward={"kind": "ndcg"}),
        Variant("map_reward", "reward: MAP", reward={"kind": "map"}),
        Variant("llm_only_reward", "reward model without templates", llm_only=True),
        *_form(),
        Variant("samples_2", "2 texts a user", samples=2),
        Variant("samples_4", "4 texts a user", samples=4),
        Variant("samples_16", "16 texts a user", samples=16),
        Variant("grpo", "GRPO, rate 0.001", {"learning_rate": 1e-3}, grpo=True),
        Variant("grpo_low", "GRPO, rate 0.0001", {"learning_rate": 1e-4}, grpo=True),
        *_losses(),
        Variant("one_pair_a_user", "one pair a user", {"pairs_per_user": 1}),
    )
}
