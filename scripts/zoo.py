#!/usr/bin/env python3
"""Write the table of all networks, and the table of their parity, from registry, cards and measurements.

python scripts/zoo.py            writes docs/zoo.md, and the table within docs/parity.md
python scripts/zoo.py FOLDER     writes both below FOLDER

Input, parameters, operations and what the cards say are computed here. What was measured comes from
``bench/results/zoo.json`` (``bench/bench_zoo.py``) and ``bench/results/parity.json``
(``medgraft bench official=DIR table=FILE``); a network that is not in there was not measured.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from medgraft.models import registry, weights
from medgraft.models.weights import WeightCard

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
GOLDENS = ROOT / "tests" / "models" / "goldens"
BEGIN, END = "<!-- table: scripts/zoo.py -->", "<!-- end of table -->"
STRUCTURES = 1  # of dense networks


def channels_of(name: str) -> int:
    """Input channels of a network: those of its first card, else 3."""
    found = weights.cards(name)
    return found[0].channels if found else 3


def shape_of(name: str) -> tuple[int, ...]:
    """One sample at the network's own size: (C, H, W) or (C, D, H, W)."""
    return (channels_of(name), *registry.info(name).default_size)


@cache
def cost(name: str) -> tuple[int, int]:
    """Parameters of the body, and multiply-adds of one sample (convolutions and matrix products, as PyTorch counts
    them).
    """
    facts = registry.info(name)
    with torch.device("meta"):
        body = registry.build_body(
            name,
            channels=channels_of(name),
            structures=STRUCTURES if facts.dense else None,
            size=facts.default_size if facts.fixed_size else None,
        ).eval()
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            body(torch.empty(1, *shape_of(name)))
    return sum(p.numel() for p in body.parameters()), counted.get_total_flops() // 2


def facts_row(name: str) -> list[str]:
    """The columns of a network that no measurement changes."""
    parameters, operations = cost(name)
    gives = "a map" if registry.info(name).dense else f"{registry.info(name).features}"
    return [
        f"`{name}`",
        "x".join(map(str, shape_of(name))),
        gives,
        f"{parameters / 1e6:.2f}",
        f"{operations / 1e9:.2f}",
    ]


def card_row(card: WeightCard) -> list[str]:
    """What a card says: start, data, accuracy, licence, way."""
    accuracy = weights.source_accuracy(card) or card.accuracy or "none stated"
    return [f"`{card.backbone}`", f"`{card.tag}`", card.source_data, accuracy, card.licence, way(card)]


def way(card: WeightCard) -> str:
    """How to get a file."""
    if card.package:
        return f"package `{card.package}`"
    hosts = list(dict.fromkeys(urlparse(a).netloc for a in card.addresses))
    return f"`download=true` ({', '.join(hosts)})" if hosts else f"by hand, as `{card.file_name}`"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row).replace("\n", " ") + " |" for row in [head, ["---"] * len(head), *rows]]


def measured(name: str) -> dict[str, Any]:
    path = RESULTS / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {"machine": "", "rows": []}


def told(error: float, digits: int) -> str:
    """A relative error; 0 where all numbers are equal to the bit."""
    return f"{error:.{digits}e}" if error else "0"


def zoo() -> str:
    """The page of all networks."""
    speed, parity = measured("zoo.json"), measured("parity.json")
    rate = {row["network"]: row for row in speed["rows"]}
    errors: dict[str, list[float]] = {}
    for row in parity["rows"]:
        if "error" in row:
            errors.setdefault(row.get("body", row["network"]), []).append(row["error"])
    rows = []
    for name in registry.names():
        error = told(max(errors[name]), 0) if name in errors else "–"
        rows.append([*facts_row(name), error, f"{rate[name]['samples_per_second']:.3g}" if name in rate else "–"])
    cards = [card_row(card) for name in registry.names() for card in weights.cards(name)]
    lines = [
        "# The zoo",
        "",
        "Written by `python scripts/zoo.py` from the registry, the weight cards and `bench/results/`; edit those, not "
        "this page.",
        "How networks, starts and cards are used, and every other network by `library:name`, stands in "
        "[models.md](models.md);",
        "how parity is shown in [parity.md](parity.md).",
        "",
        "## Networks",
        "",
        "Input: channels, then depth, height and width of one sample (networks with a fixed size take no other). "
        "Gives: features, or a map of one",
        "structure. Parameters in millions, of the body without a classifier. Operations in thousands of millions of "
        "multiply-adds for one sample.",
        "Parity: the largest relative error against the official implementation in float32 (– where there is none to "
        "compare with).",
        f"Samples/s: forward in float32, one core of a machine with {speed['machine'] or '(none yet)'} (– where not "
        f"measured).",
        "",
        *table(["network", "input", "gives", "parameters", "operations", "parity", "samples/s"], rows),
        "",
        "## Weights",
        "",
        "The accuracy is that published for the file on its source data, with the column it stands in. "
        "`download=true` fetches a file; by hand means",
        "that it goes into a folder named with `weights=[DIR]`.",
        "",
        *table(["network", "start", "trained on", "published accuracy", "licence", "file"], cards),
    ]
    return "\n".join(lines) + "\n"


def parity_table() -> list[str]:
    """Every comparison with an official implementation."""
    found = measured("parity.json")
    rows = []
    for row in found["rows"]:
        if "reason" in row:
            rows.append([f"`{row['network']}`", row["project"], row["reason"], "", "", ""])
            continue
        times = f"{row['ours'] * 1e3:.0f} ms", f"{row['theirs'] * 1e3:.0f} ms"
        rows.append(
            [
                f"`{row['network']}`",
                row["project"],
                told(row["error"], 1),
                f"{row['spread']:.2g}",
                " / ".join(times),
                f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            ]
        )
    unmeasured = sorted(
        path.stem for path in GOLDENS.glob("*.json") if path.stem not in {row["network"] for row in found["rows"]}
    )
    for name in unmeasured:
        official = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))["official"].partition("@")[0]
        rows.append([f"`{name}`", official, "within 1e-4 (golden)", "", "not measured", ""])
    head = [
        "golden",
        "official project",
        "relative error",
        "spread",
        "CPU time, ours / official",
        "ratio (95 % interval)",
    ]
    return [f"Measured on {found['machine'] or 'no machine yet'}.", "", *table(head, rows)]


def with_table(page: str, lines: list[str]) -> str:
    """A page whose marked part is replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    if arguments and arguments[0].startswith("-"):
        print(__doc__)
        return 0
    target = Path(arguments[0]) if arguments else ROOT / "docs"
    target.mkdir(parents=True, exist_ok=True)
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    (target / "parity.md").write_text(with_table(page, parity_table()), encoding="utf-8", newline="\n")
    (target / "zoo.md").write_text(zoo(), encoding="utf-8", newline="\n")
    print(f"{target / 'zoo.md'}: {len(registry.names())} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
