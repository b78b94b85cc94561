"""Knowledge: prompts from facts, texts sampled from policies, templated profiles, and their vectors."""
