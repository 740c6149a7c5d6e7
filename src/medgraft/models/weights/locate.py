"""From a card to its verified file on this machine: packages, folders, cache, parts to be joined, downloads."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgraft.errors import UserError, WeightsAbsent
from medgraft.files import sha256
from medgraft.models.records import WeightCard
from medgraft.models.weights import convert
from medgraft.progress import bar


def default_cache() -> Path:
    """Where downloads go unless a folder is named."""
    return Path.home() / ".cache" / "medgraft" / "weights"


def locate(
    card: WeightCard, *, folders: Sequence[Path] = (), download: bool = False, cache: Path | None = None
) -> Path:
    """The verified weight file on this machine.

    Looks in the package that ships it, beside its card, in ``folders``, in ``cache`` (default:
    ``~/.cache/medgraft/weights``), joins its shards into ``cache`` where their packages are installed, then, if
    ``download``, asks the card's addresses. A file whose hash is wrong is an error, never skipped. Of a file that
    medgraft converted (``weights/convert``) the result alone does, with the note of its hashes.
    Raises ``WeightsAbsent`` naming the file, its hash and the folder to put it in.
    """
    cache = Path(cache) if cache is not None else default_cache()
    if card.package and card.package_file:
        packaged = _in_package(card.package, card.package_file)
        if packaged is not None:
            return verify(packaged, card)
    for folder in (*([Path(card.folder)] if card.folder else []), *folders, cache):
        path = Path(folder) / card.file_name
        if path.is_file():
            return verify(path, card)
        if convert.twin(path).is_file():
            return convert.checked(convert.twin(path), source=card.sha256)
    parts = shards(card)
    if parts:
        return _joined(card, parts, cache)
    if download and card.addresses:
        return _download(card, cache)
    ways = [f"put it into {card.folder or next(iter(folders), cache)}"]
    if card.package:
        ways.append(f"or pip install {card.package}")
    if card.addresses:
        ways.append("or allow the download" if not download else "")
        ways.append(f"(published at {card.addresses[0]})")
    wanted = (
        f"sha256 {card.sha256}"
        if len(card.sha256) == 64
        else f"sha256 {card.sha256}..."
        if card.sha256
        else "no published hash"
    )
    raise WeightsAbsent(
        f"the weights file {card.file_name} ({wanted}) is not on this machine",
        case=card.name,
        fix=" ".join(filter(None, ways)),
    )


def _in_package(package: str, file: str) -> Path | None:
    """A file of an installed package; nothing of the package is imported."""
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def shards(card: WeightCard) -> list[Path]:
    """The parts of a card's file in order, or none if a package with one of them is not installed."""
    parts = [_in_package(*shard.split(":", 1)) for shard in card.shards]
    return [part for part in parts if part is not None] if all(parts) else []


def _joined(card: WeightCard, parts: Sequence[Path], cache: Path) -> Path:
    """Write the parts one after another into ``cache``; the file appears there whole and verified or not at all."""
    handle, name = _partial(card, cache)
    try:
        with os.fdopen(handle, "wb") as sink:
            for part in parts:
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 22)
            sink.flush()
            os.fsync(sink.fileno())
        try:
            verify(name, card)
        except UserError as error:
            whole = error.cause.replace(name.name, card.file_name)
            raise UserError(
                f"joined from its parts, {whole}", case=card.name, fix=f"install {card.package} again"
            ) from error
        os.replace(name, cache / card.file_name)
    finally:
        name.unlink(missing_ok=True)
    return cache / card.file_name


def _partial(card: WeightCard, cache: Path) -> tuple[int, Path]:
    """An open temporary file beside where the card's file will lie, and its path."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{card.file_name}.", suffix=".part", dir=cache)
    except OSError as error:
        raise UserError(
            f"the folder for weights cannot be written to ({error.strerror})",
            case=str(cache),
            fix="name another folder",
        ) from error
    return handle, Path(name)


def verify(path: Path, card: WeightCard) -> Path:
    """Return ``path`` if it is the file of the card; a wrong size or hash is a ``UserError``."""
    size = path.stat().st_size
    if card.size_bytes is not None and size != card.size_bytes:
        raise UserError(
            f"{path.name} has {size} bytes, the card says {card.size_bytes}",
            case=card.name,
            fix=f"replace the file in {path.parent}",
        )
    if card.sha256:
        digest = sha256(path)
        if not digest.startswith(card.sha256):
            raise UserError(
                f"{path.name} has sha256 {digest}, the card says {card.sha256}",
                case=card.name,
                fix=f"replace the file in {path.parent}",
            )
    return path


class _KeepRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps their headers: a hub states the file's hash in the first answer only."""

    def __init__(self) -> None:
        self.headers: list[Any] = []

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(("https:", "http:")):
            raise urllib.error.URLError(f"redirect to {newurl.partition(':')[0]}: refused")
        self.headers.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(card: WeightCard, cache: Path) -> Path:
    """Fetch the file of a card into ``cache``; it appears there whole and verified or not at all."""
    path = cache / card.file_name
    failures = []
    for address in card.addresses:
        if not address.lower().startswith(("https://", "http://")):
            failures.append(f"{address}: only http and https addresses are fetched")
            continue
        handle, temporary = _partial(card, cache)
        try:
            with os.fdopen(handle, "wb") as sink:
                expected = _fetch(address, sink, card)
            verify(temporary, replace(card, sha256=card.sha256 or expected))
            os.replace(temporary, path)
            return path
        except UserError as error:
            failures.append(f"{address}: {error.cause.replace(temporary.name, card.file_name)}")
        except (OSError, urllib.error.URLError, ValueError) as error:
            failures.append(f"{address}: {getattr(error, 'reason', None) or error}")
        finally:
            temporary.unlink(missing_ok=True)
    wanted = f"sha256 {card.sha256}" if card.sha256 else "no published hash"
    raise WeightsAbsent(
        f"the weights file {card.file_name} ({wanted}) could not be downloaded ({'; '.join(failures)})",
        case=card.name,
        fix=f"fetch it elsewhere and put it into {cache}",
    )


def _fetch(address: str, sink: Any, card: WeightCard) -> str:
    """Stream an address into ``sink`` with a progress bar; returns the hash that the hub states, or ''."""
    redirects = _KeepRedirects()
    request = urllib.request.Request(address, headers={"User-Agent": "medgraft"})
    with urllib.request.build_opener(redirects).open(request, timeout=30) as answer:
        if answer.headers.get_content_type() == "text/html":  # a notice or a question instead of the file
            raise ValueError("a web page, not a file")
        length = answer.headers.get("Content-Length")
        total = int(length) if length else card.size_bytes
        done = 0
        with bar(total, card.file_name, rate="bytes/s", transient=True) as step:
            while block := answer.read(1 << 20):
                sink.write(block)
                done += len(block)
                step(len(block))
        sink.flush()
        os.fsync(sink.fileno())
        if total is not None and done != total:
            raise ValueError(f"cut off after {done} of {total} bytes")
        for headers in (*redirects.headers, answer.headers):
            stated = (headers.get("X-Linked-Etag") or "").strip('"')
            if re.fullmatch(r"[0-9a-f]{64}", stated):
                return stated
    return ""
