"""Bodies and weight cards of torchvision, timm, MONAI and segmentation_models_pytorch, on demand.

Every library is imported when one of its networks is named, not before. The facts of a network are
found by building it on torch's meta device, where it costs neither memory nor arithmetic.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import surgery
from medgraft.models.registry import BackboneInfo
from medgraft.models.weights import WeightCard

#: MONAI networks that are offered, all in 3D: name -> (class, output, divisor, arguments of the class).
_MONAI: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "densenet121": ("DenseNet121", "features", 1, {}),
    "densenet169": ("DenseNet169", "features", 1, {}),
    "densenet201": ("DenseNet201", "features", 1, {}),
    "basicunet": ("BasicUNet", "dense", 16, {}),
    "segresnet": ("SegResNet", "dense", 8, {}),
    "swinunetr": ("SwinUNETR", "dense", 32, {"feature_size": 48}),  # the width of the published weights
}


def has(library: str, bare: str) -> bool:
    """Does ``library`` hold a network of that name that medgraft can use?"""
    if library == "torchvision":
        return bare in _torchvision_names()
    if library == "timm":
        import timm

        return bool(timm.is_model(bare))
    if library == "monai":
        return bare in _MONAI
    architecture, _, encoder = bare.partition("-")
    smp = importlib.import_module("segmentation_models_pytorch")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        return False
    if encoder.startswith("tu-"):
        return has("timm", encoder.removeprefix("tu-"))
    return encoder in smp.encoders.encoders


def library_names(library: str) -> list[str]:
    """All usable networks of a library, with its prefix."""
    if library == "torchvision":
        found = _torchvision_names()
    elif library == "timm":
        import timm

        found = timm.list_models()
    elif library == "monai":
        found = list(_MONAI)
    else:
        smp = importlib.import_module("segmentation_models_pytorch")
        found = [f"{a}-{e}" for a in smp.MODEL_ARCHITECTURES_MAPPING for e in smp.encoders.encoders]
    return [f"{library}:{name}" for name in sorted(found)]


@lru_cache(maxsize=1)
def _torchvision_names() -> list[str]:
    """torchvision's image classification networks; its video and dense ones stand in the zoo."""
    import torchvision.models as models

    return models.list_models(module=models)


@lru_cache(maxsize=256)
def library_info(name: str) -> BackboneInfo:
    """Facts of ``library:name``, found on the meta device."""
    library, _, bare = name.partition(":")
    finders: dict[str, Callable[[str], dict[str, Any]]] = {
        "torchvision": _torchvision_facts,
        "timm": _timm_facts,
        "monai": _monai_facts,
        "smp": _smp_facts,
    }
    facts = finders[library](bare)
    dense = facts["output"] == "dense"

    def count() -> int:
        body = builder(name)(channels=3, size=None, **({"structures": 2} if dense else {}))
        if dense:
            last = body.get_submodule(cast(tuple[str, ...], body.last)[-1])
            return int(surgery.first_convolution(last)[1].in_channels)
        return int(surgery.output_shape(body, (1, 3, *facts["default_size"]))[-1])

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                features = count()
        except (NotImplementedError, RuntimeError):  # a few builders compute with tensors (RegNet)
            features = count()
    return BackboneInfo(name=name, family=library, features=features, **facts)


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder of ``library:name``: takes channels, size, options (and structures for dense networks)."""
    library, _, bare = name.partition(":")
    builders: dict[str, Callable[..., nn.Module]] = {
        "torchvision": _build_torchvision,
        "timm": _build_timm,
        "monai": _build_monai,
        "smp": _build_smp,
    }
    build = builders[library]
    return lambda **arguments: build(bare, **arguments)


def library_cards(name: str) -> list[WeightCard]:
    """Cards of ``library:name`` from the library's own records, the default first."""
    library, _, bare = name.partition(":")
    makers: dict[str, Callable[[str], list[WeightCard]]] = {
        "torchvision": _torchvision_cards,
        "timm": _timm_cards,
        "monai": _monai_cards,
        "smp": _smp_cards,
    }
    return makers[library](bare) if library in makers else []


# ---------------------------------------------------------------------------------------- torchvision

# Their published weights expect 2x - 1; torchvision undoes its own normalisation inside the network.
_HALVES = ("googlenet", "inception_v3")


def _torchvision_facts(bare: str) -> dict[str, Any]:
    import torchvision.models as models

    entries = list(models.get_model_weights(bare))
    size, least, paper = (224, 224), (32, 32), ""
    if entries:
        default = models.get_model_weights(bare).DEFAULT  # type: ignore[attr-defined]
        crop = default.transforms().crop_size[0]
        size = (crop, crop)
        if not bare.startswith("swin_"):  # these pad, whatever their record says
            least = (int(default.meta["min_size"][0]), int(default.meta["min_size"][1]))
        paper = str(default.meta.get("recipe", ""))
    return {
        "dims": 2,
        "output": "features",
        "default_size": size,
        "min_size": least,
        "fixed_size": bare.startswith(("vit_", "maxvit")),
        "auxiliary": 768 if bare == "inception_v3" else 0,
        "paper": paper,
    }


