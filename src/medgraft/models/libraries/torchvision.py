"""torchvision's image classification networks and their weights; its video and dense ones stand in the zoo."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import WeightCard

# Their published weights expect 2x - 1; torchvision undoes its own normalisation inside the network.
_HALVES = ("googlenet", "inception_v3")


@lru_cache(maxsize=1)
def names() -> list[str]:
    """Networks by torchvision's names."""
    import torchvision.models as models

    return models.list_models(module=models)


def has(bare: str) -> bool:
    return bare in names()


def facts(bare: str) -> dict[str, Any]:
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


def build(
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
    if bare.startswith("vit_"):
        options = {"image_size": (size or facts(bare)["default_size"])[0], **options}
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


def cards(bare: str) -> list[WeightCard]:
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
        image = cards(encoder)
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
    """Names of old DenseNet files, and position embeddings of ViT for another size."""
    if any(".norm.1." in k or ".norm.2." in k for k in state):  # torchvision's DenseNet files predate its names
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", k): v for k, v in state.items()}
    positions = "encoder.pos_embedding"
    own = body.state_dict()
    if positions in state and positions in own and state[positions].shape != own[positions].shape:
        from torchvision.models.vision_transformer import interpolate_embeddings

        patch, image = int(body.patch_size), int(body.image_size)  # type: ignore[arg-type]
        state = dict(interpolate_embeddings(image, patch, OrderedDict(state)))
    return state
