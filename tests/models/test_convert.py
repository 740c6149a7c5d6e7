"""Foreign weight files: what is read gives the same numbers, what asks for more is refused and does nothing."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medgraft import cli
from medgraft.errors import UserError
from medgraft.models import weights
from medgraft.models.weights import WeightCard, convert, unpickle

ARRAYS = {
    "conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "res_conv1_bn_s": np.linspace(-1, 1, 5),
    "model_iter": np.array([7], dtype=np.int64),
    "half": np.arange(3, dtype=np.float16),
}


def python2_pickle(blobs: dict[str, np.ndarray]) -> bytes:
    """A dict of arrays under ``blobs``, opcode by opcode as Python 2 and its numpy wrote them: numbers as 8-bit
    strings.
    """

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value  # BINSTRING

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    out = b"\x80\x02}(" + text(b"blobs") + b"}("
    for name, array in blobs.items():
        rebuilt = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"tR"
        )
        code = array.dtype.str[1:].encode()
        dtype = b"cnumpy\ndtype\n(" + text(code) + integer(0) + integer(1) + b"tR"
        dtype += b"(" + integer(3) + text(b"<") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
        shape = b"(" + b"".join(map(integer, array.shape)) + b"t"
        out += (
            text(name.encode()) + rebuilt + b"(" + integer(1) + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"
        )
    return out + b"u" + b"u."


class Weird(torch.nn.Module):
    """A module with every kind of tensor a TorchScript archive names: parameters, a buffer, a shared one, children in a
    list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)])
        self.register_buffer("seen", torch.arange(4))
        self.scale = torch.nn.Parameter(torch.randn(3).to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale.float().view(1, 3, 1, 1)


def test_a_python2_caffe2_pickle_gives_its_arrays(tmp_path: Path) -> None:
    raw = python2_pickle(ARRAYS)
    assert (
        pickle.loads(raw, encoding="latin1")["blobs"].keys() == ARRAYS.keys()
    )  # a true pickle, as its authors read it
    (tmp_path / "net.pkl").write_bytes(raw)
    out = convert.convert(tmp_path / "net.pkl")
    assert out == tmp_path / "net.pkl.safetensors"
    found = weights.read_state(tmp_path / "net.pkl", "caffe2")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].numpy().dtype == array.dtype and np.array_equal(found[name].numpy(), array)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_every_protocol_are_read(protocol: int) -> None:
    big = {
        "order": np.asfortranarray(ARRAYS["conv1_w"][0]),
        "swapped": ARRAYS["res_conv1_bn_s"].astype(">f8"),
        "scalar": np.float32(3.5),
    }
    made = {"blobs": {**ARRAYS, **big, "words": "no array", "number": 3}}
    found = unpickle.read(io.BytesIO(pickle.dumps(made, protocol=protocol)))
    assert found.keys() == {*ARRAYS, *big}
    assert all(np.array_equal(found[k], made["blobs"][k]) for k in found)


