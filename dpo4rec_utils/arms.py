"""Every arm, control and variant: one entry each, plain data that both the making and the reading side import.

An arm is one kind of user knowledge given to the same re-rankers. To add one, add its entry here; if its knowledge is made
in a new way, add the maker to `study.MAKERS` under the name that `user` gives. Nothing else lists arms.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arm:
    """One arm of the tables.

    label: its words in figures. question: what it answers. user: the maker of the user's text vectors (`study.MAKERS`).
    policy: whose texts, for makers that read texts; 'last' is the policy after the last round. item: whether re-rankers
    get item text. against: the arms it is compared with, where both are there. shared: whether its texts are in the
    shared scorers' training.
    """

    name: str
    label: str
    question: str
    user: str
    policy: str | None = None
    item: bool = True
    against: tuple[str, ...] = ()
    shared: bool = True


ARMS = {
    arm.name: arm
    for arm in (
        Arm("none", "ids only", "what the ID-based re-ranker does", "nothing", item=False, shared=False),
        Arm("item", "item text", "what item text gives by itself", "nothing", against=("none",)),
        Arm("template", "template", "does the LLM add anything to stating facts?", "template", against=("item",)),
        Arm("history_mean", "history mean", "how much signal the history holds", "history_mean", against=("item",)),
        Arm("zero_shot", "zero-shot LLM", "the usual practice (KAR)", "texts", "zero_shot", against=("item",)),
        Arm("warm_start", "warm start", "what imitation gives", "texts", "warm_start", against=("zero_shot",)),
        Arm("rft", "best-of-N fine-tuning", "is a contrast needed?", "texts", "rft"),
        Arm("random_pairs", "random pairs", "is the reward needed?", "texts", "random_pairs"),
        Arm("dpo_cold", "DPO, no warm start", "the paper's path", "texts", "dpo_cold", against=("zero_shot",)),
        Arm("dpo_shuffled", "another user's text", "is it about this user?", "shuffled", "last", shared=False),
    )
}
# What the last round is compared with, in the order of the tables.
BASELINES = ("zero_shot", "dpo_shuffled", "random_pairs", "rft", "warm_start", "template", "history_mean", "item")
# Arms of notebook 06 alone.
ABLATION_ARMS = {
    arm.name: arm
    for arm in (
        Arm("user", "user text", "user text without item text", "texts", "last", item=False),
        Arm("noise", "random words", "as many random words as the user's own text has", "noise", "last"),
    )
}


@dataclass(frozen=True)
class Variant:
    """Round 1 with one thing changed, judged by referees; or the zero-shot LLM asked otherwise (`prompt`).

    alignment: fields of `AlignmentConfig`. reward: the kind of reward that makes the pairs. llm_only: a reward model that
    never read a template. samples: the first N texts of a user. grpo: the same texts and rewards without pairs.
    """

    name: str
    label: str
    alignment: dict = field(default_factory=dict)
    reward: str | None = None
    llm_only: bool = False
    samples: int | None = None
    grpo: bool = False
    prompt: str | None = None


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("titles_prompt", "zero-shot, titles alone", prompt="titles"),
        Variant("ndcg_reward", "reward: NDCG", reward="ndcg"),
        Variant("map_reward", "reward: MAP", reward="map"),
        Variant("llm_only_reward", "reward model without templates", llm_only=True),
        Variant("samples_2", "2 texts a user", samples=2),
        Variant("samples_4", "4 texts a user", samples=4),
        Variant("grpo", "GRPO", grpo=True),
        Variant("ipo", "loss: IPO", {"loss": "ipo"}),
        Variant("hinge", "loss: hinge", {"loss": "hinge"}),
        Variant("robust", "loss: robust", {"loss": "robust", "label_smoothing": 0.1}),
        Variant("exo_pair", "loss: EXO", {"loss": "exo_pair", "label_smoothing": 0.001}),
        Variant("nca_pair", "loss: NCA", {"loss": "nca_pair"}),
        Variant("aot", "loss: AOT", {"loss": "aot"}),
        Variant("apo_zero", "loss: APO zero", {"loss": "apo_zero"}),
        Variant("apo_down", "loss: APO down", {"loss": "apo_down"}),
        Variant("discopop", "loss: DiscoPOP", {"loss": "discopop"}),
        Variant("sigmoid_norm", "loss: sigmoid per token", {"loss": "sigmoid_norm"}),
        Variant("smoothing_0.1", "label smoothing 0.1", {"label_smoothing": 0.1}),
        Variant("beta_0.03", "beta 0.03", {"beta": 0.03}),
        Variant("beta_0.3", "beta 0.3", {"beta": 0.3}),
        Variant("margin_0.02", "reward gap above 0.02", {"margin": 0.02}),
        Variant("one_pair_a_user", "one pair a user", {"pairs_per_user": 1}),
        Variant("any_length", "pairs of unfinished texts too", {"finished_only": False}),
    )
}


def round_name(number: int) -> str:
    """The name of the arm and of the policy after DPO round `number` (1, 2, ...)."""
    return f"dpo_round_{number}"


def arm(name: str) -> Arm:
    """An arm by name, rounds and ablation arms included; raises `KeyError` for a name that is none."""
    number = name.removeprefix("dpo_round_")
    if name != number and number.isdigit():
        return Arm(name, f"DPO round {number}", f"DPO4Rec after round {number}", "texts", name)
    return (ARMS | ABLATION_ARMS)[name]


def label(name: str) -> str:
    """The words that stand for an arm, a policy or a variant in figures and pages."""
    return VARIANTS[name].label if name in VARIANTS else arm(name).label


def table_arms(evaluation: dict, alignment: dict, protocol: str = "popularity") -> list[str]:
    """The arms of a protocol's table, in the order they are shown; none of a protocol that no arm is asked for.

    `evaluation` and `alignment`: these parts of a resolved configuration, as plain data.
    """
    names = list(evaluation["arms"] if protocol == "popularity" else evaluation["uniform_arms"])
    if not alignment["warm_start"]:
        names = [name for name in names if name != "warm_start"]
    rounds = [round_name(number) for number in range(1, alignment["rounds"] + 1)]
    return names + (rounds if protocol == "popularity" else rounds[-1:] if names else [])


def comparisons(names: list[str], last: str) -> list[tuple[str, str]]:
    """(arm, baseline) pairs that the study asks about, where both are among `names`; `last`: the last round's name."""
    asked = [(last, baseline) for baseline in BASELINES]
    for name in ("dpo_cold", "warm_start", "zero_shot", "template", "history_mean", "item"):
        asked += [(name, baseline) for baseline in ARMS[name].against]
    return [(a, b) for a, b in asked if a in names and b in names]
