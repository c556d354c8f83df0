"""XViT: a timm ViT whose attention mixes frames, a temporal embedding, and a head over frame features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.errors import ConfigError
from xvit.models.adapters import add_adapters
from xvit.models.backbone import build_backbone, embed, load_backbone_weights
from xvit.models.heads import MeanHead, MomentsHead, TemporalHead, stretch
from xvit.models.mixing import SpaceTimeAttention


class XViT(nn.Module):
    """A video model on a timm image model, with random weights.

    config, clip: how it was built and what input it expects; both travel with the weights.
    num_classes:  one number a task.
    classes:      the names of the classes, one tuple a task; their numbers where no names are known.
    several_labels: whether a video may have several classes at once, each with a probability of its own.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_classes: int | Sequence[int],
        clip: ClipConfig,
        classes: Sequence[Sequence[str]] | None = None,
        several_labels: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self._set_classes(num_classes, classes, several_labels)
        self.backbone = build_backbone(config, clip)
        depth, width = len(self.backbone.blocks), self.backbone.num_features
        if config.feature_blocks > depth:
            raise ConfigError(f"model.feature_blocks: {config.feature_blocks}, the model has {depth} blocks")
        self.num_features = config.feature_blocks * width
        self.grad_checkpointing = False
        self.check_clip(self.clip)
        self._set_mixing()
        if config.adapters is not None:
            add_adapters(self.backbone.blocks, width, config.adapters)
        self.temporal_embedding: nn.Parameter | None
        self.register_parameter("temporal_embedding", None)
        if config.temporal_embedding != "none":
            length = config.temporal_length or self.num_images
            self.temporal_embedding = nn.Parameter(torch.zeros(1, length, 1, width))
        self.head: MeanHead | MomentsHead | TemporalHead = self._make_head()
        self.head_hidden_size = self.head.fc.in_features  # the width of `clip_features`

    def _set_classes(
        self, num_classes: int | Sequence[int], classes: Sequence[Sequence[str]] | None, several_labels: bool
    ) -> None:
        self.num_classes = (num_classes,) if isinstance(num_classes, int) else tuple(num_classes)
        self.classes = tuple(tuple(names) for names in classes or ()) or tuple(
            tuple(str(i) for i in range(count)) for count in self.num_classes
        )
        if tuple(len(names) for names in self.classes) != self.num_classes:
            raise ConfigError(
                f"{[len(names) for names in self.classes]} class names for {list(self.num_classes)} classes"
            )
        if several_labels and len(self.num_classes) > 1:
            raise ConfigError("several labels a video go with one task, not with several")
        self.several_labels = several_labels

    def check_clip(self, clip: ClipConfig) -> None:
        """Raises ConfigError, before any video is read, where such clips cannot go through."""
        size, group, tubelet = clip.size, self.config.mixing.group, len(self.config.tubelet)
        patch = self.backbone.patch_embed.patch_size
        if size % patch[0] or size % patch[1]:
            raise ConfigError(f"data.size: {size} is no multiple of the patch size {patch[0]}")
        if clip.num_frames % tubelet:
            raise ConfigError(f"model.tubelet: {clip.num_frames} frames are no multiple of {tubelet}")
        images = clip.num_frames // tubelet
        if self.config.attention == "mixing" and group and images % group:
            raise ConfigError(
                f"model.mixing.group: a clip of {images} images cannot be mixed in groups of {group}"
            )

    @property
    def num_images(self) -> int:
        """The images that the image model sees of a clip: one a tubelet."""
        return self.clip.num_frames // len(self.config.tubelet)

    def _set_mixing(self) -> None:
        mixing, summary = self.config.mixing, self.config.summary_token
        if summary and self.config.attention in ("divided", "joint"):
            raise ConfigError(f"model.summary_token goes with mixing or spatial, not {self.config.attention}")
        if summary and mixing.causal:
            raise ConfigError("model.summary_token sees the whole clip, so it cannot go with mixing.causal")
        chosen = mixed_blocks(mixing, len(self.backbone.blocks))
        for i, block in enumerate(self.backbone.blocks):
            for layer in block.modules():
                if not isinstance(layer, SpaceTimeAttention):
                    continue
                if self.config.attention == "mixing" and i in chosen:
                    layer.mixing = mixing
                if summary:
                    layer.summary_from = self.backbone.num_prefix_tokens

    def _make_head(self) -> MeanHead | MomentsHead | TemporalHead:
        config, total = self.config, sum(self.num_classes)
        if config.head == "mean":
            return MeanHead(self.num_features, total, dropout=config.dropout)
        if config.head == "moments":
            return MomentsHead(self.num_features, total, moments=config.head_moments, dropout=config.dropout)
        heads = config.head_num_heads or attention_layers(self.backbone)[0].num_heads
        if self.num_features % heads:
            raise ConfigError(f"model.head_num_heads: {heads} does not divide the width {self.num_features}")
        return TemporalHead(
            self.num_features,
            total,
            depth=config.head_depth,
            num_heads=heads,
            dropout=config.dropout,
            positions=self.num_images if config.head_positions else None,
            from_mean=config.head_init == "mean",
        )

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) normalised float -> logits (B, K), K the sum over the tasks.

        Raises ValueError where T is not a multiple of the tubelet or of mixing.group, or the patch size does
        not divide H, W.
        """
        return self.forward_head(self.forward_features(frames))

    def forward_features(self, frames: Tensor, start: int = 0) -> Tensor:
        """frames: (B, T, 3, H, W) -> one feature a frame (B, T, D), or one a tubelet.

        start: the number of the first frame in its stream, for the temporal embedding.
        """
        images = self.images(frames)
        batch, length = images.shape[:2]
        tokens = embed(self.backbone, images.flatten(0, 1), self.config.spatial_resize)
        x = tokens.unflatten(0, (batch, length))
        if self.temporal_embedding is not None:
            x = x + self.temporal_positions(length, start)
        return self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        """Embedded tokens (B, T, N, C) through the blocks -> frame features (B, T, D): those after the last
        `feature_blocks`, each normalised and pooled, side by side.
        """
        x = self.backbone.norm_pre(x)
        first = len(self.backbone.blocks) - self.config.feature_blocks
        features = []
        for i, block in enumerate(self.backbone.blocks):
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
            if i >= first:
                features.append(self._pool(x))
        return torch.cat(features, dim=-1)

    def images(self, frames: Tensor) -> Tensor:
        """What the patch embedding sees of frames (B, T, ...): the weighted sums of their tubelets.

        Raises ValueError where T is not a multiple of the tubelet.
        """
        weights = self.config.tubelet
        if weights == (1.0,):
            return frames
        if frames.shape[1] % len(weights):
            raise ValueError(f"{frames.shape[1]} frames cannot be cut into tubelets of {len(weights)}")
        tubelets = frames.unflatten(1, (-1, len(weights))).unbind(2)
        return sum((w * x for w, x in zip(weights[1:], tubelets[1:], strict=True)), weights[0] * tubelets[0])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """features: (B, T, D) -> logits (B, K), or the clip's feature (B, D) that the classifier sees."""
        return self.head(features, pre_logits)

    def clip_features(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) -> what the classifier sees of each clip, (B, D)."""
        return self.forward_head(self.forward_features(frames), pre_logits=True)

    def temporal_positions(self, length: int, start: int = 0) -> Tensor:
        """The temporal embedding p_t of `length` frames from frame `start` of a stream: (1, T, 1, D).

        A causal model trains on clips cut from streams, so each batch draws the row of its first frame.
        """
        table = self.temporal_embedding
        assert table is not None
        if self.config.temporal_embedding == "interpolate":
            return stretch(table[:, :, 0], length)[:, :, None]
        # NOTE(parity): a 16-frame clip gets the 8 rows of the released files twice.
        rows = table.shape[1]
        if self.training and self.config.mixing.causal:
            drawn = torch.randint(rows, (1,), device=table.device)
            return table[:, (drawn + torch.arange(length, device=table.device)) % rows]
        repeats = -(-(start % rows + length) // rows)
        return table.repeat(1, repeats, 1, 1)[:, start % rows :][:, :length]

    def _pool(self, x: Tensor) -> Tensor:
        """Tokens (B, T, N, C) -> (B, T, C): the class token, or timm's pooling without one."""
        backbone = self.backbone
        if backbone.global_pool == "token" and backbone.num_prefix_tokens == 1 + backbone.num_reg_tokens:
            return backbone.fc_norm(backbone.norm(x[:, :, 0]))
        pooled = backbone.forward_head(backbone.norm(x.flatten(0, 1)), pre_logits=True)
        return pooled.unflatten(0, x.shape[:2])

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(
        self,
        num_classes: int | Sequence[int],
        classes: Sequence[Sequence[str]] | None = None,
        several_labels: bool = False,
    ) -> None:
        """A new classifier for other classes; everything else keeps its weights."""
        self._set_classes(num_classes, classes, several_labels)
        self.head.fc = self._make_head().fc.to(self.head.fc.weight)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The input as timm.data.resolve_model_data_config(model) reads it."""
        size = (3, self.clip.size, self.clip.size)
        return {"input_size": size, "mean": self.clip.mean, "std": self.clip.std, "crop_pct": 1.0}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block on the way back instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are no matrices of a layer: embeddings, tokens, gates."""
        kept = {f"backbone.{name}" for name in self.backbone.no_weight_decay()}
        kept |= {"temporal_embedding", "head.cls_token", "head.positions"}
        return {name for name, _ in self.named_parameters() if name in kept or name.endswith(".mix_gate")}


