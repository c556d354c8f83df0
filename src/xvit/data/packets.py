"""Which frames a video file holds, from its packets: no header is believed, nothing is decoded."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import av

# FFmpeg seeks exactly in these containers, and every packet carries its frame's presentation time.
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# A packet may hold one field, half a frame, of these codecs; mov and matroska join the halves.
_FIELD_CODECS = {"h264", "hevc", "vc1"}


@dataclass(frozen=True)
class PacketIndex:
    """The frames of a stream, or of a segment of it, in presentation order.

    count:     the number of frames; None where packets do not tell, so that they are counted by decoding.
    times:     their presentation times in units of the stream's time base, which name a frame after a seek;
               empty where they do not.
    keyframes: times at which decoding can start.
    skipped:   frames before the segment, for a reader that cannot seek.
    fps:       the average rate, None where nothing tells.
    cut:       a packet is incomplete: the file ends, or was overwritten, in the middle of it.
    """

    count: int | None
    times: list[int]
    keyframes: list[int]
    skipped: int
    fps: float | None
    cut: bool = False


def read_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> PacketIndex:
    """Walk the packets of `[start_seconds, end_seconds)`; of a long file only that part is read."""
    seekable = container.format.name in _SEEKABLE
    origin, unit = stream.start_time or 0, stream.time_base
    start = None if start_seconds is None else origin + round(start_seconds / unit)
    end = None if end_seconds is None else origin + round(end_seconds / unit)
    if start is not None and seekable:
        container.seek(start, stream=stream)
    times: list[int] = []
    keyframes: list[int] = []
    named, cut = True, False
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        cut |= packet.is_corrupt
        if seekable and end is not None and packet.dts is not None and packet.dts >= end:
            break
        if packet.pts is None:
            named = False
            continue
        times.append(packet.pts)
        if packet.is_keyframe:
            keyframes.append(packet.pts)
    times.sort()
    fps = _average_rate(stream, times)
    counted = seekable or (container.format.name == "avi" and stream.codec_context.name not in _FIELD_CODECS)
    if not named or not counted or len(set(times)) < len(times):
        return PacketIndex(None, [], [], round((start_seconds or 0) * (fps or 0)), fps, cut)
    first = 0 if start is None else bisect_left(times, start)
    last = len(times) if end is None else bisect_left(times, end)
    if not seekable:
        return PacketIndex(last - first, [], [], first, fps, cut)
    return PacketIndex(last - first, times[first:last], sorted(keyframes), 0, fps, cut)


def _average_rate(stream: av.VideoStream, times: list[int]) -> float | None:
    if stream.average_rate:
        return float(stream.average_rate)
    if len(times) < 2 or times[-1] == times[0]:
        return None
    return float((len(times) - 1) / ((times[-1] - times[0]) * stream.time_base))
