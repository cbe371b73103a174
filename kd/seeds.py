"""Random seeds: every random generator in Retort gets its seed from `derive_seed`."""

import hashlib
import json


def derive_seed(study_seed: int, purpose: str, *parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every argument and on nothing else.

    `purpose` names what the seed is for ("initialisation", "order", "view", …); `parts` are the
    trial, replicate, epoch or arm. SHA-256 keeps neighbouring arguments unrelated, which additive
    schemes such as seed + trial do not.
    """
    text = json.dumps([study_seed, purpose, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
