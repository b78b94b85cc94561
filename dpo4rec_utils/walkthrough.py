"""One user in notebook 00: the prompt with its facts marked, texts with rewards, a ranking as a figure, and controls.

Nothing here is published. Everything works without ipywidgets, controls apart.
"""

import html
import re
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Image, display

from dpo4rec_utils.alignment.pairs import RewardedTexts, build_pairs, by_rules
from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.evidence import plots
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.engines import Completion, Sampler
from dpo4rec_utils.knowledge.facts import Facts
from dpo4rec_utils.knowledge.prompts import titled
from dpo4rec_utils.knowledge.repetition import is_repetitive
from dpo4rec_utils.rerankers.training import Task, Trained, load_reranker, score_texts
from dpo4rec_utils.rewards.values import list_rewards
from dpo4rec_utils.study import Study


def marked(prompt: str, facts: Facts) -> HTML:
    """The prompt with every fact that it states of the user marked (the paper's Figure 3); the rest is template."""
    counted = (*facts.liked, *facts.disliked, *facts.decades)
    stated = [*facts.titles, *(f"{name} {count}" for name, count in counted)]
    longest_first = sorted({html.escape(text) for text in stated}, key=len, reverse=True)
    page = html.escape(prompt)
    if longest_first:
        page = re.sub("|".join(map(re.escape, longest_first)), r"<mark>\g<0></mark>", page, flags=re.IGNORECASE)
    return HTML(f'<pre style="white-space: pre-wrap">{page}</pre>')


def shares(rewards: np.ndarray, beta: float) -> np.ndarray:
    """(N,) what each of a user's N texts gets under the policy that maximises reward minus beta times its divergence
    from the reference, pi_ref(y) exp(r(y) / beta), were all of them as likely under the reference (Rafailov et al.,
    arXiv 2305.18290, eq. 4)."""
    weights = np.exp((rewards - rewards.max()) / beta)
    return weights / weights.sum()


def ranking_figure(candidates: list[str], labels: np.ndarray, scores: dict[str, np.ndarray]) -> Image:
    """A list ranked by each of `scores` (name -> (C,)), a column each; liked candidates stand out."""
    ranks = {name: (-values).argsort().argsort() + 1 for name, values in scores.items()}
    figure, axis = plots.blank(9.2, 3.8)
    for row, candidate in enumerate(candidates):
        style = (
            {"color": plots.STYLES[0][1], "weight": "bold"} if labels[row] else {"color": "0.45", "weight": "normal"}
        )
        places = [ranks[name][row] for name in ranks]
        axis.plot(range(len(ranks)), places, marker="o", color=style["color"], linewidth=2 if labels[row] else 1)
        axis.text(-0.05, places[0], candidate, ha="right", va="center", fontsize=9, **style)
        axis.text(len(ranks) - 0.95, places[-1], candidate, ha="left", va="center", fontsize=9, **style)
    axis.set_xticks(range(len(ranks)), list(ranks))
    axis.set_yticks(range(1, len(candidates) + 1))
    axis.set(ylim=(len(candidates) + 0.5, 0.5), xlim=(-1.4, len(ranks) + 0.4), ylabel="rank")
    axis.grid(False)
    picture = plots.png(figure)
    plt.close(figure)
    return Image(picture, alt="Liked candidates are bold; a line joins a candidate's ranks.")


