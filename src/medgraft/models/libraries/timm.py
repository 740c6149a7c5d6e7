"""timm's networks and their weights, from its own records."""

from __future__ import annotations

import re
import sys
from typing import Any

from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import surgery
from medgraft.models.records import WeightCard

#: Licences of timm's records that are no household names.
_LICENCES = {
    "dinov3-license": "DINOv3 License: Meta's own terms, to be read before use and passed on with every copy",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License: no commercial use",
}


def names() -> list[str]:
    """Networks by timm's names."""
    import timm

    return timm.list_models()


def has(bare: str) -> bool:
    import timm

    return bool(timm.is_model(bare))


def facts(bare: str) -> dict[str, Any]:
    import timm

    record = timm.get_pretrained_cfg(bare)
    size = tuple(record.input_size[1:]) if record is not None else (224, 224)
    fixed = bool(record is not None and record.fixed_input_size)
    paper = record.paper_ids if record is not None and isinstance(record.paper_ids, str) else ""
    return {
        "dims": 2,
        "output": "features",
        "default_size": size,
        "min_size": (1, 1) if fixed else (32, 32),
        "fixed_size": fixed,
        "paper": paper,
    }


def build(
    bare: str, *, channels: int, size: tuple[int, ...] | None, classes: int | None = None, **options: Any
) -> nn.Module:
    import timm

    record = timm.get_pretrained_cfg(bare)
    if size is not None and record is not None and record.fixed_input_size:
        options = {"img_size": size, **options}
    body: Any = timm.create_model(bare, pretrained=False, num_classes=classes or 0, in_chans=channels, **options)
    embedding = getattr(body, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if (
        size is not None
        and isinstance(patch, tuple)
        and not getattr(embedding, "dynamic_img_pad", False)
        and any(s % p for s, p in zip(size, patch))
    ):
        # timm would build it and leave out what lies beyond the last whole patch, without a word
        raise UserError(
            f"the network cuts pictures into patches of {patch}, {tuple(size)} is no multiple",
            case=f"timm:{bare}",
            fix="change `size`",
        )
    if classes:
        return surgery.annotate(body)
    classifier = (body.default_cfg or {}).get("classifier") or ()
    return surgery.annotate(body, removed=(classifier,) if isinstance(classifier, str) else tuple(classifier))


def cards(bare: str) -> list[WeightCard]:
    import timm

    default = timm.get_pretrained_cfg(bare)
    listed = timm.list_models(f"{bare}.*", pretrained=True) or (
        [bare] if default is not None and default.has_weights else []
    )
    tags = [name.partition(".")[2] for name in listed]
    found = []
    for tag in sorted(tags, key=lambda t: (default is None or t != default.tag, t)):
        record = timm.get_pretrained_cfg(f"{bare}.{tag}" if tag else bare)
        if (
            record is None
            or record.custom_load == "hf"
            or not (record.hf_hub_id or (record.url and not record.custom_load))
        ):
            continue  # no file, or one that only timm's own loader reads
        label = tag or "pretrained"
        if record.hf_hub_id:
            file = record.hf_hub_filename or "model.safetensors"
            address = f"https://huggingface.co/{record.hf_hub_id}/resolve/main/{file}"
            file_name, digest = f"{bare}.{label}.{file.rpartition('.')[2]}", ""
        else:
            address = str(record.url)
            file_name = address.rsplit("/", 1)[-1]
            stem = re.search(r"-([0-9a-f]{8,64})\.(?:pth|safetensors)$", file_name)
            digest = stem.group(1) if stem else ""
        crop = record.crop_pct or 1.0
        found.append(
            WeightCard(
                name=f"timm:{bare}.{label}",
                backbone=f"timm:{bare}",
                file_name=file_name,
                addresses=(address,),
                sha256=digest,
                licence=_LICENCES.get(record.license or "", record.license or "unknown"),
                source_data=_source(tag, record.num_classes),
                paper=record.paper_ids if isinstance(record.paper_ids, str) else "",
                input_size=tuple(record.input_size[1:]),
                resize=round(record.input_size[1] / crop),
                interpolation=record.interpolation,
                mean=tuple(record.mean),
                std=tuple(record.std),
                channels=record.input_size[0],
                name_map="library",
                notes=record.notes if isinstance(record.notes, str) else "",
            )
        )
    return found


def _source(tag: str, classes: int | None) -> str:
    """Source data from a timm tag, the last stage of training last: ``augreg_in21k_ft_in1k`` -> ImageNet-21k,
    ImageNet-1k.
    """
    known = {
        "in1k": "ImageNet-1k",
        "in12k": "ImageNet-12k",
        "in21k": "ImageNet-21k",
        "in22k": "ImageNet-22k",
        "lvd142m": "LVD-142M",
        "lvd1689m": "LVD-1689M",
        "sat493m": "SAT-493M",
        "laion2b": "LAION-2B",
        "laion400m": "LAION-400M",
        "openai": "OpenAI CLIP data",
        "webli": "WebLI",
        "dfn2b": "DFN-2B",
        "dfn5b": "DFN-5B",
        "merged2b": "Merged-2B",
        "datacompxl": "DataComp-XL",
        "ig1b": "Instagram-1B",
        "yfcc100m": "YFCC-100M",
        "inat21": "iNaturalist-2021",
        "cc12m": "CC-12M",
        "metaclip": "MetaCLIP",
    }
    stages = [known[word] for word in re.split(r"[_.]", tag) if word in known]
    if stages:
        return ", ".join(dict.fromkeys(stages))
    return {1000: "ImageNet-1k", 21843: "ImageNet-21k", 21841: "ImageNet-21k", 11821: "ImageNet-12k"}.get(
        classes or 0, f"see tag '{tag}'"
    )


def convert_state(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """What timm itself does to a file for one of its networks."""
    module = type(body).__module__
    convert = getattr(sys.modules[module], "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    return state if convert is None else dict(convert(state, body))
