"""What speaks for a class: integrated gradients, for any attention and any head.

The clip is faded in from its mean colour, and at every step the gradient of the class's log-probability is
multiplied by what fading in still adds. Summed over the way, the attributions of all pixels add up to how
much the clip raises the log-probability over the grey clip (Sundararajan et al. 2017): they are shares of
the decision, not just slopes at its end. Mixing needs no rule of its own, since the gradient follows the
channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xvit.models import XViT

STEPS = 16


def integrated_gradients(
    model: XViT, clip: Tensor, task: int, target: int | None, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """clip (T, 3, H, W) on the model's device -> logits (K,), attributions (T, H, W) in nats.

    target: a class of the task, None for the predicted one. Negative attributions speak against it.
    """
    with torch.no_grad():
        logits = model(clip[None])[0].float()
    if target is None:
        target = int(logits.split(model.num_classes)[task].argmax())
    grey = clip.mean(dim=(0, 2, 3), keepdim=True)
    total = torch.zeros_like(clip)
    for step in range(steps):
        faded = torch.lerp(grey.expand_as(clip), clip, (step + 0.5) / steps).requires_grad_()
        with torch.enable_grad():
            parts = model(faded[None]).float().split(model.num_classes, dim=-1)
            log_probabilities = (
                F.logsigmoid(parts[task]) if model.several_labels else parts[task].log_softmax(-1)
            )
            score = log_probabilities[0, target]
        total += torch.autograd.grad(score, faded)[0]
    return logits, ((clip - grey) * total).sum(1) / steps
