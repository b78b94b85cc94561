"""Every arm, control and variant: one entry each, plain data that both the making and the reading side import.

An arm is one kind of user knowledge given to the same re-rankers. To add one, add its entry here and name it in a profile's
`evaluation.arms`. If its knowledge is made in a new way, add the maker to `comparison.MAKERS`; if its policy is trained in a
new way, add it to `study.POLICIES`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arm:
    """One arm of the tables.

    label: its words in figures. question: what it answers. user: the maker of the user's text vectors (`comparison.MAKERS`).
    policy: whose texts, for makers that read texts; 'last' is the policy after the last round. item: whether re-rankers
    get item text. against: the arms it is compared with, where both are there. baseline: its place among the arms that the
    last round is compared with; None: it is not. shared: whether its texts are in the shared scorers' training (a new arm
    with it changes every shared number). control: its policy is trained in round 1 beside DPO. judged: referees read it.
    """

    name: str
    label: str
    question: str
    user: str
    policy: str | None = None
    item: bool = True
    against: tuple[str, ...] = ()
    baseline: int | None = None
    shared: bool = True
    control: bool = False
    judged: bool = False


ARMS = {
    arm.name: arm
    for arm in (
        Arm("none", "ids only", "what the ID-based re-ranker does", "nothing", item=False, shared=False),
        Arm("item", "item text", "what item text gives by itself", "nothing", against=("none",), baseline=8),
        Arm(
            *("template", "template", "does the LLM add anything to stating facts?", "template"),
            against=("item",),
            baseline=6,
            judged=True,
        ),
        Arm(
            *("history_mean", "history mean", "how much signal the history holds", "history_mean"),
            against=("item",),
            baseline=7,
        ),
        Arm(
            *("zero_shot", "zero-shot LLM", "the usual practice (KAR)", "texts", "zero_shot"),
            against=("item",),
            baseline=1,
        ),
        Arm(
            *("warm_start", "warm start", "what imitating templates gives", "texts", "warm_start"),
            against=("zero_shot",),
            baseline=5,
        ),
        Arm(
            *("rft", "best of N, one round", "is a contrast needed?", "texts", "rft"),
            baseline=4,
            control=True,
            judged=True,
        ),
        Arm(
            *("random_pairs", "random pairs, one round", "is the reward needed?", "texts", "random_pairs"),
            baseline=3,
            control=True,
            judged=True,
        ),
        Arm(
            *("dpo_cold", "DPO, no warm start", "the paper's path, one round", "texts", "dpo_cold"),
            against=("zero_shot",),
            control=True,
            judged=True,
        ),
        Arm(
            *("dpo_shuffled", "another user's text", "is it about this user?", "shuffled", "last"),
            baseline=2,
            shared=False,
            judged=True,
        ),
    )
}
# What the last round is compared with, in the order of the tables.
BASELINES = tuple(sorted((a.name for a in ARMS.values() if a.baseline), key=lambda name: ARMS[name].baseline))
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
    asked += [(name, baseline) for name in reversed(ARMS) for baseline in ARMS[name].against]
    return [(a, b) for a, b in asked if a in names and b in names]
