"""Where in a clip, in space and in time, a decision came from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xvit.config import ClipConfig
from xvit.errors import ConfigError
from xvit.models import XViT
from xvit.predict import Predictor
from xvit.predict.predictor import Source
from xvit.visualize.gradient import integrated_gradients
from xvit.visualize.rollout import rollout

METHODS = ("gradient", "rollout")


@dataclass(frozen=True)
class Explanation:
    """Why a clip was given a class.

    frames: uint8 (T, C, H, W) RGB, as the model saw them: T frames, the centre crop.
    maps:   float32 (T, H, W), 0 … 1 over the whole clip, so that frames compare.
    shares: float32 (T,), each frame's share of the decision; they add up to 1.
    label:  the class that is explained. score: its probability, 0 … 1.
    method: what the maps are, one of METHODS.
    """

    frames: NDArray[np.uint8]
    maps: NDArray[np.float32]
    shares: NDArray[np.float32]
    label: str
    score: float
    method: str


def explain(
    predictor: Predictor,
    video: Source,
    method: str = "gradient",
    target: str | int | None = None,
    task: int = 0,
) -> Explanation:
    """Explain the class of a video's centre clip, in float32. See `explain_clip`.

    Raises VideoReadError; ConfigError for a class, task or method that does not exist; ValueError for an
    array of another kind.
    """
    return explain_clip(predictor, predictor.read(video)[0], method, target, task)


def explain_clip(
    predictor: Predictor,
    clip: Tensor,
    method: str = "gradient",
    target: str | int | None = None,
    task: int = 0,
) -> Explanation:
    """Explain the class of a clip as the model takes it, (T, C, H, W), in float32.

    method: "gradient" is what speaks for the class (integrated gradients), "rollout" is where the attention
        of all layers comes from, whatever the class.
    target: a class, by name or number; None is the predicted one.
    task:   of a model with several; a target that is a name is looked for in this one.
    Raises ConfigError for a class, task or method that does not exist. Threads may share the predictor.
    """
    if method not in METHODS:
        raise ConfigError(f"the method must be {' or '.join(METHODS)}, got {method!r}")
    model = predictor.network
    number = _find_class(model, target, task)
    if method == "gradient":
        logits, evidence = integrated_gradients(model, clip.to(predictor.device), task, number)
        # A patch speaks for the class as a whole; its pixels' signs are noise.
        evidence = F.avg_pool2d(evidence[:, None], model.backbone.patch_embed.patch_size)[:, 0].clamp(min=0)
    else:
        logits, shares = rollout(model, clip.to(predictor.device))
        side = round(shares.shape[1] ** 0.5)  # crops are square
        evidence = shares.unflatten(1, (side, side))
    scores = predictor.probabilities(logits[None]).split(model.num_classes)[task]
    number = int(scores.argmax()) if number is None else number
    return Explanation(
        frames=_as_shown(clip, model.clip),
        maps=_as_maps(evidence.cpu(), model.clip.size),
        shares=_frame_shares(evidence.cpu()),
        label=model.classes[task][number],
        score=float(scores[number]),
        method=method,
    )


def _find_class(model: XViT, target: str | int | None, task: int) -> int | None:
    if not 0 <= task < len(model.classes):
        raise ConfigError(f"no task {task}: the model has {len(model.classes)}, numbered from 0")
    names = model.classes[task]
    if target is None:
        return None
    if isinstance(target, str) and target in names:
        return names.index(target)
    number = int(target) if isinstance(target, int) or target.isdecimal() else -1
    if 0 <= number < len(names):
        return number
    near = difflib.get_close_matches(str(target), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(names)}, such as {names[0]}"
    raise ConfigError(f"no class {str(target)!r} in the model: {hint}")


def _as_shown(clip: Tensor, config: ClipConfig) -> NDArray[np.uint8]:
    """Normalised frames (T, C, H, W) as the bytes they were."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return ((clip.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _as_maps(evidence: Tensor, size: int) -> NDArray[np.float32]:
    """Evidence of patches (T, h, w) -> (T, size, size), its largest value 1 (all 0 where nothing speaks)."""
    smooth = F.interpolate(evidence[:, None], size=(size, size), mode="bilinear")[:, 0]
    return (smooth / smooth.max().clamp(min=1e-30)).numpy().astype(np.float32)


def _frame_shares(evidence: Tensor) -> NDArray[np.float32]:
    """(T, h, w) -> (T,): the same for every frame where nothing speaks for the class."""
    sums = evidence.sum(dim=(1, 2))
    total = sums.sum()
    shares = sums / total if total > 0 else torch.full_like(sums, 1 / len(sums))
    return shares.numpy().astype(np.float32)
