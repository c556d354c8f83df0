from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xvit.engine.evaluate import evaluate, view_order
from xvit.engine.scores import read_scores, write_predictions, write_scores
from xvit.errors import DatasetError
from xvit.types import Batch, VideoRecord


@dataclass(frozen=True)
class Listing:
    records: tuple[VideoRecord, ...]
    classes: tuple[tuple[str, ...], ...]
    digest: str = "made up"


class Pooled(nn.Module):
    """A linear classifier of the clip's mean colour; notes how many clips each pass held."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        self.passes: list[int] = []

    def forward(self, frames: Tensor) -> Tensor:
        self.passes.append(len(frames))
        return self.head(frames.mean(dim=(1, 3, 4)))


def make(videos: int = 5, views: int = 4, sizes: tuple[int, ...] = (3,)) -> tuple[Listing, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(k, (videos,), generator=rng) for k in sizes], 1)
    records = tuple(VideoRecord(f"v{i}", f"v{i}.mp4", tuple(labels[i].tolist())) for i in range(videos))
    classes = tuple(tuple(f"{task}{k}" for k in range(size)) for task, size in enumerate(sizes))
    frames = 3 * torch.randn(videos, views, 2, 3, 4, 4, generator=rng)
    return Listing(records, classes), frames, labels


def batches(frames: Tensor, labels: Tensor, rows: list[list[int]]) -> list[Batch]:
    return [Batch(frames[row], labels[row], torch.tensor(row)) for row in rows]


def test_probabilities_average_and_logits_add_up_view_by_view() -> None:
    listing, frames, labels = make()
    model = Pooled(3)
    loader = batches(frames, labels, [[0, 1], [2, 3], [4]])
    with torch.no_grad():
        logits = torch.stack([model(frames[:, v]) for v in range(4)], 1)
    averaged = evaluate(model, loader, manifest=listing)
    np.testing.assert_allclose(averaged.scores, logits.softmax(-1).mean(1), rtol=1e-5)
    added = evaluate(model, loader, manifest=listing, combine="logits")
    np.testing.assert_allclose(added.scores, logits.sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(added.labels, labels)
    assert added.video_id == ("v0", "v1", "v2", "v3", "v4")
    running = logits.softmax(-1).cumsum(1)
    np.testing.assert_array_equal(averaged.leaders[:, :, 0], running.argmax(-1))
    assert averaged.summary()["top1"] == pytest.approx(
        (running[:, -1].argmax(-1) == labels[:, 0]).double().mean()
    )


def test_batches_in_any_order_repeats_and_gaps() -> None:
    listing, frames, labels = make()
    loader = batches(frames, labels, [[4, 0], [2, 0]])
    loader[1].failures = ((3, "no video stream"),)
    result = evaluate(Pooled(3), loader, manifest=listing)
    assert result.video_id == ("v0", "v2", "v4")
    assert result.missing == (("v1", "never arrived"), ("v3", "no video stream"))
    np.testing.assert_array_equal(result.labels, labels[[0, 2, 4]])


def test_nothing_readable_is_no_crash() -> None:
    listing, frames, labels = make(videos=2)
    empty = Batch(frames[:0], labels[:0], torch.zeros(0, dtype=torch.int64), ((0, "gone"), (1, "gone")))
    result = evaluate(Pooled(3), [empty], manifest=listing)
    assert result.scores.shape == (0, 3)
    assert result.summary() == {"videos": 0, "missing": 2}
    assert [reason for _, reason in result.missing] == ["gone", "gone"]


def test_passes_are_filled_across_videos_and_the_mode_is_kept() -> None:
    listing, frames, labels = make(videos=3)
    model = Pooled(3).train()
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    seen: list[int] = []
    loader = batches(frames, labels, [[0, 1, 2]])
    evaluate(model, loader, manifest=listing, clips_per_pass=5, on_progress=seen.append)
    assert model.passes == [5, 5, 2]
    assert modes == [False] * 3
    assert model.training
    assert seen == [3]


def test_equal_views_are_scored_once() -> None:
    listing, frames, labels = make(videos=3)
    frames[1, 2] = frames[1, 0]
    frames[2, 1:] = frames[2, 0]
    same = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 3], [0, 0, 0, 0]])
    model = Pooled(3)
    with torch.no_grad():
        expected = model(frames.flatten(0, 1)).softmax(1).unflatten(0, (3, 4)).mean(1)
    model.passes.clear()
    batch = Batch(frames, labels, torch.arange(3), same=same)
    result = evaluate(model, [batch], manifest=listing)
    assert model.passes == [4 + 3 + 1]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)


def test_two_tasks_are_softmaxed_apart() -> None:
    listing, frames, labels = make(sizes=(3, 4))
    model = Pooled(7)
    result = evaluate(model, batches(frames, labels, [[0, 1, 2, 3, 4]]), manifest=listing)
    for task in result.by_task(result.scores):
        np.testing.assert_allclose(task.sum(1), 1, rtol=1e-5)
    assert result.leaders.shape == (5, 4, 2)


def test_class_count_mismatch_is_an_error() -> None:
    listing, frames, labels = make()
    with pytest.raises(ValueError, match="scores 4 classes, the data has 3"):
        evaluate(Pooled(4), batches(frames, labels, [[0]]), manifest=listing)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_stop_margin_equals_the_prefix_at_which_the_leader_was_ahead(combine: str) -> None:
    listing, frames, labels = make(videos=12, views=6)
    model, order = Pooled(3), view_order(3, 2)
    loader = batches(frames, labels, [list(range(12))])
    full = evaluate(model, loader, manifest=listing, combine=combine, view_order=order)
    margin = float(np.median(full.margins[:, 1]))
    model.passes.clear()
    short = evaluate(model, loader, manifest=listing, combine=combine, view_order=order, stop_margin=margin)
    ahead = full.margins >= margin
    expected = np.where(ahead.any(1), ahead.argmax(1) + 1, 6)
    np.testing.assert_array_equal(short.views_used, expected)
    assert 1 < expected.mean() < 6
    assert sum(model.passes) == expected.sum()
    np.testing.assert_array_equal(short.leaders[:, -1, 0], full.leaders[np.arange(12), expected - 1, 0])


def test_view_order_starts_in_the_middle() -> None:
    assert view_order(3, 1) == [1, 0, 2]
    assert view_order(1, 3) == [1, 0, 2]
    assert sorted(view_order(3, 2)) == list(range(6))
    assert view_order(3, 2)[:2] == [1, 4]


def test_files_round_trip(tmp_path: Path) -> None:
    listing, frames, labels = make()
    result = evaluate(Pooled(3), batches(frames, labels, [[0, 1, 2, 3]]), manifest=listing)
    write_scores(result, tmp_path / "scores.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.npz"]
    back = read_scores(tmp_path)
    assert (back.video_id, back.missing, back.classes) == (result.video_id, result.missing, result.classes)
    np.testing.assert_array_equal(back.scores, result.scores)
    np.testing.assert_array_equal(back.margins, result.margins)
    write_predictions(result, tmp_path / "predictions.csv")
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[1].startswith(f"v0,0,0{labels[0, 0]},0{result.scores[0].argmax()},")


def test_unreadable_scores_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        read_scores(tmp_path / "none.npz")
    (tmp_path / "scores.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DatasetError, match=r"not a scores\.npz"):
        read_scores(tmp_path)
    (tmp_path / "scores.npz").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"not a scores\.npz"):
        read_scores(tmp_path)
    np.savez(tmp_path / "scores.npz", other=1)
    with pytest.raises(DatasetError, match=r"not a scores\.npz"):
        read_scores(tmp_path)
