"""DPO4Rec, a reproducible study: direct preference optimisation for LLM-enhanced recommendation.

One module a stage, in the order data flows; a module imports only from those above it:

config, artifacts, assets, datasets, lists, metrics, prompts, policies, sampling, encoding, knowledge, rerankers, training,
rewards, preferences, alignment, statistics, study, evaluation, referees, tables, guards, understanding, plots, reports, cli.

Paper: Sun et al., "Direct Preference Optimization for LLM-Enhanced Recommendation Systems", arXiv 2410.05939.
"""

__version__ = "0.1.0"
