"""The store: whole arrays or none, by content, in a stream."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medgraft import store
from medgraft.errors import UserError

SHAPES = hnp.array_shapes(min_dims=4, max_dims=4, max_side=6)
FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)  # readers refuse what is not finite


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(
        hnp.arrays(np.uint8, SHAPES), hnp.arrays(np.int16, SHAPES), hnp.arrays(np.float32, SHAPES, elements=FLOATS)
    )
)
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    root = tmp_path_factory.mktemp("store")
    stored = store.write_array(root, array)
    back = store.open_array(root, stored.array_id)
    assert back.dtype == array.dtype and stored.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert (
        np.load(store.path_of(root, stored.array_id), allow_pickle=False).shape[0] == array.shape[1]
    )  # a plain .npy for anybody


def test_content_names_the_file(tmp_path) -> None:
    a = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
    first, again = store.write_array(tmp_path, a), store.write_array(tmp_path, a)
    other_shape = store.write_array(tmp_path, a.reshape(1, 2, 4, 3))
    other_type = store.write_array(tmp_path, a.astype(np.int16))
    assert first.array_id == again.array_id
    assert len({first.array_id, other_shape.array_id, other_type.array_id}) == 3
    assert len(list(tmp_path.glob("arrays/??/*.npy"))) == 3


def test_percentiles_are_those_of_the_values(tmp_path) -> None:
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 256, (1, 40, 64, 64), np.uint8)
    raw = rng.normal(1000, 50, (1, 10, 64, 64)).astype(np.float32)
    for array, tolerance in ((bright, 1.0), (raw, 3.0)):
        stored = store.write_array(tmp_path, array)
        low, high = np.percentile(array, [0.5, 99.5])
        assert abs(stored.p005 - low) <= tolerance and abs(stored.p995 - high) <= tolerance


def test_masks_keep_their_axes(tmp_path) -> None:
    mask = np.random.default_rng(1).integers(0, 2, (5, 3, 8, 9), np.uint8)
    stored = store.write_mask(tmp_path, mask)
    np.testing.assert_array_equal(store.open_mask(tmp_path, stored.array_id), mask)


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path) -> None:
    code = (
        "import numpy as np, os, signal, sys; from medgraft import store\n"
        "w = store.ArrayWriter(sys.argv[1])\n"
        "[w.append(np.zeros((1, 64, 64), np.uint8)) for _ in range(50)]\n"
        "w._file.flush(); os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, 'SIGKILL') else signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode != 0
    assert not list(tmp_path.glob("arrays/??/*.npy"))
    assert store.clean(tmp_path) == 1
    assert not list(tmp_path.glob("arrays/incoming/*"))


def test_an_exception_while_reading_leaves_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError), store.ArrayWriter(tmp_path) as writer:
        writer.append(np.zeros((1, 4, 4), np.uint8))
        raise RuntimeError
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("frame", [np.zeros((1, 5, 4), np.uint8), np.zeros((1, 4, 4), np.float32)])
def test_frames_must_agree(tmp_path, frame: np.ndarray) -> None:
    with pytest.raises(UserError, match="frame 1 is"), store.ArrayWriter(tmp_path) as writer:
        writer.append(np.zeros((1, 4, 4), np.uint8))
        writer.append(frame)


def test_no_path_escapes_through_an_array_id(tmp_path) -> None:
    for name in ("../../etc/passwd", "a" * 63, "A" * 64, ""):
        with pytest.raises(UserError, match="not an array id"):
            store.open_array(tmp_path, name)


def test_a_pickle_posing_as_an_array_is_refused(tmp_path) -> None:
    path = store.path_of(tmp_path, "0" * 64)
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        store.open_array(tmp_path, "0" * 64)


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="a full disk is made with a tiny tmpfs, which needs root on Linux",
)
def test_a_full_disk_is_one_clear_line(tmp_path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(UserError, match="the disk is full") as error:
            store.write_array(tmp_path, np.zeros((1, 200, 64, 64), np.uint8))
        assert "\n" not in str(error.value) and "out=DIR" in str(error.value)
        assert not list(tmp_path.glob("arrays/incoming/*"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_staging_copies_whole_arrays_once(tmp_path) -> None:
    stored = store.write_array(tmp_path / "far", np.ones((1, 2, 3, 4), np.uint8))
    local = store.stage(tmp_path / "far", [stored.array_id], tmp_path / "near")
    before = store.path_of(local, stored.array_id).stat().st_mtime_ns
    store.stage(tmp_path / "far", [stored.array_id], tmp_path / "near")
    assert store.path_of(local, stored.array_id).stat().st_mtime_ns == before
    np.testing.assert_array_equal(store.open_array(local, stored.array_id), 1)