@dataclass(frozen=True)
class Walkthrough:
    """A study, an engine that samples texts, and a trained re-ranker that rewards them."""

    study: Study
    sampler: Sampler
    task: Task
    trained: Trained
    memory: dict[tuple[int, int], list[Completion]] = field(default_factory=dict)

    def user(self, number: int) -> int:
        """The position of the validation user of this number; raises `StudyError` for one that is not there."""
        users = self.study.data.cohort.of("validation")
        if not 0 <= number < len(users):
            raise StudyError(f"There is no validation user {number}; allowed: 0 to {len(users) - 1}.")
        return int(users[number])

    def lists(self, user: int) -> CandidateLists:
        """The user's candidate lists, popularity negatives."""
        return self.study.data.lists("popularity").of_users([user])

    def titles(self, items: np.ndarray) -> list[str]:
        """Titles of items, by position."""
        return [titled(self.study.data.dataset.items.iloc[item]) for item in items]

    def completions(self, user: int, number: int) -> list[Completion]:
        """`number` texts that the LLM writes about a user, the same each time: they are kept, because an engine that
        remembers a prompt may round otherwise when it is asked again."""
        if (user, number) not in self.memory:
            prompt = self.study.knowledge.prompts()[user]
            (self.memory[user, number],) = self.sampler.sample([prompt], [number], [self.study.seed])
        return self.memory[user, number]

    def scores(self, user: int, texts: list[str]) -> np.ndarray:
        """(L, N, C) scores of the user's L lists of C candidates with each of N texts."""
        knowledge, width = self.study.knowledge, self.task.user_vectors.shape[2]
        vectors = np.full((len(knowledge.users), len(texts), width), np.nan, np.float32)
        vectors[user] = self.study.encoder.encode([knowledge.prefix + text for text in texts])
        return score_texts(load_reranker(self.task, self.trained), self.task, self.lists(user), vectors)

    def pairs(self, user: int, completions: list[Completion], rewards: np.ndarray) -> pd.DataFrame:
        """The best of a user's N texts against the worst, by rewards (N,) and the study's rules for texts that were
        cut or repeat themselves; where no text may be chosen, by rewards alone. Empty where all earn the same."""
        prompt, config = self.study.knowledge.prompts()[user], self.study.config.alignment
        cut = np.array([not completion.finished for completion in completions])
        repetitive = np.array([is_repetitive(completion.text, prompt) for completion in completions])
        faults = [(config.unfinished, cut), (config.repetitive, repetitive)]
        ruled, choosable, lowest = by_rules(rewards, faults)
        if not choosable.any():
            ruled, choosable, lowest = rewards, ~choosable, np.zeros_like(lowest)
        rewarded = RewardedTexts(
            users=np.array([user]),
            prompts=[prompt],
            texts=[[completion.text for completion in completions]],
            rewards=ruled[None],
            list_counts=np.ones(1),
            choosable=choosable[None],
            lowest=lowest[None],
        )
        return build_pairs(rewarded, config.changed(pairs_per_user=1))

    def show(self, number: int, text: str, samples: int = 4, beta: float = 0.5) -> None:
        """A user's prompt, the LLM's texts and `text` with their rewards, the pair, and the first list ranked."""
        user, knowledge = self.user(number), self.study.knowledge
        lists, completions = self.lists(user), self.completions(user, samples)
        texts = [*(completion.text for completion in completions), f" {text.strip()}"]
        scores = self.scores(user, texts)
        reward = list_rewards(scores, lists.labels, "log_likelihood").mean(axis=0)
        by = [*("the LLM" if completion.finished else "the LLM, cut" for completion in completions), "you"]
        table = pd.DataFrame({"by": by, "text": texts, "reward": reward, "share": shares(reward, beta)})
        pairs = self.pairs(user, completions, reward[:samples])
        display(marked(knowledge.prompts()[user], knowledge.facts[user]))
        display(table.sort_values("reward", ascending=False).round(3))
        for pair in pairs.itertuples():
            print(f"chosen:   {pair.chosen.strip()}\nrejected: {pair.rejected.strip()}")
        rejected = int(pairs.rejected_sample[0]) if len(pairs) else int(reward[:samples].argmin())
        columns = {"with the rejected text": scores[0, rejected], "with yours": scores[0, -1]}
        display(ranking_figure(self.titles(lists.items[0]), lists.labels[0], columns))

    def controls(self, number: int, text: str):
        """Controls for JupyterLab that call `show` with what they are set to; a sentence where ipywidgets is absent."""
        try:
            import ipywidgets
        except ImportError:
            print("pip install ipywidgets for controls; without, change USER and TEXT in the parameters cell.")
            return None
        last = len(self.study.data.cohort.of("validation")) - 1
        return ipywidgets.interactive(
            self.show,
            number=ipywidgets.BoundedIntText(number, min=0, max=last, description="user"),
            text=ipywidgets.Textarea(text, description="your text", continuous_update=False),
            samples=ipywidgets.IntSlider(4, min=2, max=8, description="texts", continuous_update=False),
            beta=ipywidgets.FloatLogSlider(
                self.study.config.alignment.beta, base=10, min=-2, max=0, description="beta", continuous_update=False
            ),
        )
