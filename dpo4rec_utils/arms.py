"""Every arm and loop: one entry each, plain data that both the making and the reading side import.

An arm is one kind of user knowledge, given to re-rankers of one kind. To add one, add its entry here and name it in a
profile's `evaluation.arms`. If its knowledge is made in a new way, add the maker to `comparison.MAKERS` and its word to
`Arm.user`; if its policy is trained on new examples, add the loop here, the word to `Loop.examples` and the examples to
`Study._examples`.
"""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from dpo4rec_utils.variants import VARIANTS


class Choices:
    """A dataclass whose fields of type `Literal` hold one of its words: any other is a `ValueError` when it is made."""

    def __post_init__(self):
        for name, kind in get_type_hints(type(self)).items():
            value, words = getattr(self, name), get_args(kind)
            if get_origin(kind) is Literal and value not in words:
                raise ValueError(f"{type(self).__name__}.{name} = {value!r}; allowed: {', '.join(map(str, words))}")


def _named(*entries) -> dict:
    """Entries by their names."""
    return {entry.name: entry for entry in entries}


@dataclass(frozen=True)
class Loop(Choices):
    """A way to align the LLM, round after round; all have the same users, rounds and number of examples.

    Every loop samples, rewards and pairs its own policies' texts. start: the policy before round 1, as configured
    (`alignment.warm_start`) or always the same. rewards: what its texts are paired by, all else being equal: users'
    'lists', as the configuration says; 'random' numbers; or their 'length' in tokens (`alignment.controls`). examples:
    what it is trained on: its 'pairs', the 'chosen' texts of them alone, or full 'templates' of the same users; the
    last two are learnt by supervised fine-tuning. residual: its reward model reads the history mean, too, so that a
    text earns what it adds.
    """

    name: str
    label: str
    start: Literal["configured", "zero_shot", "warm_start"] = "configured"
    rewards: Literal["lists", "random", "length"] = "lists"
    examples: Literal["pairs", "chosen", "templates"] = "pairs"
    residual: bool = False

    @property
    def control(self) -> bool:
        """Whether it is trained on something else than pairs by users' lists."""
        return self.rewards != "lists" or self.examples != "pairs"

    def starts_at(self, warm_start: bool) -> str:
        """The name of the policy before round 1; `warm_start`: whether the configuration has one before it."""
        if self.start == "configured":
            return "warm_start" if warm_start else "zero_shot"
        return self.start

    @property
    def supervised(self) -> bool:
        """Whether it fine-tunes on single texts."""
        return self.examples in ("chosen", "templates")


LOOPS = _named(
    Loop("dpo", "DPO"),
    Loop("random_labels", "random labels", rewards="random"),
    Loop("longer_wins", "longer wins", rewards="length"),
    Loop("rft", "best of N", examples="chosen"),
    Loop("template_sft", "templates imitated", examples="templates"),
    Loop("dpo_cold", "DPO, no warm start", start="zero_shot"),
    Loop("dpo_warm", "DPO from the warm start", start="warm_start"),
    Loop("dpo_residual", "DPO, residual reward", residual=True),
)


@dataclass(frozen=True)
class Arm(Choices):
    """One arm of the tables.

    label: its words in figures. question: what it answers. user: the maker of the user's vectors
    (`comparison.MAKERS`). policy: whose texts, for makers that read texts: a policy's name, or a loop's for that
    after its last round. samples: so many texts of a user instead of `llm.evaluation_samples`. as_long_as: the
    policy or loop whose texts give the length that this one's are cut to. item: where item text is from. history:
    whether re-rankers read the history mean as a second user input. against: the arms it is compared with, where
    both are there. baseline: its place among the arms that the last round is compared with; None: it is not.
    shared: 'trained' (shared scorers are trained on its texts), 'scored' (they only score them) or 'no' (its inputs
    are others than theirs). judged: referees read it beside the rounds of every
    loop, which they always read.
    """

    name: str
    label: str
    question: str
    user: Literal["nothing", "template", "history_mean", "shown_mean", "texts", "cut", "shuffled", "noise"]
    policy: str | None = None
    samples: int | None = None
    as_long_as: str | None = None
    item: Literal["catalogue", "llm", "nowhere"] = "catalogue"
    history: bool = False
    against: tuple[str, ...] = ()
    baseline: int | None = None
    shared: Literal["trained", "scored", "no"] = "trained"
    judged: bool = False

    @property
    def loop(self) -> str | None:
        """The loop that its policy is of; None for policies before any round."""
        return self.policy.partition("_round_")[0] if self.policy not in (None, "zero_shot", "warm_start") else None


