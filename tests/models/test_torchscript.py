"""TorchScript archives are read for their tensors; their program is never run, and hostile ones are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medgraft.errors import UserError
from medgraft.models import weights
from medgraft.models.weights import torchscript


class Program(nn.Module):
    """Parameters, buffers, a shared part, a view with strides, and several types."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))
        self.again = self.first
        self.register_buffer("short_float", torch.arange(6, dtype=torch.float16).view(2, 3))
        self.register_buffer("brain", torch.arange(6, dtype=torch.bfloat16))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("part", torch.arange(10)[4:7])
        self.register_buffer("yes", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.again(x)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    program = Program().eval()
    path = tmp_path_factory.mktemp("archive") / "program.pt"
    torch.jit.script(program).save(str(path))
    return path, program.state_dict()


def test_tensors_come_out_by_name(archive: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = archive
    found = weights.read_state(path)
    assert set(found) == set(state) and len(state) == 19
    assert all(torch.equal(found[k], state[k]) and found[k].dtype == state[k].dtype for k in state)


def test_an_ordinary_file_is_not_taken_for_one(tmp_path: Path, archive: tuple[Path, dict[str, torch.Tensor]]) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    assert torchscript.is_torchscript(archive[0])
    assert not torchscript.is_torchscript(tmp_path / "plain.pth") and not torchscript.is_torchscript(
        tmp_path / "noise.pth"
    )


def changed(
    source: Path, goal: Path, change: dict[str, Callable[[bytes], bytes]], compression: int = zipfile.ZIP_STORED
) -> Path:
    """The archive with some of its files changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(goal, "w", compression) as new:
        for entry in old.infolist():
            inner = entry.filename.partition("/")[2]
            new.writestr(entry.filename, change.get(inner, lambda b: b)(old.read(entry)))
    return goal


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 2)
    # type: ignore[method-assign, attr-defined]
    pickler.persistent_id = lambda o: o.pid if isinstance(o, Stored) else None
    pickler.dump(value)
    return stream.getvalue()


class Stored:
    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def test_programs_and_foreign_classes_are_refused_unrun(
    archive: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    harm = tmp_path / "harm"
    cases = {
        "system": pickled(Call(os.system, f"touch {harm}")),
        "eval": pickled(Call(eval, f"open({str(harm)!r}, 'w')")),
        "dictionary": pickled({"a": 1}),
        "torn": pickled({"a": 1})[:-3],
        "bytes": b"",
        "kind": pickled(Stored("storage", "FloatStorage", "0", "cpu", 3)),  # a class by name only
        "climb": pickled([Stored("storage", "FloatStorage", "../../x", "cpu", 3)]),
    }
    for name, data in cases.items():
        # type: ignore[misc]
        path = changed(archive[0], tmp_path / f"{name}.pt", {"data.pkl": lambda _, data=data: data})
        with pytest.raises(UserError) as caught:
            weights.read_state(path)
        assert caught.value.case == f"{name}.pt" and "\n" not in str(caught.value)
    assert not harm.exists()
    code = changed(archive[0], tmp_path / "code.pt", {"code/__torch__.py": lambda b: b"import os\nos.abort()\n"})
    assert len(weights.read_state(code)) == 19  # the program is not even looked at


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return apply


@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("data.pkl", swap(b"FloatStorage", b"ByteeStorage"), "asks for torch.ByteeStorage"),
        (
            "data.pkl",
            swap(b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_qtensor"),
            "asks for torch._utils._rebuild_qtensor",
        ),
        ("data/0", lambda b: b[:-4], "no data of its size"),
        ("data/0", lambda b: b * 2, "no data of its size"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    archive: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    file: str,
    change: Callable[[bytes], bytes],
    word: str,
) -> None:
    with pytest.raises(UserError, match=word):
        weights.read_state(changed(archive[0], tmp_path / "bad.pt", {file: change}))


def test_compressed_archives_are_refused(archive: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """torch stores without compression; a compressed one could grow a thousandfold."""
    with pytest.raises(UserError, match="compressed"):
        weights.read_state(changed(archive[0], tmp_path / "small.pt", {}, zipfile.ZIP_DEFLATED))


def test_tensors_beyond_their_data_are_refused(
    archive: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes come from the stranger's list: offsets, shapes and strides are checked against the data before any is
    cut.
    """
    good = torchscript.places(archive[0])
    name, place = next((n, p) for n, p in good.items() if p.storage == "FloatStorage" and len(p.shape) == 5)
    for bad in (
        place._replace(offset=1),
        place._replace(offset=-1),
        place._replace(shape=(10**6, *place.shape[1:])),
        place._replace(stride=(10**6, *place.stride[1:])),
        place._replace(stride=(-1, *place.stride[1:])),
        place._replace(shape=(10**9,), stride=(0,)),
        place._replace(stride=place.stride[1:]),
    ):
        answer = subprocess.CompletedProcess([], 0, json.dumps({name: bad}), "")
        monkeypatch.setattr(torchscript.subprocess, "run", lambda *_, answer=answer, **__: answer)
        with pytest.raises(UserError, match="reaches beyond its data"):
            weights.read_state(archive[0])


def test_modules_inside_themselves_end() -> None:
    """A shell that holds itself would never end; the walk over the archive's modules counts."""
    shell = torchscript._Shell()
    shell.held = {"a": shell, "b": shell}
    with pytest.raises(ValueError, match="too many modules"):
        torchscript.named(shell)
