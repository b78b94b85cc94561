"""ID-based re-rankers with one knowledge adapter: DLCM, PRM, SetRank, MIR (the paper's) and DASALC,
`registries.BACKBONES`.

Each backbone maps features of a candidate list (B, C, H) to scores (B, C); `model.KnowledgeReranker` builds the
features from ids, tags and adapted text knowledge and adds the explicit user-knowledge x item-knowledge interaction.
"""
