"""Models to and from the Hugging Face hub, or a folder that looks like one of its repositories."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from xvit.errors import WeightsError
from xvit.models.checkpoint import CONFIG, WEIGHTS, load_model, save_model
from xvit.models.cost import multiply_adds
from xvit.models.xvit import XViT

BODY = """---
{data}
---

# {title}

XViT, a video transformer with space-time mixing attention, for {task} over {clip}.

```python
import xvit
model = xvit.from_pretrained("{name}")  # model(frames): (B, T, 3, H, W) normalised float -> logits (B, K)
```

## Data

{trained_on}

## Results

{results}

## Cost

{cost}

## Licence

{licence}

## Limits

{limits}
"""
LIMITS = """\
It only knows the {count} classes it was trained on (config.json names them) and will name one of them for
any video. Its scores are not calibrated unless the results say so. It sees {frames} frames of a clip, {size}
pixels square: what is faster, smaller or outside the crop is lost. Its accuracy on other cameras, places or
people is not known."""

NAMES = {
    "mean_class_accuracy": "mean class accuracy",
    "ece": "calibration error",
    "map": "mean average precision",
}


def save_pretrained(
    model: XViT,
    folder: str | Path,
    *,
    name: str | None = None,
    data: str = "",
    licence: str = "",
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model.safetensors`, `config.json` and a model card `README.md`; returns the folder.

    data:    what it was trained on, in a sentence. licence: of the weights, as the hub names it.
    results: the contents of a `results.json` of `xvit eval`; None says that nothing was measured.
    """
    folder = Path(folder)
    save_model(model, folder)
    card = model_card(model, name=name or folder.name, data=data, licence=licence, results=results)
    (folder / "README.md").write_text(card, encoding="utf8")
    return folder


def from_pretrained(source: str | Path, *, revision: str | None = None) -> XViT:
    """A model in eval mode from a folder or from the hub's repository `owner/name`. Raises WeightsError."""
    if Path(source).exists():
        return load_model(source)
    try:
        folder = snapshot_download(str(source), revision=revision, allow_patterns=[WEIGHTS, CONFIG])
    except HFValidationError as err:
        raise WeightsError(source, "no such folder, and not a hub repository (owner/name)") from err
    except LocalEntryNotFoundError as err:
        raise WeightsError(source, "no such folder, and the hub cannot be reached") from err
    except (HfHubHTTPError, OSError) as err:
        raise WeightsError(source, f"no such folder, and the hub says: {_said(err)}") from err
    return load_model(folder)


def _said(err: Exception) -> str:
    """The status and what it means, without the hub's advice."""
    return " ".join([line.strip() for line in str(err).splitlines() if line.strip()][:2])


def push_to_hub(
    model: XViT, repository: str, *, private: bool = False, token: str | None = None, **about: Any
) -> str:
    """Create `owner/name` on the hub if need be and upload what `save_pretrained` writes; returns its URL.

    `about` are the keywords of `save_pretrained`. Raises WeightsError where the hub refuses.
    """
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, **{"name": repository, **about})
        try:
            address = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload an XViT model")
        except (HfHubHTTPError, HFValidationError, OSError) as err:
            raise WeightsError(repository, f"the hub refuses: {_said(err)}") from err
    return str(address)


def model_card(
    model: XViT,
    *,
    name: str,
    data: str = "",
    licence: str = "",
    results: Mapping[str, Any] | None = None,
) -> str:
    """The text of a model card: only what is known is stated, the rest is said to be unknown."""
    clip = model.clip
    with torch.inference_mode():
        frames = torch.zeros(1, clip.num_frames, 3, clip.size, clip.size)
        macs = multiply_adds(model, frames)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    metadata = ModelCardData(
        license=licence or None,
        library_name="xvit",
        pipeline_tag="video-classification",
        tags=["video-classification", "xvit"],
    )
    card = ModelCard(
        BODY.format(
            data=metadata.to_yaml(),
            title=name.rsplit("/", 1)[-1],
            name=name,
            task=" and ".join(f"{count} classes" for count in model.num_classes),
            clip=f"clips of {clip.num_frames} frames of {clip.size}² pixels, {clip.sampling} sampling",
            trained_on=data or "Not stated by whoever saved the model.",
            results=_results_text(results),
            cost=f"{millions:.1f} M parameters; {macs / 1e9:.2f} G multiply-adds per clip.",
            licence=licence or "Not stated: ask whoever published the model before using it.",
            limits=LIMITS.format(count=sum(model.num_classes), frames=clip.num_frames, size=clip.size),
        )
    )
    return str(card)


def _results_text(results: Mapping[str, Any] | None) -> str:
    if not results or not results.get("tasks"):
        return "None were measured."
    head = "| | value | 95 % interval |\n|---|---|---|"
    rows = []
    for task, found in results["tasks"].items():
        for key, figure in found.items():
            title = f"{task} {NAMES.get(key) or key.replace('top', 'top-')}"
            if isinstance(figure, dict):
                value, low, high = (100 * figure[bound] for bound in ("value", "low", "high"))
                rows.append(f"| {title} | {value:.2f} % | {low:.2f} to {high:.2f} % |")
            elif key == "ece":
                rows.append(f"| {title} | {100 * figure:.2f} % | |")
    about = f"Over {results['videos']} videos, {len(results['missing'])} missing"
    if results.get("not_on_disk"):
        about += f", {results['not_on_disk']} more that the list names not on disk"
    if "config" in results:
        about += f", {results['config']['eval']['views']} views (crops×clips), {results['combine']} combined"
    drawn = f"{results['groups']} recordings" if results.get("groups") else "videos"
    about += f"; bootstrap intervals over {drawn}"
    listed = results.get("list", {})
    if listed.get("split"):
        about += f". Split {listed['split']}"
    if listed.get("sha256"):
        about += f". SHA-256 of the list `{listed['sha256']}`"
    if "weights" in results:
        about += f", of the weights `{results['weights']['sha256']}`"
    return "\n".join([head, *rows, "", about + "."])
