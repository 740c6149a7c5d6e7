"""Packs of weight files: whole there and back, and nothing put anywhere from one that is not what it says."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgraft.errors import UserError
from medgraft.models import weights
from medgraft.models.weights import WeightCard, pack

DATA = {"one.pth": bytes(range(256)) * 5000, "two.safetensors": b"2" * 1537, "empty.bin": b""}


def card(file: str, name: str = "", **other: Any) -> WeightCard:
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(DATA[file]).hexdigest(),
        "licence": "MIT",
        "source_data": "made here",
    }
    return WeightCard(name or f"made.{file}", "made", file, **{**facts, **other})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    return folder


def packed(store: Path, out: Path) -> pack.Packed:
    cards = [card("one.pth"), card("one.pth", "made.again", licence="BSD"), card("two.safetensors"), card("empty.bin")]
    return pack.pack(out, [*cards, WeightCard("made.gone", "made", "gone.pth")], folders=[store], cache=store)


# ---------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", ["pack.tar", "pack"])
def test_files_arrive_whole_with_what_is_known_of_them(name: str, store: Path, tmp_path: Path) -> None:
    made = packed(store, tmp_path / name)
    assert made.absent == ("made.gone",) and [e.file for e in made.entries] == sorted(DATA)
    assert next(e for e in made.entries if e.file == "one.pth").cards == ("made.one.pth", "made.again")
    assert "MIT, BSD" in made.text() and "made.gone" in made.text()
    result = pack.unpack(tmp_path / name, into=tmp_path / "there")
    assert sorted(result.placed) == sorted(DATA) and not result.there
    assert sorted(result.unknown) == sorted(DATA)  # made here: no card of this version
    assert {p.name: p.read_bytes() for p in (tmp_path / "there").iterdir()} == DATA
    again = pack.unpack(tmp_path / name, into=tmp_path / "there")
    assert not again.placed and sorted(again.there) == sorted(DATA)
    assert {p.name: p.read_bytes() for p in (tmp_path / "there").iterdir()} == DATA


def test_the_manifest_names_cards_hashes_and_licences(store: Path, tmp_path: Path) -> None:
    packed(store, tmp_path / "pack.tar")
    with tarfile.open(tmp_path / "pack.tar", "r:") as archive:
        assert archive.getnames() == ["manifest.json", *(f"weights/{n}" for n in sorted(DATA))]
        listed = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    row = next(r for r in listed["files"] if r["file"] == "one.pth")
    assert row["sha256"] == hashlib.sha256(DATA["one.pth"]).hexdigest() and row["bytes"] == len(DATA["one.pth"])
    assert (
        row["cards"] == ["made.one.pth", "made.again"]
        and row["licences"] == ["MIT", "BSD"]
        and row["source_data"] == ["made here"]
    )


def test_the_same_files_make_the_same_bytes(store: Path, tmp_path: Path) -> None:
    packed(store, tmp_path / "a.tar"), packed(store, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_real_start_travels_and_is_found(tmp_path: Path) -> None:
    """From the installed package to a folder of weights, under the name that its card gives."""
    cards = pack.cards_of(["efficientnet_lite0"])
    made = pack.pack(tmp_path / "pack.tar", cards, cache=tmp_path / "none")
    assert [e.cards for e in made.entries] == [("efficientnet_lite0.imagenet",)]
    result = pack.unpack(tmp_path / "pack.tar", into=tmp_path / "there")
    assert not result.unknown and len(result.placed) == 1
    assert weights.verify(tmp_path / "there" / cards[0].file_name, cards[0]).is_file()


def test_a_converted_file_travels_with_its_note(tmp_path: Path) -> None:
    """Of a foreign file the converted one alone may be here; without the note of its hashes it would not be taken
    there.
    """
    import pickle

    from medgraft.models.weights import convert

    source = tmp_path / "store" / "net.pkl"
    source.parent.mkdir()
    source.write_bytes(pickle.dumps({"blobs": {"w": np.ones(3, np.float32)}}, protocol=2))
    convert.convert(source)
    source.unlink()
    facts = WeightCard("made.net", "made", "net.pkl")
    pack.pack(tmp_path / "pack.tar", [facts], folders=[tmp_path / "store"], cache=tmp_path / "none")
    pack.unpack(tmp_path / "pack.tar", into=tmp_path / "there")
    assert weights.locate(facts, folders=[tmp_path / "there"]).name == "net.pkl.safetensors"
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == [
        "net.pkl.safetensors",
        "net.pkl.safetensors.sha256",
    ]


def test_names_of_networks_and_of_cards_choose() -> None:
    assert [c.tag for c in pack.cards_of(["r2plus1d_34"])] == ["ig65m_8", "ig65m_32", "kinetics_8", "kinetics_32"]
    assert [c.name for c in pack.cards_of(["r2plus1d_34.ig65m_8", "torchvision:resnet18"])][:2] == [
        "r2plus1d_34.ig65m_8",
        "torchvision:resnet18.IMAGENET1K_V1",
    ]
    with pytest.raises(UserError, match="unknown network"):
        pack.cards_of(["r2plus1d_43"])
    whole = pack.cards_of([])
    assert len(whole) > 50 and all(pack._plain(c.file_name) for c in whole)


def test_packing_refuses_what_it_cannot_vouch_for(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weight file"):
        pack.pack(tmp_path / "p.tar", [WeightCard("made.gone", "made", "gone.pth")], folders=[store], cache=store)
    with pytest.raises(UserError, match="something of that name"):
        packed(store, store)
    (store / "two.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match="the card says"):
        packed(store, tmp_path / "p.tar")
    other = tmp_path / "other"
    other.mkdir()
    (other / "one.pth").write_bytes(b"other")
    twice = [card("one.pth"), card("one.pth", sha256="")]
    for reverse in (False, True):  # each card finds the file in its own folder
        with pytest.raises(UserError):
            pack.pack(tmp_path / "p.tar", twice[:: -1 if reverse else 1], folders=[other, store], cache=store)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "store"]


# ---------------------------------------------------------------------------------------- hostile packs


def manifest(*rows: dict[str, Any], version: Any = 1) -> bytes:
    return json.dumps({"medgraft_weights": version, "files": list(rows)}).encode()


def row(file: Any, data: bytes = b"x", **other: Any) -> dict[str, Any]:
    words: dict[str, Any] = {key: [] for key in ("cards", "licences", "source_data", "addresses")}
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **words, **other}


def member(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info, data


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file of exactly these headers and bytes."""
    with open(path, "wb") as stream:
        for info, data in members:
            stream.write(info.tobuf(form, "utf-8", "surrogateescape") + data + b"\0" * (-len(data) % 512))
        stream.write(b"\0" * 1024)
    return path


