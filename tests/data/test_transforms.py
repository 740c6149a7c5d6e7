"""Augmentation: drawn once, applied alike to every frame and its mask, in one resampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from medgraft.data.transforms import PRESETS, Augment, Draw, apply, cut, draw, preset
from medgraft.data.windows import Window, WindowSpec, eval_windows
from medgraft.errors import UserError

EVERYTHING = Augment(
    flip_lr=0.5,
    flip_axes="dhw",
    rotate=30,
    scale=(0.7, 1.5),
    translate=0.2,
    crop=3,
    brightness=0.2,
    contrast=0.2,
    gamma=0.3,
    noise=0.1,
    erase=0.5,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth(shape: tuple[int, int, int, int]) -> np.ndarray:
    """A picture without edges: what differs between two good resamplings of it is small."""
    _, d, h, w = shape
    z, y, x = np.meshgrid(np.arange(d), np.arange(h) / h, np.arange(w) / w, indexing="ij")
    return np.broadcast_to(
        (128 + 60 * np.sin(5 * y + 1 + 0.1 * z) + 60 * np.cos(4 * x + 3 * y)).astype(np.float32), shape
    ).copy()


def full(shape: tuple[int, ...], size: tuple[int, int]) -> Window:
    return Window(0, tuple(range(shape[1])), (0, 0, shape[2], shape[3]), (shape[1], *size))


@pytest.mark.parametrize("size", [(224, 224), (17, 40), (64, 31), (50, 61)])
def test_resize_without_augmentation_is_torchvisions(size: tuple[int, int]) -> None:
    real = rng().normal(size=(2, 3, 50, 61)).astype(np.float32)
    expected = tv.resize(torch.from_numpy(real), list(size), antialias=True)
    torch.testing.assert_close(cut(real, full(real.shape, size))[0], expected, rtol=0, atol=0)
    display = rng(1).integers(0, 256, (1, 3, 50, 61), np.uint8)
    ours, theirs = (
        cut(display, full(display.shape, size))[0],
        tv.resize(torch.from_numpy(display), list(size), antialias=True),
    )
    assert ours.dtype == torch.uint8
    # torchvision may round between the two passes; we round once.
    assert (ours.int() - theirs.int()).abs().max() <= 1
    exact = tv.resize(torch.from_numpy(display.astype(np.float32)), list(size), antialias=True)
    assert torch.equal(ours, exact.round().to(torch.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_stored_types_come_back_rounded_and_within_limits(dtype: Any) -> None:
    x = np.full((1, 2, 9, 9), 100, dtype)
    x[..., 4:, :] = 120
    out, _ = cut(x, full(x.shape, (6, 6)), Draw(angle=0.3, brightness=0.5), value_range=(100, 120))
    assert out.numpy().dtype == dtype
    assert out.numpy().min() >= 100 and out.numpy().max() <= 131
    still, _ = cut(x, full(x.shape, (9, 9)))
    np.testing.assert_array_equal(still.numpy(), x)


def test_whole_volumes_are_resampled_trilinearly() -> None:
    x = rng().normal(size=(1, 5, 6, 7)).astype(np.float32)
    window = eval_windows(WindowSpec("whole", 11, (13, 9)), x.shape)[0]
    expected = F.interpolate(torch.from_numpy(x)[None], (11, 13, 9), mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(cut(x, window)[0], expected, rtol=0, atol=1e-5)
    labels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 6, 7), np.uint8)
    _, mask = cut(x, window, mask=labels, mask_rows=range(5))
    assert mask is not None and mask[0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact_for_pictures_and_masks(turns: int) -> None:
    x = rng().integers(0, 256, (1, 2, 12, 12), np.uint8)
    mask = rng(1).integers(0, 2, (2, 3, 12, 12), np.uint8)
    # The affine grid against numpy's own rotation: direction, centre and half-pixel conventions at once.
    out, labels = apply(Draw(angle=turns * np.pi / 2), x, mask)
    np.testing.assert_array_equal(out.numpy(), np.rot90(x, turns, (2, 3)))
    np.testing.assert_array_equal(labels, np.rot90(mask, turns, (2, 3)).swapaxes(0, 1))
    both, _ = apply(Draw(angle=turns * np.pi / 2, flips=(True, True, False)), x)
    np.testing.assert_array_equal(both.numpy(), np.rot90(x, turns, (2, 3))[:, ::-1, ::-1])


def test_flips_move_masks_with_images() -> None:
    x = rng().integers(0, 256, (1, 4, 6, 8), np.uint8)
    mask = rng(1).integers(0, 2, (4, 1, 6, 8), np.uint8)
    for flips in [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]:
        axes = tuple(i + 1 for i in range(3) if flips[i])
        out, labels = apply(Draw(flips=flips), x, mask)
        np.testing.assert_array_equal(out.numpy(), np.flip(x, axes))
        np.testing.assert_array_equal(labels, np.flip(mask.swapaxes(0, 1), axes))


def test_pad_crop_is_padding_and_cropping() -> None:
    x = rng().integers(1, 256, (1, 3, 10, 10), np.uint8)
    mask = np.ones((3, 1, 10, 10), np.uint8)
    padded = np.pad(x, [(0, 0), (0, 0), (4, 4), (4, 4)])
    corners = set()
    for seed in range(300):
        drawn = draw(Augment(crop=4), rng(seed))
        out, labels = apply(drawn, x, mask)
        dy, dx = drawn.pixels
        corners.add((dy, dx))
        np.testing.assert_array_equal(out.numpy(), padded[:, :, 4 + dy : 14 + dy, 4 + dx : 14 + dx])
        assert labels is not None and torch.equal(labels == 255, out == 0)  # outside: black and ignored
    assert {c for corner in corners for c in corner} == set(range(-4, 5))


@pytest.mark.parametrize("shrink", [0.5, 1.0, 1.7, 3.2, 9.0])
def test_the_rotating_path_continues_the_resizing_path(shrink: float) -> None:
    """A turn by a hair must give what no turn gives, whatever the change of size; a shift or blur of half a pixel would
    show.
    """
    size = (int(160 / shrink), int(120 / shrink))
    x = smooth((1, 2, 160, 120))
    still = cut(x, full(x.shape, size), Draw(scale=1.25))[0]
    turned = cut(x, full(x.shape, size), Draw(scale=1.25, angle=1e-5))[0]
    assert (still - turned).abs()[..., 2:-2, 2:-2].max() < 1.0
    flipped = cut(x, full(x.shape, size), Draw(scale=1.25, angle=1e-5, flips=(False, True, True)))[0]
    torch.testing.assert_close(flipped, turned.flip(2, 3), atol=1e-2, rtol=0)


def test_shrinking_while_turning_does_not_alias() -> None:
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    x = checks.astype(np.uint8)[None, None]
    for angle in (0.0, 0.2):
        out = cut(x, full(x.shape, (64, 64)), Draw(angle=angle, scale=1.5))[0].float()
        assert (out - 127.5).abs().max() < 12  # a finest checkerboard becomes grey, not a pattern


def test_masks_stay_on_their_structure_under_every_geometry() -> None:
    yy, xx = np.mgrid[:96, :96]
    disc = ((yy - 40) ** 2 + (xx - 55) ** 2 < 22**2).astype(np.uint8)
    x = np.repeat((disc * 200)[None, None], 3, 1).astype(np.uint8)
    mask = np.repeat(disc[None, None], 3, 0)
    geometry = replace(EVERYTHING, brightness=0, contrast=0, gamma=0, noise=0, erase=0)
    for seed in range(40):
        drawn = draw(geometry, rng(seed))
        out, labels = cut(x, full(x.shape, (48, 64)), drawn, mask=mask, mask_rows=[0, 1, 2])
        assert labels is not None and set(labels.unique().tolist()) <= {0, 1, 255}
        seen, told = out[0, 0] > 100, labels[0, 0] == 1
        inside = labels[0, 0] != 255
        wrong = ((seen != told) & inside).sum().item()
        # Only pixels on the rim may disagree; the rim is a line, the disc an area.
        assert wrong <= 0.02 * inside.sum().item() + 20 and (told.sum() < 60 or wrong < 0.12 * told.sum().item())


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 3), st.integers(4, 20), st.integers(4, 20)),
    st.tuples(st.integers(2, 24), st.integers(2, 24)),
)
def test_every_frame_of_a_clip_moves_alike(seed: int, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    frame = rng(seed).integers(0, 256, (1, 1, *shape[1:]), np.uint8)
    clip = np.repeat(frame, shape[0], 1)
    drawn = draw(replace(EVERYTHING, noise=0), rng(seed))
    out, _ = cut(clip, full(clip.shape, size), drawn)
    assert out.shape == (1, shape[0], *size)
    assert torch.equal(out, out[:, :1].expand_as(out))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 255))
def test_a_constant_picture_stays_constant_under_geometry(seed: int, value: int) -> None:
    x = np.full((1, 2, 15, 11), value, np.uint8)
    drawn = draw(replace(EVERYTHING, brightness=0, contrast=0, gamma=0, noise=0, erase=0), rng(seed))
    out, _ = cut(x, full(x.shape, (9, 13)), drawn, value_range=(value, 255 + value))
    assert (out == value).all()


def test_a_box_outside_the_array_is_black_and_ignored() -> None:
    x, mask = np.full((1, 1, 8, 8), 200, np.uint8), np.ones((1, 1, 8, 8), np.uint8)
    for angle in (0.0, 0.4):
        out, labels = apply(Draw(angle=angle, shift=(5.0, 5.0)), x, mask)
        assert (out == 0).all() and labels is not None and (labels == 255).all()


def test_shifts_move_down_and_right_by_shares_of_their_own_sides() -> None:
    x = rng().integers(1, 256, (1, 1, 20, 40), np.uint8)
    down, _ = apply(Draw(shift=(0.25, 0.0)), x)
    right, _ = apply(Draw(shift=(0.0, 0.25)), x)
    np.testing.assert_array_equal(down[0, 0, :15].numpy(), x[0, 0, 5:])
    np.testing.assert_array_equal(right[0, 0, :, :30].numpy(), x[0, 0, :, 10:])


def test_untraced_frames_are_ignored_and_never_background() -> None:
    x, mask = np.zeros((1, 4, 8, 8), np.uint8), np.zeros((2, 2, 8, 8), np.uint8)
    for angle in (0.0, 0.3):
        _, labels = cut(x, full(x.shape, (8, 8)), Draw(angle=angle), mask=mask, mask_rows=[0, -1, -1, 1])
        assert labels is not None and labels.shape == (2, 4, 8, 8)
        assert (labels[:, 1:3] == 255).all() and (labels[:, [0, 3], 3:5, 3:5] == 0).all()


class Recorder:
    """An array that remembers what was read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.frames: set[int] = set()
        self.pixels = 0

    def __getitem__(self, key: Any) -> np.ndarray:
        part = self.array[key]
        self.frames |= set(range(self.shape[1])[key[1]]) if isinstance(key[1], slice) else {key[1]}
        self.pixels += part.size
        return part


