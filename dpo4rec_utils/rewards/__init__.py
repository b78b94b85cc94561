"""Rewards: a cross-fitted reward model, how reliable it is, and referees that never gave a reward."""
