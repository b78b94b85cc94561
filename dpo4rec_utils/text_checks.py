"""What the policies' texts say, checked: guards, fit to their own user, words gained and lost, distance moved."""

import pandas as pd

from dpo4rec_utils.alignment.log_probs import log_ratio_stage
from dpo4rec_utils.knowledge.guards import guards_stage, mean_likes, similarity_stage, words_stage
from dpo4rec_utils.study import Study

MOST_USERS = 32  # whose texts estimate how far a policy has moved


def check_texts(study: Study, names: list[str]) -> None:
    """Guards of validation users' texts, of policies by name and of 'template'."""
    users = study.data.cohort.of("validation")
    for name in names:
        if name == "template":
            drawn = study.knowledge.template_texts(study.config.llm.evaluation_samples, full=True)
            table = pd.DataFrame([(u, text) for u in users for text in drawn[u]], columns=["user", "text"])
        else:
            table = study.knowledge.texts(study.policy(name))
            table = table[table.user.isin(users)]
        study.store.make(guards_stage(study.knowledge, name, table))


def check_similarity(study: Study) -> None:
    """The first zero-shot text of each user against what this user and another one liked."""
    first = study.knowledge.vectors(study.zero_shot, samples=1)[:, 0]
    study.store.make(similarity_stage(first, mean_likes(study.knowledge), study.data.shuffled_users()))


def check_changes(study: Study) -> None:
    """Words gained and lost from the start to the last round, and nats a text that each round's policy has moved."""
    few, start, last = study.config.llm.evaluation_samples, study.start, study.policy("last")
    named = []
    for policy in (start, last):
        table = study.knowledge.texts(policy)
        named.append((policy.name, table.text[table["sample"] < few]))
    study.store.make(words_stage(*named))
    users, prompts = list(study.data.cohort.of("validation"))[:MOST_USERS], study.knowledge.prompts()
    for number in range(1, study.config.alignment.rounds + 1):
        policy = study.round(number).after
        table = study.knowledge.texts(policy)
        table = table[(table["sample"] == 0) & table.user.isin(users)]
        study.store.make(log_ratio_stage(policy, start, [prompts[u] for u in table.user], list(table.text)))
