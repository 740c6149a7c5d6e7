"""``medgraft checks``: what this machine offers, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from medgraft import runs


def checks() -> tuple[str, bool]:
    """A line per part, ticked or crossed, and whether all that the main job needs is there."""
    import torch

    lines: list[str] = []
    good = True

    def tick(name: str, probe: Callable[[], str]) -> None:
        nonlocal good
        try:
            lines.append(f"ok       {name}: {probe()}")
        except Exception as error:
            good = False
            lines.append(f"MISSING  {name}: {type(error).__name__}: {error}".splitlines()[0])

    def device() -> str:
        if not torch.cuda.is_available():
            return (
                f"CPU, {os.cpu_count()} cores (no CUDA device: frozen features and small images are quick, 3D "
                f"training is slow)"
            )
        facts = torch.cuda.get_device_properties(0)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GB"

    def memory() -> str:
        if not hasattr(os, "sysconf"):
            return "unknown on this system"
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"

    def video() -> str:
        import av

        wanted = ("mjpeg", "h264", "mpeg4", "vp9")
        absent = [c for c in wanted if c not in av.codecs_available]
        if absent:
            raise RuntimeError(f"codecs {', '.join(absent)} are missing")
        return f"PyAV {av.__version__} reads {', '.join(wanted)}"

    def dicom() -> str:
        import gdcm
        import openjpeg
        import pydicom

        return f"pydicom {pydicom.__version__}, GDCM {gdcm.Version.GetVersion()}, JPEG 2000 {openjpeg.__version__}"

    def volumes() -> str:
        import SimpleITK

        return f"SimpleITK {SimpleITK.Version_VersionString()}"

    def weights() -> str:
        from medgraft.models import catalogue

        found = [card.name for card in catalogue.own_cards() if catalogue.here(card)]
        if not found:
            raise RuntimeError("no pretrained weights on this machine; `medgraft weights list` says which exist")
        return ", ".join(found)

    tick("device", device)
    tick("memory", memory)
    tick("disk", lambda: f"{runs.free_space(Path('.')):.0f} GB free here")
    tick("video", video)
    tick("DICOM", dicom)
    tick("volumes", volumes)
    tick("weights", weights)
    tick("versions", lambda: ", ".join(f"{k} {v}" for k, v in runs.versions().items()))
    return "\n".join(lines), good
