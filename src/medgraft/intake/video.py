"""Videos by PyAV: AVI, MP4, MOV, Matroska, WebM, MPEG, GIF.

The demuxer is fixed by the file's content and only the ``file`` protocol is allowed, so a playlist
that poses as a video is never followed. Frames are counted by decoding: headers lie. Grey comes
from the luma plane alone where the pixel format has one.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from medgraft.intake.picture import channels_first
from medgraft.intake.read import FORMATS, HEAD_BYTES, VIDEOS, Limits, Study, Unreadable, sniff

# Limited ("TV") range: 16 is black and 235 white. Expanded, so that stored values mean what a screen shows.
_EXPAND = np.clip(np.round((np.arange(256) - 16) * 255.0 / 219.0), 0, 255).astype(np.uint8)
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


def read_video(path: Path, limits: Limits) -> Study:
    """One video as uint8 frames in display order; times from the frames' own stamps, from 0."""
    reader = sniff(path)
    assert reader is not None
    if reader.name == "avi":
        _check_riff(path)
    container = _open(str(path.resolve()), reader.name)
    _check_stream(container, limits)
    study = Study("video", iter(()), spacing=[None, None, None])
    frames = _frames(container, reader.name, limits, study)
    object.__setattr__(study, "frames", frames)
    return study


def decode_stream(data: bytes, codec: str, limits: Limits, study: Study) -> Iterator[np.ndarray]:
    """Frames of a coded video that another file carries (DICOM): bare, or in one of the containers that the standard
    allows.

    Notes, times and the spacing in time go to ``study``. Raises ``Unreadable`` where the content is none of them.
    """
    line = next((form for form in FORMATS if form.name in VIDEOS and form.sniff(data[:HEAD_BYTES])), None)
    name = line.name if line is not None and line.name in ("mov", "mpeg", "mpegvideo", "mpegts") else codec
    if line is None and not data.startswith((b"\0\0\1", b"\0\0\0\1")):
        raise Unreadable("its coded video is neither bare nor in MP4 or MPEG", fix="export the video as MP4")
    container = _open(io.BytesIO(data), name)
    _check_stream(container, limits)
    return _frames(container, name, limits, study)


def _open(source: str | io.BytesIO, name: str) -> av.container.InputContainer:
    try:
        return av.open(source, "r", format=name, options={"protocol_whitelist": "file"})
    except MemoryError as error:  # FFmpeg's word for a table that declares more entries than it would ever allocate
        raise Unreadable(
            "declares more than any decoder would allocate: damaged or hostile",
            fix="copy the file again from its source",
        ) from error


def _check_stream(container: av.container.InputContainer, limits: Limits) -> None:
    if not container.streams.video:
        container.close()
        raise Unreadable("holds no video stream", fix="leave it out")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > limits.pixels:
        container.close()
        raise Unreadable(f"frames are larger than {limits.pixels} pixels", fix="allow more with max_pixels=N")
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # the size may change later in the stream


def _check_riff(path: Path) -> None:
    """An AVI shorter than its own first RIFF chunk is truncated; FFmpeg would decode it without a word."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        declared = int.from_bytes(stream.read(8)[4:], "little")
    if declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:
        raise Unreadable(
            f"truncated: the header declares {declared + 8} bytes, the file has {size}",
            fix="copy the file again from its source",
        )


def _frames(
    container: av.container.InputContainer, format_name: str, limits: Limits, study: Study
) -> Iterator[np.ndarray]:
    stamps: list[float | None] = []
    with container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if format_name != "gif" else "SLICE"
        declared, rate = stream.frames, stream.average_rate or stream.base_rate
        reformatter = VideoReformatter()
        packets = 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            for frame in packet.decode():
                stamps.append(frame.time)
                yield _pixels(frame, reformatter, limits.colour)
        if format_name == "mov" and packets < declared:
            raise Unreadable(
                f"truncated: {packets} of {declared} frames are in the file", fix="copy the file again from its source"
            )
    if declared and declared != len(stamps):
        study.notes.append(f"header declares {declared} frames, {len(stamps)} decode")
    _keep_times(stamps, float(rate) if rate else 0.0, study)


def _pixels(frame: av.VideoFrame, reformatter: VideoReformatter, colour: bool) -> np.ndarray:
    name = frame.format.name
    luma = name.startswith(("yuv4", "yuvj4", "nv12", "nv21", "gray")) and frame.format.components[0].bits == 8
    if luma and not colour:
        plane = frame.planes[0]
        grey = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        full = name.startswith(("yuvj", "gray")) or int(frame.color_range) == _FULL_RANGE
        pixels = grey if full else _EXPAND[grey]
        frame_pixels = pixels[None]
    else:
        frame_pixels = channels_first(reformatter.reformat(frame, format="rgb24").to_ndarray(), colour)
    turns = round(frame.rotation / 90) % 4  # degrees, counter-clockwise, from the display matrix
    return np.ascontiguousarray(np.rot90(frame_pixels, turns, axes=(1, 2)))


def _keep_times(stamps: list[float | None], rate: float, study: Study) -> None:
    """Fill in the study's times: the stamps when they grow, else the frame number over the rate, else nothing."""
    known = [s for s in stamps if s is not None]
    if len(known) == len(stamps) and all(b > a for a, b in itertools.pairwise(known)):
        study.times.extend(s - known[0] for s in known)
        study.time_source.append("header")
    elif rate > 0:
        study.times.extend(i / rate for i in range(len(stamps)))
        study.time_source.append("naive")
        study.notes.append("time stamps do not grow; times from the frame rate")
    else:
        study.time_source.append("none")
    if len(study.times) > 1:
        study.spacing[0] = float(np.median(np.diff(study.times)))
