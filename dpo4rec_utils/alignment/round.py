"""One round of a loop: what it began with, what it was trained on, what it left."""

from dataclasses import dataclass

import pandas as pd

from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.rewards.model import RewardModel


@dataclass(frozen=True)
class Round:
    """One turn of a loop, `number` of 1, 2, ...

    before: the policy that it samples from and trains on; model: what rewarded its texts; pairs: the preference
    pairs of users whom steps may be trained on, `pairs.COLUMNS`; examples: what the policy was trained on, the pairs
    as they are or what the loop makes of them; after: the policy that it leaves; heldout: the pairs of held-out users
    that it is asked about, `probe.described_pairs`: its own, a control those of the headline's round of this number.
    loop: its name, or the variant's.
    """

    number: int
    before: Policy
    model: RewardModel
    pairs: pd.DataFrame
    examples: pd.DataFrame
    after: Policy
    heldout: pd.DataFrame
    loop: str = "dpo"