def zipped(made: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(made, stream)
    return stream.getvalue()


def older(made: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(made, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("write", [zipped, older, pickle.dumps], ids=["zip", "older", "pickle"])
def test_torch_files_that_hold_more_than_tensors_are_read(write: Callable[[Any], bytes], tmp_path: Path) -> None:
    """Settings, numpy numbers and optimiser states stand beside the weights in many published files, and
    ``weights_only`` stops at them.
    """
    base = torch.randn(4, 6)
    state = OrderedDict(
        view=base[1:3, ::2],
        turned=base.t(),
        whole=base,
        bits=torch.tensor([True, False]),
        half=torch.randn(3).to(torch.bfloat16),
    )
    state["layer"] = torch.nn.Parameter(torch.randn(2))
    made = {
        "state_dict": state,
        "arguments": argparse.Namespace(lr=0.1),
        "best": np.float64(0.7),
        "optimizer": {"state": {0: base}},
        "epoch": 3,
    }
    (tmp_path / "net.pth").write_bytes(write(made))
    with pytest.raises(UserError, match="weights convert"):
        weights.read_state(tmp_path / "net.pth")
    found = weights.read_state(convert.convert(tmp_path / "net.pth", tmp_path / "net.safetensors"))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(
            found[name], tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        ), name


def test_a_torchscript_archive_gives_the_state_of_its_module(tmp_path: Path) -> None:
    module = Weird()
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(module.eval(), torch.randn(1, 2, 5, 5)), path)
    made = convert.convert(path)
    found, expected = weights.read_state(made), module.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())
    assert convert.checked(made, source=weights.sha256(path)) == made
    (tmp_path / "cut.pt").write_bytes(
        path.read_bytes().replace(b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem" + b"_" * 22)
    )
    with pytest.raises(UserError):
        convert.convert(tmp_path / "cut.pt")


# ---------------------------------------------------------------------------------------- refused


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *words: Any) -> None:
        self.made = (function, words)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def hostile(harm: Path) -> dict[str, bytes]:
    """Files that would touch ``harm``, exhaust the machine, or break their reader."""
    touch = f"open({str(harm)!r}, 'w')"
    shell = f"touch {harm}"
    good = python2_pickle({"a": ARRAYS["conv1_w"]})
    calls = {
        "system": Call(os.system, shell),
        "popen": Call(subprocess.Popen, ["touch", str(harm)]),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "open": Call(open, str(harm), "w"),
        "getattr": Call(getattr, "text", "format"),
        "import": Call(__import__, "os"),
        "touch": Call(Path.touch, harm),
        "load": Call(np.load, str(harm), None, True),
        "torch": Call(torch.load, str(harm)),
        "jit": Call(torch.jit.load, str(harm)),
        "array": np.array([Call(os.system, shell)], dtype=object),
    }
    files = {name: pickle.dumps({"blobs": {"a": call, **ARRAYS}}) for name, call in calls.items()}
    files |= {
        f"{name}_zip": zipped({"state_dict": {"a": torch.ones(2), "b": calls[name]}}) for name in ("system", "eval")
    }
    files["older"] = older({"a": torch.ones(2), "b": calls["system"]})
    files["nested"] = pickle.dumps({"a": Call(torch.storage._load_from_bytes, older(calls["system"]))})
    files["instance"] = b"(ios\nsystem\n(S'" + shell.encode() + b"'\n."  # INST, which Python 2 wrote
    files["script"] = (
        b"\x80\x02}X\x01\x00\x00\x00ac__torch__.m\nModule\n)\x81s."  # its names count in TorchScript archives only
    )
    files["short"] = good.replace(ARRAYS["conv1_w"].tobytes(), ARRAYS["conv1_w"].tobytes()[:-8] + b"T\x00\x00\x00\x00")
    files["cut"] = good[:-40]
    files["noise"] = b"\x80\x02noise" * 20
    files["text"] = b"<html>not found</html>"
    files["empty"] = b""
    files["none"] = pickle.dumps({"epoch": 3})
    files["deep"] = b"\x80\x02" + b"(" * 200_000 + b"."
    files["objects"] = pickle.dumps({"blobs": {"a": np.array(["x", None], dtype=object)}})
    return files


def test_nothing_but_numbers_is_read(tmp_path: Path) -> None:
    """All in this process, where a call would be seen at once; some in the process that a user's file meets."""
    harm = tmp_path / "harm"
    files = hostile(harm)
    broken = {"short", "cut", "noise", "text", "empty", "none", "deep", "objects", "array"}
    for name, raw in files.items():
        with pytest.raises(Exception) as caught:
            unpickle.read(io.BytesIO(raw))
        if name not in broken:
            assert isinstance(caught.value, unpickle.Refused) and "asks for" in str(caught.value), (name, caught.value)
        assert not harm.exists(), name
    for name in ("system", "eval_zip", "cut", "text"):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(files[name])
        with pytest.raises(UserError) as refused:
            convert.convert(path)
        line = str(refused.value)
        assert refused.value.case == path.name and "\n" not in line and "Traceback" not in line
        assert ("system" in line or "eval" in line) if name in ("system", "eval_zip") else line
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            {p.name for p in tmp_path.glob("*.pkl")}
        )  # no half-written file is left


