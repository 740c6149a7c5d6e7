"""The command line as a newcomer meets it. What start-up costs is seen in fresh processes; the rest shares one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgraft import knobs, verbs
from medgraft.cli import main

VERBS = [
    "demo",
    "scan",
    "audit",
    "quick",
    "run",
    "status",
    "report",
    "predict",
    "models",
    "simulate",
    "bench",
    "checks",
    "weights",
]


Command = Callable[..., list[str]]


@pytest.fixture
def medgraft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``medgraft(*words, cwd=..., code=0)`` -> the lines that a command printed (stdout, then stderr), its exit status
    checked.
    """

    def call(*words: str, cwd: Path, code: int = 0) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["medgraft", *words])
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            main()
        printed = "".join(capsys.readouterr())
        assert (end.value.code or 0) == code, printed
        return printed.splitlines()

    return call


@pytest.fixture
def one_line(medgraft: Command) -> Callable[..., str]:
    """The only line of a command that fails with something the user can mend."""

    def call(*words: str, cwd: Path) -> str:
        lines = medgraft(*words, cwd=cwd, code=2)
        assert len(lines) == 1 and lines[0].startswith("medgraft: ") and not (cwd / "medgraft-error.log").exists(), (
            lines
        )
        return lines[0]

    return call


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a study folder in it: four pictures of two patients and a label table."""
    root = tmp_path_factory.mktemp("cli")
    source = root / "my studies"
    source.mkdir()
    for n in range(4):
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (9, 8), np.uint8)).save(source / f"{n}.png")
    rows = [f"{n}.png,p{n // 2},{'ill' if n % 2 else 'well'}" for n in range(4)]
    (source / "labels.csv").write_text("\n".join(["file,patient,label", *rows]), encoding="utf-8")
    return root


def test_help_names_every_verb_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom medgraft.cli import main\ntry: main()\nexcept SystemExit as e: print('exit', "
        "e.code)\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=tmp_path, capture_output=True, text=True)
    *text, status, modules = done.stdout.splitlines()
    assert status == "exit 0"
    listed = [line.split()[0] for line in text[text.index("Commands:") + 1 :] if line.startswith("  ") and line.strip()]
    assert listed[: len(VERBS)] == VERBS
    assert not any(line.endswith("...") for line in text[text.index("Commands:") :])  # no description is cut off
    assert {"torch", "polars", "numpy", "pydantic"} & set(modules.split()) == set()
    assert "medgraft.cli" in modules.split()


def test_help_of_a_verb_lists_its_keys(medgraft: Command, tmp_path: Path) -> None:
    text = "\n".join(medgraft("run", "--help", cwd=tmp_path))
    for key in (
        "data ",
        "split.folds",
        "train.learning_rate",
        "models[].strategy",
        "frozen_logistic",
        "default 0.0001",
    ):
        assert key in text, key


@pytest.mark.parametrize("verb", verbs.OPTIONS)
def test_every_help_lists_its_keys_with_defaults_and_an_example(verb: str, medgraft: Command, tmp_path: Path) -> None:
    shown = "\n".join(medgraft(*verb.removesuffix(" official=DIR").split(), "--help", cwd=tmp_path))
    assert "Example" in shown
    text = " ".join(shown.split())
    assert [knob.key for knob in knobs.knobs(verbs.options_class(verb)) if f" {knob.key} " not in text] == []
    told = {"demo": "default 90", "predict": "one of keep, refuse; default keep", "report": "one of en, zh; default en"}
    assert told.get(verb, "") in text


#: A line that each verb would take, but for the last word; what is said of that word; the verb whose help is named.
WRONG = [
    ("demo patients=abc", "patients: abc is not a whole number", "demo"),
    ("demo difficulty=2 patients=yes", "patients: true is not a number; difficulty: 2 should be less", "demo"),
    ("demo patiens=9", "did you mean 'patients'", "demo"),
    ("demo folds=3", "folds belongs to run (split.folds)", "demo"),
    ("scan here workers=abc", "workers: abc is not a whole number", "scan"),
    ("scan here label_level=eye", "label_level: eye is none of case, study, patient", "scan"),
    ("scan here patients=5", "patients belongs to demo and simulate; did you mean 'patient'?", "scan"),
    ("audit here near=perhaps", "near: perhaps is neither true nor false", "audit"),
    ("audit here permutation=999", "did you mean 'permutations'", "audit"),
    ("audit here flagged=keep", "flagged belongs to predict", "audit"),
    ("run data=x train.epochs=abc", "train.epochs: abc is not a number", "run"),
    ("run data=x window.size=abc", "window.size: abc is not a whole number and is not a list", "run"),
    ("run data=x train=5", "train: 5 is not a section", "run"),
    ("run data=x folds=3", "did you mean 'split.folds'", "run"),
    ("run data=x labels=l.csv", "labels belongs to scan", "run"),
    ("status runs/x lang=zh", "takes no keys, so not lang", "status"),
    ("report runs/x lang=fr", "lang: fr is none of en, zh", "report"),
    ("report runs/x language=zh", "did you mean 'lang'", "report"),
    ("report runs/x flagged=keep", "flagged belongs to predict", "report"),
    ("predict runs/x a.png flagged=maybe", "flagged: maybe is none of keep, refuse", "predict"),
    ("predict runs/x a.png weight=mine", "did you mean 'weights'", "predict"),
    ("predict runs/x a.png as_=judged", "unknown key 'as_'; did you mean 'as'?", "predict"),
    ("predict runs/x a.png patient=none", "patient belongs to scan", "predict"),
    ("models resnet weights=mine", "takes no keys", "models"),
    ("weights list weights={a:1}", "weights", "weights list"),
    ("weights verify weight=mine", "did you mean 'weights'", "weights verify"),
    ("weights pack x.tar into=mine", "into belongs to weights unpack", "weights pack"),
    ("weights unpack x.tar into=[a,b]", "into: [a, b] is not text", "weights unpack"),
    ("weights unpack x.tar in=mine", "did you mean 'into'", "weights unpack"),
    ("weights convert x.pkl out=7", "out: 7 is not text", "weights convert"),
    ("simulate chest_xray patients=abc", "patients: abc is not a whole number", "simulate"),
    ("simulate chest_xray encoding=png", "encoding: png is none of jpeg, raw", "simulate"),
    ("simulate chest_xray patient=none", "patient belongs to scan and quick; did you mean 'patients'?", "simulate"),
    ("bench steps=1.5", "steps: 1.5 is not a whole number", "bench"),
    ("bench device=gpu", "device: gpu is none of auto, cpu, cuda, mps", "bench"),
    ("bench official=x repeats=abc", "repeats: abc is not a whole number", "bench"),
    ("bench official=x step=3", "known are official", "bench"),
    ("checks lang=zh", "takes no keys", "checks"),
    ("scan here --labels x", "write labels=x", "scan"),
    ("scan here --labels=x", "write labels=x", "scan"),
    ("scan here --label-level study", "write label_level=study", "scan"),
    ("predict runs/x a.png --download", "write download=true", "predict"),
    ("run --folds 3", "write split.folds=3", "run"),
    ("run data=x -n", "-n: options are written without dashes", "run"),
    ("weights pack x.tar --weights mine", "write weights=mine", "weights pack"),
    ("checks --lang zh", "options are written without dashes", "checks"),
    ("scan here labels.csv", "labels.csv: no place for this word. write labels=VALUE", "scan"),
    ("audit here near", "write near=true", "audit"),
    ("demo nothing", "nothing: no place for this word. options are key=value", "demo"),
    ("run epochs", "no such recipe. give a YAML file, or write train.epochs=VALUE", ""),
    ("run one.yaml two.yaml", "two.yaml: no place for this word", "run"),
    ("demo patients=8 patients=9", "patients: is given twice", ""),
    ("run data=x train.epochs=1 train={epochs:2}", "train.epochs: is given twice", ""),
    ("run data=x train={epochs:1,epochs:2}", "is given twice", ""),
    ("scan", "Missing argument 'SOURCE'", "scan"),
    ("checks all", "unexpected extra argument", "checks"),
    ("scann here", "No such command 'scann'. Did you mean 'scan'?", ""),
    ("simulate heart", "no simulator 'heart'", ""),
]


@pytest.mark.parametrize(("line", "says", "verb"), WRONG, ids=[line.replace("/", " ") for line, _, _ in WRONG])
def test_words_that_do_not_fit_are_answered_in_one_line(
    line: str, says: str, verb: str, one_line: Callable[..., str], tmp_path: Path
) -> None:
    answer = one_line(*(word.replace(":", ": ") for word in line.split(" ")), cwd=tmp_path)  # as YAML asks for
    assert says in answer
    assert not verb or answer.endswith(f"see `medgraft {verb} --help`.")


def test_a_key_said_twice_with_one_value_is_said_once(one_line: Callable[..., str], tmp_path: Path) -> None:
    assert "no such file" in one_line("scan", "nowhere", "patient=none", "patient=none", cwd=tmp_path)


def test_errors_and_help_come_without_torch(tmp_path: Path) -> None:
    lines = ["predict a b flagged=no", "report a lang=no", "demo size=no", "bench steps=no", "weights pack a into=b"]
    lines += ["run data=a lang=no", "predict --help", "bench --help", "demo --help", "weights list --help"]
    code = (
        "import sys\nfrom medgraft.cli import main\n"
        f"for line in {lines!r}:\n"
        "    sys.argv = ['medgraft', *line.split()]\n"
        "    try: main()\n"
        "    except SystemExit as e: print('exit', e.code)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    text = done.stdout.splitlines()
    assert [line for line in text if line.startswith("exit ")] == ["exit 2"] * 6 + ["exit 0"] * 4
    assert "torch" not in text[-1].split() and "medgraft.knobs" in text[-1].split()


def test_scan_asks_for_the_patient_and_then_works(medgraft: Command, one_line: Callable[..., str], here: Path) -> None:
    assert "patient=patient" in one_line("scan", "my studies", "labels=labels.csv", "out=data", cwd=here)
    answer = one_line("scan", "my studies", "out=data", cwd=here)
    assert "patient=COLUMN" in answer and "patient=none" in answer
    assert "did you mean 'patient'" in one_line("scan", "my studies", "patiant=none", cwd=here)
    assert not (here / "data").exists()
    text = medgraft("scan", "my studies", "labels=labels.csv", "patient=patient", "out=data", cwd=here)
    assert "4 cases (4 images) of 2 patients" in text[0] and f"data set {Path('data')}" in text
    (here / "my studies" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    text = medgraft("scan", "my studies", "labels=labels.csv", "patient=patient", "out=data", cwd=here, code=3)
    assert any("1 rejected" in line for line in text)


def test_run_says_what_is_wrong_in_one_line(medgraft: Command, one_line: Callable[..., str], here: Path) -> None:
    (here / "bad").mkdir()
    (here / "bad" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    medgraft("scan", "bad", "patient=none", "out=empty", cwd=here, code=3)
    assert "holds no case" in one_line("run", "data=empty", cwd=here)
    assert "did you mean 'seeds'" in one_line("run", "data=data", "seedz=[1]", cwd=here)
    assert "did you mean 'learning_rate'" in one_line("run", "data=data", "train.learning_rat=1", cwd=here)
    assert "no such recipe" in one_line("run", "absent.yaml", cwd=here)
    assert "nowhere: not a medgraft data set" in one_line("run", "data=nowhere", cwd=here)
    assert "not a run folder" in one_line("status", "nowhere", cwd=here)
    assert "no such file" in one_line("scan", "nowhere", cwd=here)


@pytest.mark.skipif(os.name != "posix", reason="mounts a file system")
def test_a_read_only_folder_is_named(medgraft: Command, one_line: Callable[..., str], here: Path) -> None:
    medgraft(
        "scan",
        "my studies",
        "labels=labels.csv",
        "patient=patient",
        "out=two",
        cwd=here,
        code=3 if (here / "my studies" / "torn.png").exists() else 0,
    )
    (here / "fixed").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(here / "fixed")], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        assert "read-only" in one_line("simulate", "chest_xray", "out=fixed/x", "patients=6", cwd=here)
        assert "read-only" in one_line(
            "run", "data=two", "models=[efficientnet_lite0]", "split={folds: 2, inner: 0}", "out=fixed", cwd=here
        )
    finally:
        subprocess.run(["umount", "-l", str(here / "fixed")], check=True)


def test_models_and_weights_can_be_looked_up(medgraft: Command, one_line: Callable[..., str], tmp_path: Path) -> None:
    text = medgraft("models", "resnet3d", cwd=tmp_path)
    assert [line.split()[0] for line in text[1:]] == [f"resnet3d_{n}" for n in (10, 18, 34, 50)] and "random*" in text[
        1
    ]
    assert "no network has this in its name" in one_line("models", "no_such_network", cwd=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mobilenet_v2_imagenet_fp16.pth").write_bytes(b"half a file")
    text = medgraft("weights", "list", cwd=tmp_path)
    lite = next(line for line in text if line.startswith("efficientnet_lite0.imagenet"))
    assert "efficientnet-lite0" in lite and "absent" not in lite and "Apache-2.0" in lite
    assert any("mobilenet_v2_imagenet_fp16.pth" in line and "absent" in line for line in text)
    assert max(map(len, text)) <= 200
    dense = medgraft("weights", "list", "dense", cwd=tmp_path)
    assert len(dense) < len(text) and not any(line.startswith("efficientnet_lite0") for line in dense)
    one = medgraft("weights", "list", "ig65m_8", cwd=tmp_path)
    assert one[0].split() == ["card", "r2plus1d_34.ig65m_8"] and any(
        line.split()[:2] == ["sha256", "9bae36ae"] for line in one
    )
    assert "no card has this" in one_line("weights", "list", "no_such_card", cwd=tmp_path)
    text = medgraft("weights", "verify", "weights=[mine]", cwd=tmp_path, code=2)
    assert any(line.startswith("efficientnet_lite0.imagenet") and line.endswith("whole") for line in text)
    assert any("mobilenet_v2_imagenet_fp16.pth" in line and "whole" not in line for line in text)


def test_weights_travel_in_a_pack(medgraft: Command, one_line: Callable[..., str], tmp_path: Path) -> None:
    text = medgraft("weights", "pack", "usb.tar", "efficientnet_lite0", "c3d", cwd=tmp_path)
    assert "Apache-2.0" in text[0] and "1 file," in text[1] and "c3d.sports1m" in text[2]
    assert "1 file put into mine" in medgraft("weights", "unpack", "usb.tar", "into=mine", cwd=tmp_path)[0]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["efficientnet-lite0-57934424.pth"]
    (tmp_path / "usb.tar").write_bytes(b"noise")
    assert "usb.tar" in one_line("weights", "unpack", "usb.tar", "into=mine", cwd=tmp_path)


def test_checks_say_what_the_machine_offers(medgraft: Command, tmp_path: Path) -> None:
    text = medgraft("checks", cwd=tmp_path)
    assert [line.split(":")[0].split()[-1] for line in text] == [
        "device",
        "memory",
        "disk",
        "video",
        "DICOM",
        "volumes",
        "weights",
        "versions",
    ]
    assert all(line.startswith("ok ") for line in text)


def test_simulating_prints_what_brightness_alone_can_tell(medgraft: Command, tmp_path: Path) -> None:
    text = medgraft("simulate", "chest_xray", "out=sim", "patients=6", "size=64", cwd=tmp_path)
    assert any("alone give AUC" in line and "limit is .65" in line for line in text)
    assert (tmp_path / "sim" / "stage_2_train_labels.csv").is_file()


def test_a_fault_of_medgraft_leaves_a_trace_and_status_1(tmp_path: Path) -> None:
    code = (
        "import medgraft.cli as c\nfrom medgraft import config\ndef broken(*a): raise ZeroDivisionError('plan' + "
        "'ted')\n"
    )
    code += "config.parse_overrides = broken\nc.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "simulate", "chest_xray"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and done.stderr.count("\n") == 1
        and "ZeroDivisionError" in done.stderr
        and "planted" not in done.stderr
    )
    log, full = tmp_path / "medgraft-error.log", tmp_path / ".medgraft-error-full.log"
    assert "Traceback" in log.read_text(encoding="utf-8") and "planted" not in log.read_text(encoding="utf-8")
    assert "ZeroDivisionError: planted" in full.read_text(encoding="utf-8") and (
        os.name != "posix" or full.stat().st_mode & 0o077 == 0
    )
