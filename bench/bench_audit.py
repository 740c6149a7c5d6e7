"""Audit: how fast pictures are hashed and compared, and how much memory that takes.

    python bench/bench_audit.py [pictures=20000] [size=512]

Pictures are simulated: what all share, what is their own, a hundred copies (re-encoded by noise) among them. Hashing
reads stored arrays of ``size`` squared (made once, a few hundred of them); comparing sees ``pictures`` of them.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medgraft import store
from medgraft.audit import fingerprint

asked = dict(word.split("=") for word in sys.argv[1:])
pictures, size = int(asked.get("pictures", 20000)), int(asked.get("size", 512))
rng = np.random.default_rng(0)


def peak() -> float:
    """Most memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


with tempfile.TemporaryDirectory() as folder:
    few = 200
    row = {"view_center": None, "view_size": None, "kind": "image", "value_unit": "display", "p005": 0.0, "p995": 255.0}
    ids = [
        store.write_array(folder, rng.integers(0, 256, (1, 1, size, size), dtype=np.uint8)).array_id for _ in range(few)
    ]
    began = time.perf_counter()
    for array_id in ids:
        fingerprint.read_records(store.open_array(Path(folder), array_id), {**row, "array_id": array_id})
        store.release(folder, array_id)
    seconds = time.perf_counter() - began
    print(f"hashing: {few / seconds:.0f} images/s ({size}x{size}, 8 bit, one thread)")

side = fingerprint.SIDE
slow = fingerprint._cosines(side, 24).T  # pictures made of 24 slow frequencies, falling off as natural ones do
fall = 1.0 / (1 + np.hypot(*np.mgrid[:24, :24])) ** 1.5
shared = rng.normal(0, 1.0, (24, 24)) * fall * 3


def draw(weights: np.ndarray) -> np.ndarray:
    """Grey pictures (n, 1, side, side) from weights of frequencies (n, 24, 24)."""
    found = np.einsum("ya,nab,xb->nyx", slow, weights, slow)
    low, high = found.min(axis=(1, 2), keepdims=True), found.max(axis=(1, 2), keepdims=True)
    return np.round((found - low) / (high - low) * 255).astype(np.uint8)[:, None]


grey = np.concatenate(
    [draw(shared + rng.normal(0, 1.0, (min(2048, pictures - i), 24, 24)) * fall) for i in range(0, pictures, 2048)]
)
copies = rng.choice(pictures // 2, 100, replace=False)
grey[pictures - 100 :] = np.clip(grey[copies].astype(int) + rng.normal(0, 2, (100, 1, side, side)), 0, 255)
before = peak()
began = time.perf_counter()
some = fingerprint.Pictures(grey, np.arange(pictures), np.zeros(pictures, int))
features = time.perf_counter()
candidates = some.candidates(22, 0.45, 4000)
searched = time.perf_counter()
rows = list(candidates.rows())
found = {(r["case_a"], r["case_b"]) for r in rows if some.fit(r["a"], r["b"], r["mirrored"])[0] >= 0.9}
fitted = time.perf_counter()
planted = set(zip(copies.tolist(), range(pictures - 100, pictures)))
print(
    f"comparing {pictures} pictures: features {features - began:.1f} s, {pictures * (pictures - 1) / 2:.3g} pairs "
    f"twice (as they stand, mirrored) in "
    f"{searched - features:.1f} s, {len(rows)} fits in {fitted - searched:.1f} s"
)
print(
    f"memory: {before:.0f} MiB before, {peak():.0f} MiB at most; planted copies found {len(planted & found)} of 100, "
    f"others {len(found - planted)}"
)