def _build_torchvision(
    bare: str,
    *,
    channels: int,
    size: tuple[int, ...] | None,
    classes: int | None = None,
    auxiliary: bool = False,
    **options: Any,
) -> nn.Module:
    """``auxiliary`` keeps Inception's side tower, which runs in training mode only; ``body.tower`` names it."""
    import torchvision.models as models

    if bare in _HALVES:
        options = {"aux_logits": auxiliary, "transform_input": False, "init_weights": True, **options}
    if size is not None and bare.startswith("vit_"):
        options = {"image_size": size[0], **options}
    if size is not None and bare.startswith("maxvit"):
        options = {"input_size": size, **options}
    body = models.get_model(bare, weights=None, **({"num_classes": classes} if classes else {}), **options)
    classifier = () if classes else (surgery.remove_classifier(body),)
    surgery.set_input_channels(body, channels)
    if auxiliary:
        body.AuxLogits.fc = nn.Identity()
        body.eager_outputs = lambda x, aux: x  # the tower is heard by a hook; the body gives its features alone
        body.tower = "AuxLogits"
    return surgery.annotate(body, removed=(*classifier, "AuxLogits.fc" if auxiliary else "AuxLogits", "aux1", "aux2"))


def _torchvision_cards(bare: str) -> list[WeightCard]:
    import torchvision.models as models

    weights = models.get_model_weights(bare)
    entries = sorted(weights, key=lambda w: w is not getattr(weights, "DEFAULT", None))
    dense = bare in models.list_models(module=models.segmentation)
    found = []
    for entry in entries:
        transform: Any = entry.transforms()
        url = entry.url
        stem = re.search(r"-([0-9a-f]{8})\.pth$", url)
        dataset = next(iter(entry.meta.get("_metrics", {})), "unknown")
        figures = ", ".join(
            f"{k.replace('acc@', 'top-')} {v} %" for k, v in entry.meta.get("_metrics", {}).get(dataset, {}).items()
        )
        half = bare in _HALVES
        found.append(
            WeightCard(
                name=f"torchvision:{bare}.{entry.name}",
                backbone=f"torchvision:{bare}",
                file_name=url.rsplit("/", 1)[-1],
                addresses=(url,),
                sha256=stem.group(1) if stem else "",
                licence="BSD-3-Clause (torchvision); its training data may add terms",
                source_data={"ImageNet-1K": "ImageNet-1k", "COCO-val2017-VOC-labels": "COCO (VOC labels)"}.get(
                    dataset, dataset
                ),
                accuracy=figures,
                paper=str(entry.meta.get("recipe", "")),
                input_size=tuple(getattr(transform, "crop_size", (224,)) * 2)[:2],
                resize=(getattr(transform, "resize_size", None) or [None])[0],
                interpolation=getattr(transform.interpolation, "value", "bilinear"),
                mean=(0.5,) * 3 if half else tuple(transform.mean),
                std=(0.5,) * 3 if half else tuple(transform.std),
                name_map="library",
            )
        )
    if dense:
        encoder = bare.split("_", 1)[1]
        image = _torchvision_cards(encoder)
        found += [
            replace(
                card,
                name=f"torchvision:{bare}.backbone_{card.tag}",
                backbone=f"torchvision:{bare}",
                scope="backbone",
                name_map="without_features" if encoder.startswith("mobilenet") else "library",
            )
            for card in image
        ]
    return found


