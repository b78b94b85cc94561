"""Seeds: one root seed; every other is derived from it by name."""

import hashlib

import numpy as np


def derive_seed(root: int, *names) -> int:
    """A seed in [0, 2^31) for the thing called `names`, from one root seed (SHA-256 of the names)."""
    digest = hashlib.sha256("/".join(map(str, (root, *names))).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def generator(root: int, *names) -> np.random.Generator:
    """A NumPy generator of its own for the thing called `names`."""
    return np.random.default_rng(derive_seed(root, *names))
