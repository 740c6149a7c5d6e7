"""One project in a process of its own: FAMILY ROOT ANSWER RECORD REPEATS THREADS."""

import json
import sys
from pathlib import Path

from medgraft.engine import official

family, root, answer, record, repeats, threads = sys.argv[1:]
rows = official.run_family(
    family, Path(root), record=Path(record) if record else None, repeats=int(repeats), threads=int(threads)
)
Path(answer).write_text(json.dumps(rows), encoding="utf-8")