def _on_top(added: str, label: str, question: str, policy: str | None, against: tuple[str, ...] = ()) -> Arm:
    """The history mean and one more user input; `against`: what it is compared with beside the history mean alone."""
    return Arm(
        name=f"history_mean+{added}",
        label=f"history mean + {label}",
        question=question,
        user={"template": "template", "dpo_shuffled": "shuffled"}.get(added, "texts"),
        policy=policy,
        history=True,
        against=("history_mean", *against),
        shared="no",
    )


def _texts(name: str, label: str, question: str, policy: str, **more) -> Arm:
    """An arm whose user knowledge is the texts of a policy."""
    return Arm(name, label, question, "texts", policy, **more)


ARMS = _named(
    Arm("none", "ids only", "what the ID-based re-ranker does", "nothing", item="nowhere", shared="no"),
    Arm("item", "item text", "what item text gives by itself", "nothing", against=("none",), baseline=12),
    Arm(
        name="template",
        label="template",
        question="does the LLM add anything to stating facts?",
        user="template",
        against=("item",),
        baseline=9,
        judged=True,
    ),
    Arm(
        name="shown_mean",
        label="mean of items shown",
        question="how much signal the prompt's items hold",
        user="shown_mean",
        against=("item",),
        baseline=10,
    ),
    Arm(
        name="history_mean",
        label="history mean",
        question="how much signal the whole history holds",
        user="history_mean",
        against=("item",),
        baseline=11,
    ),
    _texts("zero_shot", "zero-shot LLM", "the usual practice (KAR)", "zero_shot", against=("item",), baseline=1),
    _texts(
        name="warm_start",
        label="warm start",
        question="what imitating templates gives",
        policy="warm_start",
        against=("zero_shot",),
        baseline=7,
        judged=True,
    ),
    _texts("random_labels", "random labels", "is it the preference?", "random_labels", baseline=3),
    _texts("longer_wins", "longer wins", "is it more than length?", "longer_wins", baseline=4),
    _texts("rft", "best of N", "is a contrast needed?", "rft", baseline=5),
    _texts(
        name="template_sft",
        label="templates imitated",
        question="is it more than imitating a template?",
        policy="template_sft",
        baseline=6,
    ),
    _texts(
        name="dpo_cold",
        label="DPO, no warm start",
        question="what does DPO give without a warm start?",
        policy="dpo_cold",
        against=("zero_shot",),
        baseline=14,
    ),
    _texts(
        name="dpo_warm",
        label="DPO from the warm start",
        question="does DPO need to start from the LLM as it comes?",
        policy="dpo_warm",
        against=("warm_start",),
        baseline=8,
    ),
    _texts(
        name="item_llm",
        label="item text by the LLM",
        question="do the LLM's item facts help?",
        policy="dpo",
        item="llm",
        baseline=13,
        shared="no",
    ),
    Arm(
        name="dpo_shuffled",
        label="another user's text",
        question="is it about this user?",
        user="shuffled",
        policy="dpo",
        baseline=2,
        shared="scored",
        judged=True,
    ),
    _texts("one_text", "one text a user", "do more texts a user help?", "dpo", samples=1, baseline=15, shared="no"),
    _texts("two_texts", "two texts a user", "do two texts do it?", "dpo", samples=2, shared="no"),
    _on_top("zero_shot", "zero-shot", "does the LLM add to the history?", "zero_shot"),
    _on_top("template", "template", "does a template add to the history?", None),
    _on_top("dpo_shuffled", "another user's text", "is it a second input, whatever it says?", "dpo"),
    _on_top(
        added="dpo",
        label="last round",
        question="does the aligned LLM add to the history?",
        policy="dpo",
        against=("history_mean+zero_shot", "history_mean+template", "history_mean+dpo_shuffled"),
    ),
    _on_top(
        added="dpo_residual",
        label="residual reward",
        question="and if it is rewarded for what it adds?",
        policy="dpo_residual",
        against=("history_mean+dpo", "history_mean+dpo_shuffled"),
    ),
)
# What the last round is compared with, in the order of the tables.
BASELINES = tuple(sorted((a.name for a in ARMS.values() if a.baseline), key=lambda name: ARMS[name].baseline))


