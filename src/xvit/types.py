"""The nouns that rooms pass to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One labelled video, or a segment of one, as a manifest lists it.

    `video_id` is unique in the list. `path` is a video file, a packed h5 (optionally `file.h5::key`) or a
    folder of frames. `labels` has one class index per task and is empty where the split has no labels; with
    one task it may have several, filled up with -1 to the most that a video of the list has.
    `start_seconds` and `end_seconds` bound a segment (None: the video's own ends). `fps` is the frame rate
    where the list knows it, above all for frames stored as pictures.
    """

    video_id: str
    path: str
    labels: tuple[int, ...] = ()
    start_seconds: float | None = None
    end_seconds: float | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video before its frames are asked for.

    `num_frames` counts decodable frames in presentation order, whatever the header says. `fps` is the average
    frame rate in frames per second, None where neither header nor timestamps tell. `height` and `width` are
    pixels as shown, after rotation.
    """

    num_frames: int
    fps: float | None
    height: int
    width: int


class View(NamedTuple):
    """One look at a video: the `clip`-th span of time at the `crop`-th place, both from 0."""

    clip: int
    crop: int


@dataclass(slots=True)
class Batch:
    """Videos ready for the model.

    frames: (B, V, T, C, H, W) float, normalised; V views (clips × crops, clips outermost) of each video.
    labels: (B, L) int64, one column a task; L is 0 where the split has no labels. With one task and several
            labels a video as many columns as a video may have, filled up with -1.
    index:  (B,) int64, rows of the dataset's record list.
    failures: (row, reason) of videos that should be here but could not be read (`data.on_error=skip`).
    same:   (B, V) int64, for each view the first view of its video that holds the same frames; None where
            nobody looked. Clips of a video shorter than a clip's span are the same.
    """

    frames: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    failures: tuple[tuple[int, str], ...] = ()
    same: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        frames, labels, index = (
            x.to(device, non_blocking=True) for x in (self.frames, self.labels, self.index)
        )
        return Batch(frames, labels, index, self.failures, self.same)
