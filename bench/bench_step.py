"""Engine step against a bare PyTorch loop on the same batches (EfficientNet-Lite0, r3d_18), interleaved.

Bar: the 95 % lower bound of the ratio of times is not above 1.05.

    python bench/bench_step.py
"""

from __future__ import annotations

from medgraft.engine import bench


def main() -> None:
    rows = bench.step_overhead()
    print(bench.text(rows))
    for row in rows:
        print(f"{row['model']}: lower bound {row['low']:.3f}, bar 1.05: {'met' if row['low'] <= 1.05 else 'MISSED'}")


if __name__ == "__main__":
    main()