def attention_layers(backbone: Any) -> list[Any]:
    """The attention layers of all blocks, in order."""
    return [layer for layer in backbone.blocks.modules() if hasattr(layer, "num_heads")]


def mixed_blocks(mixing: Mixing, depth: int) -> set[int]:
    """The numbers of the blocks that mix, out of `depth`. Raises ConfigError where one does not exist."""
    if isinstance(mixing.blocks, tuple):
        beyond = [i for i in mixing.blocks if not 0 <= i < depth]
        if beyond:
            raise ConfigError(f"model.mixing.blocks: no block {beyond[0]}, the model has 0 to {depth - 1}")
        return set(mixing.blocks)
    chosen = {
        "all": range(depth),
        "first_half": range(depth // 2),
        "second_half": range(depth // 2, depth),
        "every_other": range(0, depth, 2),
    }
    return set(chosen[mixing.blocks])


def build_model(
    config: ModelConfig,
    *,
    num_classes: int | Sequence[int],
    clip: ClipConfig,
    classes: Sequence[Sequence[str]] | None = None,
    several_labels: bool = False,
) -> XViT:
    """A new model with the backbone weights that `config` names. Raises ConfigError or WeightsError."""
    model = XViT(config, num_classes=num_classes, clip=clip, classes=classes, several_labels=several_labels)
    load_backbone_weights(model.backbone, config)
    return model