def test_only_the_needed_frames_and_rows_are_read() -> None:
    array = np.zeros((1, 500, 64, 64), np.uint8)
    for drawn in (Draw(scale=2.0), Draw(scale=2.0, angle=0.1)):
        for frames in ((3, 90, 400), (5, 55, 105), (499, 499, 0)):
            recorder = Recorder(array)
            cut(recorder, Window(0, frames, (0, 0, 64, 64), (3, 32, 32)), drawn)  # type: ignore[arg-type]
            assert recorder.frames == set(frames)
            assert recorder.pixels <= 3 * 42 * 42


def test_intensity_is_relative_to_black_and_white() -> None:
    x = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    out, _ = apply(Draw(brightness=0.1, contrast=0.5), x, value_range=(-1000, 1000))
    np.testing.assert_allclose(out.numpy(), 0.5 * x + 0.1 * 2000, atol=1e-2)  # the mean is 0
    out, _ = apply(Draw(gamma=2.0), x, value_range=(-500, 500))
    v = (x + 500) / 1000
    np.testing.assert_allclose(out.numpy(), np.where((v > 0) & (v < 1), v * v, v) * 1000 - 500, atol=1e-2)
    noisy, _ = apply(Draw(noise=0.1, key=5), np.zeros((1, 8, 64, 64), np.float32), value_range=(0, 200))
    assert abs(noisy.std().item() - 20) < 0.5 and not torch.equal(noisy[:, 0], noisy[:, 1])
    again, _ = apply(Draw(noise=0.1, key=5), np.zeros((1, 8, 64, 64), np.float32), value_range=(0, 200))
    assert torch.equal(noisy, again)


