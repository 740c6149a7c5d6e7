"""Frames of a data set as pictures, for viewers and for projects that read folders of frames.

``<tumour>/<tumour>_<video>_<index>.bmp``: one folder for each case of the source (a folder, or the first part of a
file's name), its videos and the frames of each counted from 1. A scan of such a folder reads the videos back. Pixels
are those of the store, so what the text pass blacked out stays black; names are codes unless the data set keeps
identity.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from medgraft import store
from medgraft.errors import UserError
from medgraft.files import disk_error


def write_frames(
    root: Path, manifest: pl.DataFrame, names: dict[str, tuple[str, int]], folder: Path, suffix: str = "bmp"
) -> int:
    """Write every frame of every image and video below ``folder``; return how many. Volumes are left out.

    More than 8 bits do not fit a BMP: such frames are PNG. A file that is there is written again. Raises ``UserError``
    where the folder lies in the data set or the disk refuses.
    """
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError("frames cannot be exported into the data set", case=str(folder), fix="give another export=DIR")
    count = 0
    for case, kind, array_id in manifest.select("case_id", "kind", "array_id").iter_rows():
        array = store.open_array(root, array_id)
        if kind == "volume" or array.dtype not in (np.uint8, np.uint16):
            continue
        tumour, video = names[case]
        target = folder / tumour
        try:
            target.mkdir(parents=True, exist_ok=True)
            for index in range(array.shape[1]):
                frame = np.ascontiguousarray(array[0, index] if len(array) == 1 else array[:, index].transpose(1, 2, 0))
                ending = suffix if frame.dtype == np.uint8 else "png"
                Image.fromarray(frame).save(target / f"{tumour}_{video}_{index + 1}.{ending}")
                count += 1
        except OSError as error:
            raise disk_error(error, folder) from error
        store.release(root, array_id)
    return count
