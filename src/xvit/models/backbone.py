"""The image model underneath: a timm VisionTransformer built with our attention, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Attention, resample_abs_pos_embed
from timm.models import load_state_dict
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from xvit.config import ClipConfig, ModelConfig
from xvit.errors import ConfigError, WeightsError
from xvit.models.attention import DividedBlock, JointAttention
from xvit.models.mixing import SpaceTimeAttention
from xvit.models.pretrained import timm_weights

# Our names for the base models of the released code, and timm's for the weights it started from. The name it
# used, vit_base_patch16_224_in21k, means other weights in timm now.
NAMES = {
    "xvit_base_patch16": "vit_base_patch16_224.orig_in21k",
    "xvit_base_patch32": "vit_base_patch32_224.orig_in21k",
    "xvit_large_patch16": "vit_large_patch16_224.orig_in21k",
    "xvit_large_patch32": "vit_large_patch32_224.orig_in21k",
    "xvit_base_patch16_384": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "xvit_base_patch32_384": "vit_base_patch32_384.augreg_in21k_ft_in1k",
}


def build_backbone(config: ModelConfig, clip: ClipConfig) -> VisionTransformer:
    """A timm VisionTransformer without classifier, whose blocks take tokens (B, T, N, C); random weights.

    Raises ConfigError where timm does not know the name, or where the model cannot attend over frames.
    """
    name = NAMES.get(config.name, config.name)
    args: dict[str, Any] = {"img_size": clip.size, "num_classes": 0, "drop_path_rate": config.drop_path}
    args |= config.backbone_args
    with torch.random.fork_rng(devices=[]):  # looking at the plain model must not change the weights
        _check(config, _plain(name, args))
    args["attn_layer"] = JointAttention if config.attention == "joint" else SpaceTimeAttention
    if config.attention == "divided":
        args["block_fn"] = DividedBlock
    return _create(name, dynamic_img_size=True, **args)


def _create(name: str, **args: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **args)
    except RuntimeError as err:
        if "Unknown model" in str(err) or "Invalid pretrained tag" in str(err):
            raise ConfigError(
                f"model.name: no model called {name!r}; see xvit.list_models() or timm.list_models()"
            ) from err
        raise
    except (TypeError, AssertionError, ValueError) as err:
        raise ConfigError(f"model.backbone_args: timm cannot build {name} with them: {err}") from err


def _plain(name: str, args: dict[str, Any]) -> nn.Module:
    """The model as timm builds it by itself: one block of it is enough where the depth can be given."""
    try:
        return timm.create_model(name, **args | {"depth": 1, "weight_init": "skip"})
    except (TypeError, RuntimeError, AssertionError, ValueError):
        return _create(name, num_classes=0)


def _check(config: ModelConfig, plain: nn.Module) -> None:
    """Why this model, as timm builds it by itself, cannot become a video model; silent where it can."""
    if not isinstance(plain, VisionTransformer):
        raise ConfigError(
            f"model.name: {config.name} is of timm's class {type(plain).__name__}; only VisionTransformer "
            "has the plain attention over a frame's tokens whose keys and values can be mixed"
        )
    for block in plain.blocks:
        attention = [m for m in block.modules() if type(m) is Attention]
        if not attention:
            raise ConfigError(
                f"model.name: {config.name} has blocks ({type(block).__name__}) without timm's plain "
                "attention, so there are no keys and values to mix"
            )
        if config.attention == "divided" and type(block) is not Block:
            raise ConfigError(
                "model.attention: divided needs plain pre-norm blocks; "
                f"{config.name} has {type(block).__name__}"
            )


def load_backbone_weights(backbone: VisionTransformer, config: ModelConfig) -> None:
    """Fill the backbone from `config.backbone_weights`: "timm", or a file in timm's names.

    Patch size and positions of another size are resampled as timm does. Every tensor of the image model must
    be there and none may be left over but the image classifier. Raises WeightsError.
    """
    source = config.backbone_weights
    if source is None:
        return
    if source == "timm":
        state = timm_weights(NAMES.get(config.name, config.name))
    else:
        if not Path(source).is_file():
            raise WeightsError(source, "no such file (model.backbone_weights)")
        try:
            state = load_state_dict(source)
        except Exception as err:  # readers of zip, pickle and safetensors raise what they like
            raise WeightsError(source, f"not a weight file: {str(err).splitlines()[0]}") from err
    state = checkpoint_filter_fn(state, backbone, adapt_layer_scale=True)
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist."))}
    load_strictly(backbone, state, source, optional=is_video_parameter)


def is_video_parameter(name: str) -> bool:
    """Whether a parameter of the backbone is ours, so that no image weights hold it."""
    return name.endswith(".mix_gate") or ".time_" in name or ".adapter." in name


def load_strictly(
    module: nn.Module, state: dict[str, Tensor], source: str | Path, optional: Any = lambda name: False
) -> None:
    """Load all or nothing. Raises WeightsError listing what is missing, unexpected or of the wrong shape."""
    own = module.state_dict()
    missing = [name for name in own if name not in state and not optional(name)]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if problems:
        raise WeightsError(source, "does not fit the model: tensors " + "; ".join(problems))
    module.load_state_dict(state, strict=False)


def embed(backbone: VisionTransformer, images: Tensor, spatial_resize: str) -> Tensor:
    """Images (B, 3, H, W) -> tokens (B, N, C): patches, class and register tokens, spatial positions.

    Raises ValueError where the patch size does not divide H and W.
    """
    patch = backbone.patch_embed.patch_size
    height, width = images.shape[-2:]
    if height % patch[0] or width % patch[1]:
        raise ValueError(
            f"frames of {height}x{width} pixels cannot be cut into patches of {patch[0]}x{patch[1]}: "
            "give sides that the patch size divides"
        )
    x = backbone.patch_embed(images)
    grid = x.shape[1:3]
    x = x.flatten(1, 2)
    names = ("cls_token", "dist_token", "reg_token")
    tokens = [getattr(backbone, name, None) for name in names]
    prefix = [token.expand(x.shape[0], -1, -1) for token in tokens if token is not None]
    positions = spatial_positions(backbone, grid, spatial_resize)
    if positions is None:
        return torch.cat([*prefix, x], dim=1)
    if backbone.no_embed_class:
        x = torch.cat([*prefix, x + positions], dim=1)
    else:
        x = torch.cat([*prefix, x], dim=1) + positions
    return backbone.patch_drop(backbone.pos_drop(x))


def spatial_positions(
    backbone: VisionTransformer, grid: tuple[int, int], spatial_resize: str
) -> Tensor | None:
    """The spatial embedding p_s for a grid of patches: (1, N, C); None where the model has none."""
    positions, own = backbone.pos_embed, tuple(backbone.patch_embed.grid_size)
    if positions is None or tuple(grid) == own:
        return positions
    prefix = 0 if backbone.no_embed_class else backbone.num_prefix_tokens
    if spatial_resize == "timm":
        return resample_abs_pos_embed(positions, list(grid), list(own), num_prefix_tokens=prefix)
    return _released_resize(positions, own, grid, prefix)


def _released_resize(positions: Tensor, own: tuple[int, int], grid: tuple[int, int], prefix: int) -> Tensor:
    # NOTE(parity): bicubic by scale factor, without antialiasing.
    head, rest = positions[:, :prefix], positions[:, prefix:]
    table = rest.reshape(1, *own, -1).permute(0, 3, 1, 2)
    scale = (grid[0] / own[0], grid[1] / own[1])
    table = nn.functional.interpolate(table, scale_factor=scale, mode="bicubic")
    return torch.cat([head, table.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
