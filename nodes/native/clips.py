"""Films frame by frame, by PyAV as ComfyUI has it: frames in, frames and the sound out, nothing kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.reformatter import Colorspace
from comfy_api.latest import Input
from torch import Tensor

from ...osediff_core.errors import ImageError

logger = logging.getLogger(__name__)

_IN_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}  # sound that is copied as it is
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_CRF = "14"  # of x264: nothing of it can be seen, as Save Video may write the film once more
_BT709 = 1  # in the colour fields of a stream


@dataclass(frozen=True)
class Frame:
    """image (1, H, W, 3) in [0, 1]. time: seconds from the film's beginning. pts: the same in the film's own units."""

    image: Tensor
    time: float
    pts: int


class ClipReader:
    """A VIDEO, opened: its size as it is shown, and what `ClipWriter` needs of it."""

    def __init__(self, video: Input.Video) -> None:
        """Raises ImageError for a VIDEO without pictures."""
        self.size = _shown_size(video)
        self._container = av.open(video.get_stream_source(), mode="r")
        self.stream = self._container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.sound = next((s for s in self._container.streams.audio if s.codec_context is not None), None)
        self.time_base = cast("Fraction", self.stream.time_base)
        self.rate = self.stream.average_rate or Fraction(25)
        self.deep = max((part.bits for part in self.stream.format.components), default=8) > 8
        self._start, seconds = video.get_active_trim_window()
        self._end = self._start + seconds if seconds else None
        self.count = max(1, round(video.get_duration() * self.rate))  # about
        self._last = -1  # pts

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def read(self) -> Iterator[Frame | av.Packet[Any]]:
        """Frames of the trimmed part, and between them, where they are in the file, the sound's packets."""
        if self._start:
            self._container.seek(int(self._start / self.time_base), stream=self.stream)
        for packet in self._container.demux(*filter(None, (self.stream, self.sound))):
            if packet.stream is self.stream:
                yield from self._frames(packet)
            elif packet.pts is not None and self._inside(float(packet.pts * packet.time_base)):
                yield packet

    def offset(self, time_base: Fraction) -> int:
        """The beginning of the trimmed part in units of time_base."""
        return int(self._start / time_base)

    def _frames(self, packet: av.Packet[Any]) -> Iterator[Frame]:
        for frame in _decoded(packet):
            step = max(1, round(1 / self.rate / self.time_base))
            pts = self._last + step if frame.pts is None else frame.pts - self.offset(self.time_base)
            if self._inside(float(pts * self.time_base) + self._start):
                # players take no frame before the one that was shown last
                self._last = pts if pts > self._last else self._last + step
                yield Frame(self._image(frame), float(self._last * self.time_base), self._last)

    def _inside(self, time: float) -> bool:
        return (time >= self._start or not self._start) and (self._end is None or time < self._end)

    def _image(self, frame: av.VideoFrame) -> Tensor:
        levels = frame.to_ndarray(format="rgb48le" if self.deep else "rgb24")
        levels = np.rot90(levels, k=round(frame.rotation / 90)).astype(np.float32)
        return torch.from_numpy(levels / (65535 if self.deep else 255))[None]


class ClipWriter:
    """An MP4 of H.264 with the reader's times and sound; leaves no file behind where the work is stopped."""

    def __init__(self, path: Path, reader: ClipReader, size: tuple[int, int]) -> None:
        """size: (width, height), both even."""
        self._path, self._reader = path, reader
        self._output = av.open(str(path), mode="w")
        self._stream = self._output.add_stream("libx264", rate=reader.rate, options={"crf": _CRF})
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p10le" if reader.deep else "yuv420p"
        context = self._stream.codec_context
        context.time_base = reader.time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._sound, self._resampler = _sound_of(self._output, reader)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._output.mux(self._stream.encode(None))
            if self._resampler is not None:
                self._encode_sound(self._resampler.resample(None))
                self._output.mux(self._sound.encode(None))
        self._output.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def write(self, image: Tensor, pts: int) -> None:
        """image (1, H, W, 3) in [0, 1], shown from `pts` on."""
        deepest, kind = (65535, np.uint16) if self._reader.deep else (255, np.uint8)
        levels: Any = (image[0].float().cpu().clamp(0, 1) * deepest).round().numpy().astype(kind)
        frame = av.VideoFrame.from_ndarray(levels, format="rgb48le" if self._reader.deep else "rgb24")
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=Colorspace.ITU709)
        frame.pts, frame.time_base = pts, self._reader.time_base
        self._output.mux(self._stream.encode(frame))

    def write_sound(self, packet: av.Packet[Any]) -> None:
        """A packet of the reader's."""
        if self._resampler is None:
            start = self._reader.offset(cast("Fraction", packet.time_base))
            packet.pts = (packet.pts or 0) - start
            packet.dts = packet.pts
            packet.stream = self._sound
            self._output.mux(packet)
            return
        for heard in packet.decode():
            heard.pts = None  # counted on from the film's beginning
            self._encode_sound(self._resampler.resample(heard))

    def _encode_sound(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._output.mux(self._sound.encode(frame))


def _shown_size(video: Input.Video) -> tuple[int, int]:
    """(width, height) of the first picture, turned as it is shown."""
    try:
        with av.open(video.get_stream_source(), mode="r") as container:
            for packet in container.demux(video=0) if container.streams.video else ():
                for frame in _decoded(packet):
                    turned = round(frame.rotation / 90) % 2
                    return (frame.height, frame.width) if turned else (frame.width, frame.height)
    except (FFmpegError, OSError) as error:
        raise ImageError(f"The VIDEO cannot be read ({error.strerror}); load another.") from error
    raise ImageError("The VIDEO has no pictures; load another.")


def _decoded(packet: av.Packet[Any]) -> list[av.VideoFrame]:
    """The packet's frames; none of one that is damaged, as players leave them out."""
    try:
        return packet.decode()
    except InvalidDataError:
        logger.warning("A part of the video is damaged and left out.")
        return []


def _sound_of(output: OutputContainer, reader: ClipReader) -> tuple[Any, AudioResampler | None]:
    """The output's stream of sound, and what makes AAC's samples where it cannot be copied."""
    if reader.sound is None:
        return None, None
    if reader.sound.codec_context.codec.canonical_name in _IN_MP4:
        return output.add_stream_from_template(reader.sound, opaque=True), None
    context = reader.sound.codec_context
    rate, layout = context.sample_rate, _LAYOUTS.get(context.channels, "stereo")  # PCM does not say its own
    stream = output.add_stream("aac", rate=rate, layout=layout)
    return stream, AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)
