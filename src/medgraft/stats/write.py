"""A summary as files (``summary.json``, ``leaderboard.csv``, ``pairs.csv``) and an estimate as a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft.files import write_csv, write_json
from medgraft.notices import from_json
from medgraft.stats.judged import Entry


def sentence(name: str, entry: Entry, confidence: float = 0.95) -> str:
    """One estimate in words: ``case.auc 0.912 (95 % interval 0.880 to 0.941, 400 cases of 325 patients)``."""
    value, low, high = (entry.get(k) for k in ("value", "low", "high"))
    rows = "patients" if name.startswith("patient.") else "cases"
    of = f"{entry['n']} {rows}" + (
        f" of {entry['n_units']} {entry['unit']}s" if rows == "cases" and entry["unit"] != "case" else ""
    )
    if value is None or np.isnan(value):
        return f"{name} is not defined ({of})"
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return f"{name} {value:.3f} (no interval, {of})"
    return f"{name} {value:.3f} ({100 * confidence:g} % interval {low:.3f} to {high:.3f}, {of})"


def leaderboard(summary: dict[str, Any]) -> pl.DataFrame:
    """One row a model, best first: rank, name, state, then value, low and high of every metric. Below them the trivial
    answers: of the model and the state ``trivial``, without a rank.
    """
    names = list(dict.fromkeys(name for model in summary["models"] for name in model["metrics"]))
    rows = []
    for model in summary["models"]:
        rank = model["rank"] or {}
        row = {
            "rank": rank.get("best"),
            "rank_low": rank.get("low"),
            "rank_high": rank.get("high"),
            **{
                k: model[k]
                for k in ("id", "model", "start", "strategy", "state", "reason", "parameters", "seconds", "inner_score")
            },
            "reason": str(from_json(model["reason"])) if model["reason"] else "",
        }
        rows.append(row | _numbers(model, names))
    for answer in summary.get("trivial") or []:
        told = {"id": answer["id"], "model": "trivial", "start": "", "strategy": answer["name"], "state": "trivial"}
        rows.append({**told, "reason": "", **_numbers(answer, names)})
    return pl.DataFrame(rows, infer_schema_length=None)


def _numbers(entry: Entry, names: list[str]) -> dict[str, float | None]:
    """Value, low and high of every metric."""
    found = {}
    for name in names:
        known = entry["metrics"].get(name, {})
        for part in ("value", "low", "high"):
            found[name if part == "value" else f"{name}.{part}"] = _finite(known.get(part))
    return found


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def write_tables(summary: dict[str, Any], run_dir: str | Path) -> None:
    """Write ``summary.json``, ``leaderboard.csv`` and ``pairs.csv``; each appears whole or not at all."""
    run_dir = Path(run_dir)
    columns = ["a", "b", "metric", "difference", "low", "high", "p", "p_adjusted", "method", "p_superior", "n"]
    schema = {
        c: pl.String if c in ("a", "b", "metric", "method") else pl.Int64 if c == "n" else pl.Float64 for c in columns
    }
    rows = [{c: _finite(pair[c]) if schema[c] == pl.Float64 else pair[c] for c in columns} for pair in summary["pairs"]]
    write_csv(leaderboard(summary), run_dir / "leaderboard.csv")
    write_csv(pl.DataFrame(rows, schema=schema), run_dir / "pairs.csv")
    write_json(run_dir / "summary.json", summary)
