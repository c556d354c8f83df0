"""A video with its classes written on it: frame by frame at the frames' own times, the sound kept."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xvit.data.pictures import KEY_MARK
from xvit.data.pyav import Decoder, Upright, naming_errors
from xvit.errors import ConfigError, VideoReadError
from xvit.visualize.lettering import font_for, shorten

_CLOCK = Fraction(1, 90_000)  # seconds; exact for 24, 25, 30 and 60 frames a second, 11 µs off for others
_LEGIBLE = 160  # pixels; a smaller picture is enlarged so that there is room for text
_WIDEST = 1920  # …but not beyond this


@dataclass(frozen=True)
class Caption:
    """Lines of (label, score) shown from `start` to `end`, in seconds from the video's first frame."""

    start: float
    end: float
    lines: tuple[tuple[str, float], ...]


def write_overlay(video: str, output: Path, captions: Sequence[Caption]) -> None:
    """Write `video` to an mp4, mov or mkv file with the caption of each moment in its lower left corner.

    Rotation is applied, every frame keeps its time, sound is copied (encoded as AAC where the output's format
    cannot hold it). Captions follow one another. The file appears when it is complete. Raises VideoReadError,
    or ConfigError for an output that cannot be written.
    """
    if os.path.isdir(video) or video.partition(KEY_MARK)[0].lower().endswith((".h5", ".hdf5")):
        raise VideoReadError(video, "an overlay is drawn on a video file, and this is none")
    with _unfinished(Path(output), video) as (path, kind):
        decoder = Decoder(video)
        try:
            with av.open(str(path), "w", format=kind) as out:
                _Burner(decoder, out, captions).run()
        finally:
            decoder.close()


