"""DPO4Rec, a reproducible study: direct preference optimisation for LLM-enhanced recommendation.

A folder a notebook, imports that point one way; docs/architecture.md is the map, study.py the place to start reading.

Paper: Sun et al., "Direct Preference Optimization for LLM-Enhanced Recommendation Systems", arXiv 2410.05939.
"""

__version__ = "0.2.0"

INTERRUPTED = 130  # the exit code of a command that was interrupted: 128 and the signal's number
INTERRUPTED_SENTENCE = "dpo4rec: interrupted; what is finished is kept in runs/, run the same command to go on."