def test_tensors_cannot_reach_beyond_their_numbers() -> None:
    rebuild = torch._utils._rebuild_tensor_v2
    storage = torch.arange(4.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    for offset, size, stride in (
        (3, (2,), (1,)),
        (0, (5,), (1,)),
        (0, (1 << 40,), (0,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
    ):
        raw = zipped({"a": Call(rebuild, typed, offset, size, stride, False, OrderedDict())})
        with pytest.raises(unpickle.Refused, match="tensor"):
            unpickle.read(io.BytesIO(raw))
    assert np.array_equal(
        unpickle.read(io.BytesIO(zipped({"a": Call(rebuild, typed, 1, (2,), (2,), False, OrderedDict())})))["a"], [1, 3]
    )


def test_memory_and_time_are_limited(tmp_path: Path) -> None:
    declared = 3 << 30  # a text of 3 GiB, of which the file has all, in a hole that takes no room on the disk
    path = tmp_path / "hole.pkl"
    with open(path, "wb") as stream:
        stream.write(b"\x80\x04\x8e" + struct.pack("<Q", declared))
        stream.truncate(declared + 12)
    with pytest.raises(UserError, match="more memory"):
        convert.convert(path, memory=1 << 30)
    (tmp_path / "memo.pkl").write_bytes(
        b"\x80\x02Nr" + struct.pack("<I", 0x7FFFFFFF) + b"."
    )  # eight bytes that ask for 16 GiB of memory
    with pytest.raises(UserError, match="more memory"):
        convert.convert(tmp_path / "memo.pkl")
    (tmp_path / "net.pkl").write_bytes(python2_pickle(ARRAYS))
    with pytest.raises(UserError, match=r"took longer than 0\.01 s"):
        convert.convert(tmp_path / "net.pkl", seconds=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hole.pkl", "memo.pkl", "net.pkl"]


# ---------------------------------------------------------------------------------------- once, and known by its hashes


def test_a_file_is_converted_once_and_a_changed_one_again(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(python2_pickle(ARRAYS))
    weights.read_state(path, "caffe2")
    made = convert.twin(path)
    note = made.with_name(made.name + ".sha256")
    assert note.read_text() == f"{weights.sha256(path)}  net.pkl\n{weights.sha256(made)}  net.pkl.safetensors\n"
    when = made.stat().st_mtime_ns
    weights.read_state(path, "caffe2")
    assert made.stat().st_mtime_ns == when
    path.write_bytes(python2_pickle({"other": ARRAYS["half"]}))
    assert weights.read_state(path, "caffe2").keys() == {"other"}
    made.write_bytes(made.read_bytes()[:-1] + b"!")  # spoilt: made anew, not trusted
    assert torch.equal(weights.read_state(path, "caffe2")["other"], torch.arange(3).half())


def test_the_converted_file_alone_serves_a_card_whose_hash_its_note_holds(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(python2_pickle(ARRAYS))
    made = convert.convert(path)
    card = WeightCard("a.b", "a", "net.pkl", sha256=weights.sha256(path), format="caffe2")
    assert weights.locate(card, folders=[tmp_path]) == path
    path.unlink()
    assert weights.locate(card, folders=[tmp_path]) == made
    assert weights.read_state(made, card.format).keys() == ARRAYS.keys()
    with pytest.raises(UserError, match="the card says"):
        weights.locate(WeightCard("a.b", "a", "net.pkl", sha256="0" * 64, format="caffe2"), folders=[tmp_path])
    made.write_bytes(made.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="has changed"):
        weights.locate(card, folders=[tmp_path])
    made.with_name(made.name + ".sha256").unlink()
    with pytest.raises(UserError, match="no note"):
        weights.locate(card, folders=[tmp_path])


def test_the_command_converts_and_refuses(tmp_path: Path) -> None:
    path, out = tmp_path / "net.pkl", tmp_path / "out.safetensors"
    path.write_bytes(python2_pickle(ARRAYS))
    done = CliRunner().invoke(cli.app, ["weights", "convert", str(path), f"out={out}"])
    assert done.exit_code == 0 and str(out) in done.output and weights.read_state(out).keys() == ARRAYS.keys()
    assert isinstance(
        CliRunner().invoke(cli.app, ["weights", "convert", str(tmp_path / "none.pkl")]).exception, UserError
    )
    assert isinstance(
        CliRunner().invoke(cli.app, ["weights", "convert", str(path), f"out={tmp_path / 'x.pth'}"]).exception, UserError
    )
