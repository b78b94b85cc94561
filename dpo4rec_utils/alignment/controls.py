"""What a control of DPO may do with the pairs it is given."""

import numpy as np
import pandas as pd

from dpo4rec_utils.alignment.pairs import RewardedTexts


def within_rules(turned: pd.DataFrame, pairs: pd.DataFrame, rewarded: RewardedTexts) -> pd.DataFrame:
    """Pairs as a control has turned them, but for those whose chosen text may not be chosen
    (`RewardedTexts.choosable`): these stand as they did.

    A control without this rule is taught to ramble by what DPO never sees, and loses for that alone.
    """
    if rewarded.choosable is None:
        return turned
    row = pd.Series(np.arange(len(rewarded.users)), index=rewarded.users)
    allowed = rewarded.choosable[row[turned.user].to_numpy(), turned.chosen_sample.to_numpy()]
    result = pairs.copy()
    result.loc[allowed] = turned.loc[allowed]
    return result