def convert_state(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A library's own conversions: old DenseNet names, position embeddings for another size, timm's filters."""
    if any(".norm.1." in k or ".norm.2." in k for k in state):  # torchvision's DenseNet files predate its names
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", k): v for k, v in state.items()}
    positions = "encoder.pos_embedding"
    own = body.state_dict()
    if positions in state and positions in own and state[positions].shape != own[positions].shape:
        from collections import OrderedDict

        from torchvision.models.vision_transformer import interpolate_embeddings

        patch, image = int(body.patch_size), int(body.image_size)  # type: ignore[arg-type]
        state = dict(interpolate_embeddings(image, patch, OrderedDict(state)))
    module = type(body).__module__
    if type(body).__name__ == "SwinUNETR":  # its self-supervised files predate MONAI's names for the layers of a block
        state = {k.replace(".mlp.fc", ".mlp.linear"): v for k, v in state.items()}
    if module.startswith("timm."):
        convert = getattr(sys.modules[module], "checkpoint_filter_fn", None)
        if convert is not None:
            state = dict(convert(state, body))
    return state


# ---------------------------------------------------------------------------------------- timm


#: Licences of timm's records that are no household names.
_LICENCES = {
    "dinov3-license": "DINOv3 License: Meta's own terms, to be read before use and passed on with every copy",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License: no commercial use",
}


def _timm_facts(bare: str) -> dict[str, Any]:
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


def _build_timm(
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


def _timm_cards(bare: str) -> list[WeightCard]:
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
                source_data=_timm_source(tag, record.num_classes),
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


def _timm_source(tag: str, classes: int | None) -> str:
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


# ---------------------------------------------------------------------------------------- MONAI


def _monai_facts(bare: str) -> dict[str, Any]:
    _, output, divisor, _ = _MONAI[bare]
    side = 64
    return {
        "dims": 3,
        "output": output,
        "default_size": (side,) * 3,
        "min_size": (32,) * 3 if output == "features" else (divisor * 2,) * 3,
        "divisor": divisor,
    }


def monai_networks() -> Any:
    """The module of MONAI's networks.

    Importing it would import transformers for one network that is not offered here, half of its 13 seconds.
    """
    name, unwanted = "monai.networks.nets", "transformers"
    hide = name not in sys.modules and unwanted not in sys.modules
    if hide:
        sys.modules[unwanted] = None  # type: ignore[assignment]  # to the import system: not installed
    try:
        return importlib.import_module(name)
    finally:
        if hide:
            del sys.modules[unwanted]


def _build_monai(
    bare: str, *, channels: int, size: tuple[int, ...] | None, structures: int = 2, **options: Any
) -> nn.Module:
    networks = monai_networks()
    kind, output, _, arguments = _MONAI[bare]
    body: nn.Module = getattr(networks, kind)(
        **{"spatial_dims": 3, "in_channels": channels, "out_channels": structures, **arguments, **options}
    )
    if output == "features":
        return surgery.annotate(body, removed=(surgery.remove_classifier(body),))
    return surgery.annotate(body, last=(surgery.last_layer(body),))


def _monai_cards(bare: str) -> list[WeightCard]:
    if bare != "swinunetr":
        return []
    return [
        WeightCard(
            name="monai:swinunetr.ssl_ct",
            backbone="monai:swinunetr",
            file_name="model_swinvit.pt",
            addresses=(
                "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt",
            ),
            licence="Apache-2.0 (MONAI); its training data may add terms",
            source_data="5050 CT volumes of head, chest, abdomen and pelvis, self-supervised",
            accuracy="none of its own; a start for segmentation",
            paper="arXiv:2111.14791",
            input_size=(96, 96, 96),
            mean=(0.0,),
            std=(1.0,),
            channels=1,
            name_map="library",
            scope="swinViT",
            notes="no hash is published; -1000 to 1000 HU become 0 to 1; encoder only",
        )
    ]


# ---------------------------------------------------------------------------------------- segmentation_models_pytorch


def _smp_facts(bare: str) -> dict[str, Any]:
    return {"dims": 2, "output": "dense", "default_size": (224, 224), "min_size": (64, 64), "divisor": 32}


def _build_smp(bare: str, *, channels: int, structures: int, size: tuple[int, ...] | None, **options: Any) -> nn.Module:
    smp = importlib.import_module("segmentation_models_pytorch")
    architecture, _, encoder = bare.partition("-")
    body = smp.create_model(
        architecture, encoder, encoder_weights=None, in_channels=channels, classes=structures, **options
    )
    removed = (
        "encoder.fc",
        "encoder.last_linear",
        "encoder.classifier",
        "encoder.model.fc",
        "encoder.model.classifier",
        "encoder.model.head",
    )
    return surgery.annotate(body, removed=removed, last=("segmentation_head",))


def _smp_cards(bare: str) -> list[WeightCard]:
    smp = importlib.import_module("segmentation_models_pytorch")
    encoder = bare.partition("-")[2]
    if encoder.startswith("tu-"):
        return [
            replace(
                card, name=f"smp:{bare}.{card.tag}", backbone=f"smp:{bare}", scope="encoder.model", name_map="identity"
            )
            for card in _timm_cards(encoder.removeprefix("tu-"))
        ]
    if not re.match(r"(resnet|resnext|densenet|vgg|mobilenet_v2)", encoder):
        return []  # their preprocessing stands only at the hub; the same networks have full records as tu- encoders
    sources = {"imagenet": "ImageNet-1k", "ssl": "YFCC-100M, ImageNet-1k", "swsl": "Instagram-1B, ImageNet-1k"}
    return [
        WeightCard(
            name=f"smp:{bare}.{tag}",
            backbone=f"smp:{bare}",
            file_name=f"{encoder}.{tag}.safetensors",
            addresses=(f"https://huggingface.co/{place['repo_id']}/resolve/{place['revision']}/model.safetensors",),
            source_data=sources[tag],
            scope="encoder",
        )
        for tag, place in smp.encoders.encoders[encoder]["pretrained_settings"].items()
        if tag in sources and "repo_id" in place
    ]