ONE = member("manifest.json", manifest(row("a.pth")))
NAMED = member("weights/a.pth")


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "absolute": lambda p: tar(p, ONE, NAMED, member("/etc/medgraft-harm")),
    "climbing": lambda p: tar(p, ONE, NAMED, member("weights/../../harm")),
    "above": lambda p: tar(p, ONE, member("../a.pth")),
    "absolute in the manifest": lambda p: tar(
        p, member("manifest.json", manifest(row("/etc/medgraft-harm"))), member("weights//etc/medgraft-harm")
    ),
    "climbing in the manifest": lambda p: tar(
        p, member("manifest.json", manifest(row("../harm"))), member("weights/../harm")
    ),
    "folder in the manifest": lambda p: tar(
        p, member("manifest.json", manifest(row("b/a.pth"))), member("weights/b/a.pth")
    ),
    "backslash": lambda p: tar(p, member("manifest.json", manifest(row("..\\harm"))), member("weights/..\\harm")),
    "drive": lambda p: tar(p, member("manifest.json", manifest(row("c:harm"))), member("weights/c:harm")),
    "hidden": lambda p: tar(p, member("manifest.json", manifest(row(".profile"))), member("weights/.profile")),
    "device name": lambda p: tar(p, member("manifest.json", manifest(row("con.pth"))), member("weights/con.pth")),
    "line break": lambda p: tar(p, member("manifest.json", manifest(row("a\nb"))), member("weights/a\nb")),
    "long name": lambda p: tar(p, member("manifest.json", manifest(row("a" * 200)))),
    "two of one name": lambda p: tar(
        p, member("manifest.json", manifest(row("a.pth"), row("A.pth"))), NAMED, member("weights/A.pth")
    ),
    "symbolic link": lambda p: tar(p, ONE, member("weights/a.pth", b"", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda p: tar(p, ONE, member("weights/a.pth", b"", tarfile.LNKTYPE, "manifest.json")),
    "device": lambda p: tar(p, ONE, member("weights/a.pth", b"", tarfile.CHRTYPE)),
    "block device": lambda p: tar(p, ONE, member("weights/a.pth", b"", tarfile.BLKTYPE)),
    "pipe": lambda p: tar(p, ONE, member("weights/a.pth", b"", tarfile.FIFOTYPE)),
    "folder": lambda p: tar(p, ONE, member("weights", b"", tarfile.DIRTYPE), NAMED),
    "sparse": lambda p: tar(p, ONE, member("weights/a.pth", b"x", tarfile.GNUTYPE_SPARSE), form=tarfile.GNU_FORMAT),
    "extended header": lambda p: tar(p, ONE, member("weights/a.pth", b"30 path=../harm\n", tarfile.XHDTYPE), NAMED),
    "long name header": lambda p: tar(p, ONE, member("././@LongLink", b"../harm\0", tarfile.GNUTYPE_LONGNAME), NAMED),
    "unnamed file": lambda p: tar(p, ONE, NAMED, member("weights/b.pth")),
    "file twice": lambda p: tar(p, ONE, NAMED, NAMED),
    "missing file": lambda p: tar(p, member("manifest.json", manifest(row("a.pth"), row("b.pth"))), NAMED),
    "manifest later": lambda p: tar(p, NAMED, ONE),
    "no manifest": lambda p: tar(p, NAMED),
    "other hash": lambda p: tar(p, ONE, member("weights/a.pth", b"y")),
    "other size": lambda p: tar(p, ONE, member("weights/a.pth", b"xx")),
    "cut before a file": lambda p: cut(tar(p, ONE, NAMED), 3 * 512),
    "cut in a header": lambda p: cut(tar(p, ONE, NAMED), 2 * 512 + 100),
    "cut in a file": lambda p: cut(
        tar(p, member("manifest.json", manifest(row("a.pth", b"x" * 2000))), member("weights/a.pth", b"x" * 2000)), 3000
    ),
    "huge": lambda p: tar(
        p, member("manifest.json", manifest(row("a.pth", bytes=10**18))), member("weights/a.pth", size=8**11 - 1)
    ),
    "huge manifest": lambda p: tar(p, member("manifest.json", b"{}", size=8**11 - 1)),
    "negative": lambda p: tar(p, member("manifest.json", manifest(row("a.pth", bytes=-1))), NAMED),
    "fraction": lambda p: tar(p, member("manifest.json", manifest(row("a.pth", bytes=1.0))), NAMED),
    "words for lists": lambda p: tar(p, member("manifest.json", manifest(row("a.pth", cards=[3]))), NAMED),
    "no hash": lambda p: tar(p, member("manifest.json", manifest(row("a.pth", sha256=""))), NAMED),
    "number for a name": lambda p: tar(p, member("manifest.json", manifest(row(3))), NAMED),
    "deep": lambda p: tar(p, member("manifest.json", b"[" * 100_000)),
    "no object": lambda p: tar(p, member("manifest.json", b"3")),
    "no list": lambda p: tar(p, member("manifest.json", b'{"medgraft_weights": 1, "files": {}}')),
    "version": lambda p: tar(p, member("manifest.json", manifest(row("a.pth"), version=2)), NAMED),
    "noise": lambda p: noise(p, os.urandom(4096)),
    "nothing": lambda p: noise(p, b""),
    "zeros": lambda p: noise(p, b"\0" * 4096),
    "compressed": lambda p: noise(p, gzip.compress(b"\0" * (1 << 20))),
}


def noise(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def cut(path: Path, length: int) -> Path:
    path.write_bytes(path.read_bytes()[:length])
    return path


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_packs_are_refused_and_put_nothing_anywhere(name: str, tmp_path: Path) -> None:
    source = HOSTILE[name](tmp_path / "pack.tar")
    before = source.read_bytes()
    with pytest.raises(UserError) as caught:
        pack.unpack(source, into=tmp_path / "there" / "weights")
    assert "\n" not in str(caught.value)
    assert source.read_bytes() == before
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["pack.tar", "there", "there/weights"]
    assert not Path("/etc/medgraft-harm").exists()


def test_the_reader_of_hostile_packs_takes_a_good_one(tmp_path: Path) -> None:
    """The parts that the hostile ones are made of are fine by themselves."""
    assert pack.unpack(tar(tmp_path / "pack.tar", ONE, NAMED), into=tmp_path / "there").placed == ("a.pth",)


def test_a_pack_that_vouches_for_itself_is_measured_by_the_card(tmp_path: Path) -> None:
    """The manifest's hash is right for the file in the pack, but the file is not the one that the card names."""
    lite = pack.cards_of(["efficientnet_lite0"])[0]
    for file, word in ((lite.file_name, "the card says"), ("other.pth", "whose file is " + lite.file_name)):
        listed = member("manifest.json", manifest(row(file, cards=[lite.name])))
        with pytest.raises(UserError, match=word):
            pack.unpack(tar(tmp_path / "pack.tar", listed, member(f"weights/{file}")), into=tmp_path / "there")
        assert not list((tmp_path / "there").iterdir())


def test_files_that_are_there_already_stay(store: Path, tmp_path: Path) -> None:
    packed(store, tmp_path / "pack.tar")
    there = tmp_path / "there"
    there.mkdir()
    (there / "two.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"another two.safetensors is there already"):
        pack.unpack(tmp_path / "pack.tar", into=there)
    assert [p.name for p in there.iterdir()] == ["two.safetensors"] and (
        there / "two.safetensors"
    ).read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_in_a_packed_folder_are_not_followed(store: Path, tmp_path: Path) -> None:
    packed(store, tmp_path / "pack")
    inside = tmp_path / "pack" / "weights" / "one.pth"
    inside.unlink()
    inside.symlink_to(store / "one.pth")
    with pytest.raises(UserError, match="not a plain file"):
        pack.unpack(tmp_path / "pack", into=tmp_path / "there")
    (tmp_path / "pack" / "weights").rename(tmp_path / "elsewhere")
    (tmp_path / "pack" / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder weights"):
        pack.unpack(tmp_path / "pack", into=tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_the_tar_that_others_write_is_read_where_it_is_plain(store: Path, tmp_path: Path) -> None:
    """A pack made again with tar itself, in its own format, from an unpacked folder."""
    packed(store, tmp_path / "pack")
    with tarfile.open(tmp_path / "again.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "pack" / "manifest.json", "manifest.json")
        for name in DATA:
            archive.add(tmp_path / "pack" / "weights" / name, f"weights/{name}")
    assert sorted(pack.unpack(tmp_path / "again.tar", into=tmp_path / "there").placed) == sorted(DATA)


def test_a_file_too_large_for_tar_is_said_so(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TAR_BYTES", 1000)
    with pytest.raises(UserError, match="too large for a tar file"):
        packed(store, tmp_path / "p.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