def test_the_number_of_threads_changes_no_bit() -> None:
    """Workers have one thread, the main process may have many."""
    x = rng().normal(size=(1, 16, 96, 96)).astype(np.float32)
    drawn = [Draw(contrast=1.3, brightness=0.1, scale=1.3), Draw(angle=0.3, contrast=0.8, gamma=1.1)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([cut(x, full(x.shape, (80, 64)), d, value_range=(-2, 2))[0] for d in drawn])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_erasing_fills_one_rectangle_of_the_asked_area() -> None:
    x = np.full((1, 3, 100, 100), -7, np.float32)
    areas = []
    for seed in range(60):
        out, _ = apply(draw(Augment(erase=1.0, erase_area=0.1), rng(seed)), x, value_range=(0, 1))
        erased = out[0, 0] >= 0
        assert torch.equal(out[0, 0], out[0, 2])  # one patch for the clip
        rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
        assert erased.sum() == len(rows) * len(columns)
        areas.append(erased.float().mean().item())
    assert abs(np.mean(areas) - 0.1) < 0.01 and max(areas) < 0.115


def test_switching_one_part_leaves_the_other_draws_alone() -> None:
    for seed in range(20):
        most = draw(EVERYTHING, rng(seed))
        less = draw(replace(EVERYTHING, rotate=0, erase=0, flip_axes=""), rng(seed))
        assert (most.scale, most.shift, most.pixels, most.brightness, most.key) == (
            less.scale,
            less.shift,
            less.pixels,
            less.brightness,
            less.key,
        )
        assert less.angle == 0 and less.erase is None


def test_draws_fill_their_ranges() -> None:
    drawn = [draw(EVERYTHING, rng(seed)) for seed in range(400)]
    degrees = np.rad2deg([d.angle for d in drawn])
    assert degrees.min() < -28 and degrees.max() > 28 and abs(degrees.mean()) < 3
    scales = np.array([d.scale for d in drawn])
    assert 0.7 <= scales.min() < 0.72 and 1.45 < scales.max() <= 1.5
    for axis in range(3):
        assert 0.4 < np.mean([d.flips[axis] for d in drawn]) < 0.6
    assert 0.4 < np.mean([d.erase is not None for d in drawn]) < 0.6


def test_presets_keep_anatomy_upright() -> None:
    for name in ("none", "light", "xray", "ultrasound", "natural"):
        assert not any(draw(PRESETS[name], rng(seed)).flips[1] for seed in range(200)), name
    assert any(draw(PRESETS["xray"], rng(seed)).flips[2] for seed in range(50))
    assert not any(draw(preset("xray", flip_lr=0.0), rng(seed)).flips[2] for seed in range(50))
    assert PRESETS["none"].idle and not PRESETS["light"].idle
    x = rng().integers(0, 256, (1, 2, 9, 9), np.uint8)
    np.testing.assert_array_equal(apply(draw(PRESETS["none"], rng()), x)[0].numpy(), x)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'xray'"):
        preset("x-ray")
    with pytest.raises(UserError, match="did you mean 'rotate'"):
        preset("xray", rotat=3)
    with pytest.raises(UserError, match="scale"):
        Augment(scale=(1.2, 0.9))
