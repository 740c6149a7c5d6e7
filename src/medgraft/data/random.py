"""Counter-based randomness: a draw is a function of (seed, purpose, counters) and of nothing else.

Nothing here keeps state between draws, so a resumed run, another number of workers or another order
of asking gives the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_WORD = (1 << 64) - 1


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator that depends on ``seed``, ``purpose`` and up to three counters only.

    Philox (Salmon et al., SC 2011): the key is a hash of seed and purpose, the counters are the upper
    three words of its 256-bit counter; the lowest word counts the numbers drawn, so two generators
    with different counters never overlap. Counters must lie in 0 .. 2**64 - 1.
    """
    if len(counters) > 3:
        raise ValueError(f"at most three counters, not {len(counters)}")
    if any(not 0 <= c <= _WORD for c in counters):
        raise ValueError(f"counters must lie in 0 .. 2**64 - 1: {counters}")
    return np.random.Generator(
        np.random.Philox(counter=[0, *counters, *[0] * (3 - len(counters))], key=_key(seed, purpose))
    )


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = _digest(f"{int(seed)}\0{purpose}", 16)
    return digest & _WORD, digest >> 64


def _digest(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "little")


def torch_seed(seed: int, step: int) -> int:
    """The seed for torch's own generator (dropout) at a step, in 0 .. 2**63 - 1."""
    return _digest(f"torch\0{int(seed)}\0{int(step)}", 8) >> 1


def stream_index(seed: int, n: int, length: int, purpose: str = "order") -> int:
    """Element ``n mod length`` of permutation ``n div length``: an endless stream of full epochs.

    Each run of ``length`` elements starting at a multiple of ``length`` is a permutation of
    ``0 .. length - 1``. The last permutations are kept, so walking along the stream costs nothing.
    """
    if length < 1 or n < 0:
        raise ValueError(f"a stream needs length >= 1 and n >= 0, not {length} and {n}")
    return int(_permutation(seed, purpose, n // length, length)[n % length])


@lru_cache(maxsize=64)
def _permutation(seed: int, purpose: str, epoch: int, length: int) -> np.ndarray:
    order = generator(seed, purpose, epoch).permutation(length)
    order.setflags(write=False)
    return order


def balanced_index(seed: int, n: int, groups: Sequence[Sequence[int] | np.ndarray]) -> int:
    """Element ``n`` of a stream in which every group (class) comes up equally often.

    Each run of ``len(groups)`` elements holds one member of every group, in a random order; the
    members of a group come in full permutations. Empty groups are left out.
    """
    members = [group for group in groups if len(group)]
    if not members:
        raise ValueError("balanced sampling needs a group with members")
    turn, place = divmod(n, len(members))
    which = int(_permutation(seed, "balance", turn, len(members))[place])
    return int(members[which][stream_index(seed, turn, len(members[which]), f"balance {which}")])
