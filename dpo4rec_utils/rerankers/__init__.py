"""ID-based re-rankers with one knowledge adapter: DLCM, PRM, SetRank, MIR (the paper's) and DASALC.

Each backbone maps features of a candidate list (B, C, H) to scores (B, C); `KnowledgeReranker` builds the features from
ids, tags and adapted text knowledge and adds the explicit user-knowledge x item-knowledge interaction.
"""

import functools

from dpo4rec_utils.rerankers.adapter import HybridExpertAdapter, MLPAdapter
from dpo4rec_utils.rerankers.dasalc import DASALC
from dpo4rec_utils.rerankers.dlcm import DLCM
from dpo4rec_utils.rerankers.mir import MIR
from dpo4rec_utils.rerankers.model import KnowledgeReranker
from dpo4rec_utils.rerankers.prm import PRM
from dpo4rec_utils.rerankers.setrank import SetRank

BACKBONE_CLASSES = {"dlcm": DLCM, "prm": PRM, "setrank": SetRank, "mir": MIR, "dasalc": DASALC}
ADAPTER_CLASSES = {
    "hea": HybridExpertAdapter,
    "moe": functools.partial(HybridExpertAdapter, experts=(2, 0)),
    "mlp": MLPAdapter,
}


def build_reranker(backbone: str, config, tags, text: tuple[int, tuple[str, ...]]) -> KnowledgeReranker:
    """A re-ranker by name. `tags`: (I, G) float32 membership; `text`: width of the text vectors, and the user's inputs."""
    text_dim, users = text
    adapter = ADAPTER_CLASSES[config.adapter](text_dim, config.knowledge_dim, config.dropout, (*users, "item"))
    core = BACKBONE_CLASSES[backbone](config.hidden, config.heads, config.dropout)
    return KnowledgeReranker(core, adapter, config, tags, text)


__all__ = ["KnowledgeReranker", "build_reranker", "BACKBONE_CLASSES", "ADAPTER_CLASSES"]
