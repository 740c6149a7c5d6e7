#!/usr/bin/env python3
"""Everything a developer or a newcomer runs, in one file of the standard library.

    python scripts/dev.py demo         make .venv, install, run the main job on simulated studies
    python scripts/dev.py test         the tests that take no longer than a coffee
    python scripts/dev.py test-slow    the tests that train for minutes
    python scripts/dev.py test-gpu     the tests that need a CUDA device
    python scripts/dev.py check        ruff (rules and format) and mypy
    python scripts/dev.py bench        speed and memory, as `medgraft bench`
    python scripts/dev.py mutants      plant faults and see whether the tests of their rows notice (tests/mutants.py)
    python scripts/dev.py install      only make .venv and install

What follows the sub-command is handed on, e.g. `python scripts/dev.py test tests/test_layers.py -x`.
`make` and the continuous integration call this file; on Windows, where `make` is absent, it runs alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "medgraft-installed.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
TESTERS = 2  # processes; each test file stays in one of them, one thread each


def fail(message: str) -> None:
    """Say what is wrong in one line and leave with status 1."""
    sys.exit(f"error: {message}")


def venv_program(name: str) -> Path:
    """The path of a program inside ``.venv``, on any platform."""
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def install_key() -> str:
    """A hash of everything that decides what ``install`` would do."""
    parts = [str(ROOT), platform.python_version(), sys.platform]
    parts += [hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def venv_works() -> bool:
    """Whether ``.venv`` holds a whole Python of this version; one made by a killed run lacks pip."""
    question = "import pip, sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([str(venv_program("python")), "-c", question], capture_output=True, text=True)
    except OSError:
        return False
    return answer.stdout.split() == [str(part) for part in sys.version_info[:2]]


def patiently(word: str, command: list[str], log: Path) -> None:
    """Run a long quiet command, its output in ``log``; show a word and the elapsed seconds meanwhile."""
    begin = time.monotonic()
    live = sys.stdout.isatty()
    shown = 0
    with open(log, "ab") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                seconds = int(time.monotonic() - begin)
                if live and seconds > shown:
                    print(f"\r{word} ... {seconds} s", end="", flush=True)
                    shown = seconds
                elif not live and seconds >= shown + 30:
                    print(f"{word} ... {seconds} s", flush=True)
                    shown = seconds
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            fail(f"interrupted while {word}; run the same command again")
    print(f"{chr(13) if live else ''}{word}: {time.monotonic() - begin:.0f} s", flush=True)
    if process.returncode:
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]), file=sys.stderr)
        fail(f"{word} failed (lines above; all of it in {log.relative_to(ROOT)}). Is the package index reachable?")


def install() -> None:
    """Make ``.venv`` and install the package with its pinned dependencies, unless that is already done."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        wanted = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        fail(
            f"this is Python {platform.python_version()}, medgraft needs {wanted}; run this file with such a Python "
            f"(make PYTHON=python3.11 ...)"
        )
    key = install_key()
    if STAMP.is_file() and STAMP.read_text(encoding="ascii").strip() == key and venv_program("python").exists():
        return
    try:
        import ensurepip  # noqa: F401  (Debian splits it off)
        import venv
    except ImportError:
        fail(
            "this Python cannot make virtual environments; install the package python3-venv (Debian, Ubuntu) or a "
            "Python from python.org"
        )
    begin = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not venv_works():
        print(
            f"making {VENV.name} with Python {platform.python_version()} (once; up to 7 GB where torch brings CUDA)",
            flush=True,
        )
        try:
            venv.EnvBuilder(with_pip=True, clear=VENV.exists(), symlinks=os.name != "nt").create(VENV)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"cannot make {VENV.name} ({error}); free some space or remove the folder and run again")
    pip = [str(venv_program("python")), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    patiently("installing", [*pip, "install", "-e", ".[dev]", "-c", "constraints.txt"], VENV / "install.log")
    STAMP.write_text(key + "\n", encoding="ascii")
    print(f"installed in {time.monotonic() - begin:.0f} s", flush=True)


def run(command: list[str], **environment: str) -> int:
    """Run a program of ``.venv`` in the repository root and return its exit status."""
    program = venv_program(command[0])
    if not program.exists():
        fail(f"{command[0]} is not in {VENV.name}; remove {VENV.name} and run again")
    sys.stdout.flush()
    try:
        return subprocess.run([str(program), *command[1:]], cwd=ROOT, env={**os.environ, **environment}).returncode
    except KeyboardInterrupt:
        return 130


def pytest(arguments: list[str]) -> int:
    """One thread a process: with several testers on few cores more threads only fight."""
    return run(["pytest", *arguments], OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


def test(arguments: list[str]) -> int:
    return pytest(["-n", str(TESTERS), "--dist", "loadfile", *arguments])


def test_slow(arguments: list[str]) -> int:
    return pytest(["-m", "slow and not gpu and not network", *arguments])


def test_gpu(arguments: list[str]) -> int:
    return pytest(["-m", "gpu", *arguments])


def check(arguments: list[str]) -> int:
    """All three, even when the first complains; ``check --fix`` repairs what ruff can."""
    fix = "--fix" in arguments
    commands = [
        ["ruff", "check", "--quiet", *(["--fix"] if fix else []), "."],
        ["ruff", "format", "--quiet", *([] if fix else ["--check"]), "."],
        ["mypy", "--no-error-summary"],
    ]
    failed = [" ".join(command[:2]) for command in commands if run(command)]
    print(f"check: {'failed: ' + ', '.join(failed) if failed else 'ruff, format and mypy are content'}", flush=True)
    return 1 if failed else 0


def demo(arguments: list[str]) -> int:
    begin = time.monotonic()
    status = run(["medgraft", "demo", *arguments])
    if status == 0:
        print(f"demo: {time.monotonic() - begin:.0f} s; the path of the report stands above", flush=True)
    return status


def bench(arguments: list[str]) -> int:
    return run(["medgraft", "bench", *arguments])


def mutants(arguments: list[str]) -> int:
    return run(["python", "tests/mutants.py", *arguments])


COMMANDS = {
    "install": lambda _: 0,
    "demo": demo,
    "test": test,
    "test-slow": test_slow,
    "test-gpu": test_gpu,
    "check": check,
    "bench": bench,
    "mutants": mutants,
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments and arguments[0] not in ("-h", "--help", "help")
        print(__doc__, file=sys.stderr if asked else sys.stdout)
        return 2 if asked else 0
    install()
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