@contextmanager
def _unfinished(output: Path, video: str) -> Iterator[tuple[Path, str]]:
    """A name beside the output, which it takes when all is well; and the format that its ending means."""
    kind = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}.get(output.suffix.lower())
    if kind is None:
        raise ConfigError(f"{output}: an overlay is an .mp4, .mov or .mkv file")
    if output.exists() and os.path.exists(video) and output.samefile(video):
        raise ConfigError(f"{output}: is the video itself; choose another file")
    unfinished = output.with_name(f".{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished, kind
            unfinished.replace(output)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as err:
        if isinstance(err, av.FFmpegError) and not isinstance(err, PermissionError):
            raise VideoReadError(video, f"cannot be written to {output}: {err.strerror}") from err
        raise ConfigError(f"{output}: {err.strerror}") from err


class _Burner:
    """One video on its way through: packets in, frames with captions and sound out."""

    def __init__(self, decoder: Decoder, out: Any, captions: Sequence[Caption]) -> None:
        self.decoder, self.out, self.captions = decoder, out, captions
        source = decoder.container
        self.origin = Fraction(source.start_time or 0, 1_000_000)
        self.rate = decoder.stream.average_rate or Fraction(25)
        self.video: Any = None  # made when the first frame tells its size
        self.sound = {s.index: _Sound(s, out, self.origin) for s in source.streams.audio if s.codec_context}
        self.waiting: list[Any] = []  # sound before the first frame
        self.first = self.last = 0
        self.count = 0

    def run(self) -> None:
        """Raises VideoReadError."""
        container, stream = self.decoder.container, self.decoder.stream
        streams = [stream, *(s for s in container.streams.audio if s.index in self.sound)]
        packets = container.demux(streams)
        while True:
            with naming_errors(self.decoder.path, f"damaged after {self.count} frames"):
                packet = next(packets, None)
                frames = packet.decode() if packet is not None and packet.stream_index == stream.index else []
            if packet is None:
                break
            for frame in frames:
                self._add(frame)
            if packet.stream_index != stream.index:
                self.waiting.append(packet)
            if self.video is not None:
                self._pass_sound()
        if self.video is None:
            raise VideoReadError(self.decoder.path, "no frame can be decoded")
        self._mux(self.video.encode())
        for sound in self.sound.values():
            sound.finish()

    def _add(self, frame: Any) -> None:
        if self.video is None:
            self._start(frame)
        width, height = self.size[::-1] if self.upright.transposed else self.size
        with naming_errors(self.decoder.path, "cannot be converted to RGB"):
            pixels = frame.reformat(width, height, "rgb24").to_ndarray()
        pixels = np.ascontiguousarray(self.upright.show(pixels))
        tick = self._tick(frame)
        self._write_on(pixels, float((tick - self.first) * _CLOCK))
        picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
        picture.pts, picture.time_base = tick, _CLOCK
        self._mux(self.video.encode(picture))

    def _start(self, frame: Any) -> None:
        self.upright = Upright.of(frame)
        turned = self.upright.transposed
        shown = (frame.height, frame.width) if turned else (frame.width, frame.height)
        scale = max(min(math.ceil(_LEGIBLE / min(shown)), _WIDEST // max(shown)), 1)
        self.size = tuple(max(side * scale // 2 * 2, 16) for side in shown)
        self.video = self.out.add_stream("libx264", rate=self.rate, options={"crf": "20"})
        self.video.width, self.video.height = self.size
        self.video.pix_fmt = "yuv420p"
        self.video.codec_context.time_base = _CLOCK
        aspect = self.decoder.stream.sample_aspect_ratio
        if aspect:
            self.video.codec_context.sample_aspect_ratio = 1 / aspect if turned else aspect
        self.first = self.last = -1

    def _tick(self, frame: Any) -> int:
        """The frame's time in ticks from the file's beginning; times that stand still are moved on."""
        if frame.pts is None:
            time = Fraction(self.count) / self.rate
        else:
            time = frame.pts * frame.time_base - self.origin
        tick = max(round(time / _CLOCK), self.last + 1, 0)
        if self.count == 0:
            self.first = tick
        self.last, self.count = tick, self.count + 1
        return tick

    def _write_on(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        caption = next((c for c in self.captions if c.start <= seconds < c.end), None)
        if caption is None:
            return
        colour, cover = _plate(caption.lines, *self.size)
        top = pixels.shape[0] - colour.shape[0]
        part = pixels[top:, : colour.shape[1]]
        part[:] = (part * (1 - cover) + colour * cover).round()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = packet.duration or round(1 / self.rate / _CLOCK)
            self.out.mux(packet)

    def _pass_sound(self) -> None:
        for packet in self.waiting:
            self.sound[packet.stream_index].add(packet)
        self.waiting.clear()


class _Sound:
    """One sound track: its packets as they are where the output's format holds them, else as AAC."""

    def __init__(self, stream: Any, out: Any, origin: Fraction) -> None:
        self.out, self.origin = out, origin
        self.copied = stream.codec_context.name in out.supported_codecs
        if self.copied:
            self.stream = out.add_stream_from_template(stream)
        else:
            context = stream.codec_context
            layout = "mono" if context.channels == 1 else "stereo"
            self.stream = out.add_stream("aac", rate=context.sample_rate, layout=layout)

    def add(self, packet: Any) -> None:
        """Send a packet of the source on."""
        if not self.copied:
            for frame in packet.decode():
                if frame.pts is not None:
                    frame.pts -= round(self.origin / frame.time_base)
                self.out.mux(self.stream.encode(frame))
            return
        if packet.dts is None:
            return
        shift = round(self.origin / packet.time_base)
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        packet.stream = self.stream
        self.out.mux(packet)

    def finish(self) -> None:
        """The last of it."""
        if not self.copied:
            self.out.mux(self.stream.encode(None))


@lru_cache(maxsize=8)
def _plate(
    lines: tuple[tuple[str, float], ...], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A caption as colour (h, w, 3) and how much it covers (h, w, 1), at most as large as the picture."""
    size = max(round(min(width, height) / 14), 10)
    gap, step = size // 2, round(1.4 * size)
    texts = []
    for label, score in lines[: max((height - gap) // step, 1)]:
        font, number = font_for(label, size), f"  {100 * score:.0f} %"
        texts.append((shorten(label, font, width - 3 * gap - font.getlength(number)) + number, font))
    wide = min(math.ceil(max(font.getlength(text) for text, font in texts)) + 2 * gap, width)
    plate = Image.new("RGBA", (wide, min(len(texts) * step + gap, height)), (0, 0, 0, 150))
    draw = ImageDraw.Draw(plate)
    for i, (text, font) in enumerate(texts):
        draw.text((gap, gap // 2 + i * step), text, (255, 255, 255, 255), font)
    pixels = np.asarray(plate, np.float32)
    return pixels[..., :3], pixels[..., 3:] / np.float32(255)