def _both_cut(policy: str, other: str, question: str) -> list[Arm]:
    """The texts of two policies, each cut to the shorter of the two of its user and number. Those of `policy` are
    compared with the other's and with their own whole."""
    words = {name: "last round" if name == "dpo" else ARMS[name].label for name in (policy, other)}
    against = {policy: (f"{other}_cut_to_{policy}", policy)}
    return [
        Arm(
            name=f"{name}_cut_to_{length}",
            label=f"{words[name]}, cut to {words[length]}",
            question=question,
            user="cut",
            policy=name,
            as_long_as=length,
            against=against.get(name, ()),
        )
        for name, length in ((policy, other), (other, policy))
    ]


# Arms of notebook 06 alone.
ABLATION_ARMS = _named(
    Arm("user", "user text", "user text without item text", "texts", "dpo", item="nowhere"),
    Arm("noise", "random words", "as many random words as the user's own text has", "noise", "dpo"),
    *_both_cut("dpo", "warm_start", "does it say more in as many words?"),
    *_both_cut("dpo", "random_labels", "and more than a policy trained on chance?"),
    *_both_cut("longer_wins", "dpo", "does a preference for length say as much?"),
)


def round_name(number: int, loop: str = "dpo") -> str:
    """The name of the arm and of the policy after round `number` (1, 2, ...) of a loop."""
    return f"{loop}_round_{number}"


REPEATED = "repeated"  # the label of their records
LENGTH = "length"  # and that of the records of cut texts
REPEATS = {"drawn": "texts drawn again", "trained": "round trained again"}


def repeat_name(kind: str, number: int) -> str:
    """The name of round 1's policy with its texts drawn, or itself trained, for another time."""
    return f"{round_name(1)}_{kind}_{number}"


def arm(name: str) -> Arm:
    """An arm by name, rounds and ablation arms included; raises `KeyError` for a name that is none."""
    loop, _, number = name.partition("_round_")
    if number.isdigit():
        words = f"{LOOPS[loop].label} round {number}"
        return Arm(name, words, f"{LOOPS[loop].label} after round {number}", "texts", name)
    return (ARMS | ABLATION_ARMS)[name]


def label(name: str) -> str:
    """The words that stand for an arm, a loop, a policy or a variant in figures and pages."""
    if name in VARIANTS:
        return VARIANTS[name].label
    return LOOPS[name].label if name in LOOPS and name not in ARMS else arm(name).label


def cut_arms(arms: list[str]) -> list[Arm]:
    """The arms of cut texts whose two policies are among these arms; the last round is in every profile."""
    there = {"dpo", *arms}
    return [a for a in ABLATION_ARMS.values() if a.as_long_as in there and a.policy in there]


def trained_loops(arms: list[str]) -> list[str]:
    """The loops that these arms need, the headline's first."""
    loops = [ARMS[name].loop for name in arms]
    return list(dict.fromkeys(["dpo", *(loop for loop in loops if loop)]))


def table_arms(evaluation: dict, alignment: dict, protocol: str = "popularity") -> list[str]:
    """The arms of a protocol's table, in the order they are shown; none of a protocol that no arm is asked for.

    `evaluation` and `alignment`: these parts of a resolved configuration, as plain data.
    """
    names = list(evaluation["arms"] if protocol == "popularity" else evaluation["uniform_arms"])
    rounds = [round_name(number) for number in range(1, alignment["rounds"] + 1)]
    return names + (rounds if protocol == "popularity" else rounds[-1:] if names else [])


def comparisons(names: list[str], last: str, start: str) -> list[tuple[str, str]]:
    """(arm, baseline) pairs that the study asks about, where both are among `names`: the last round, of name `last`,
    and its baselines; every round and the policy before it, the first one's of name `start`; arms and what they are
    against."""
    loop, _, number = last.partition("_round_")
    turns = [start, *(round_name(turn, loop) for turn in range(1, int(number) + 1))]
    pairs = [(last, baseline) for baseline in BASELINES] + list(zip(turns[1:], turns, strict=False))
    pairs = list(dict.fromkeys(pairs))  # with one round the policy before the last is a baseline, too
    pairs += [(name, baseline) for name in reversed(ARMS) for baseline in ARMS[name].against]
    return [(a, b) for a, b in pairs if a in names and b in names]
