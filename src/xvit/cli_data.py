"""`xvit data …`: make, pack, check and look at datasets."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(no_args_is_help=True, help="Make, pack, check and look at datasets.")

Root = Annotated[Path, typer.Argument(help="the folder of the dataset")]
Format = Annotated[str, typer.Option(help="its layout; auto recognises it")]
Workers = Annotated[int, typer.Option(min=1, help="processes")]


@app.command()
def synth(
    root: Annotated[Path, typer.Argument(help="folder to write")],
    size: Annotated[int, typer.Option(min=16, help="side in pixels")] = 32,
    frames: Annotated[int, typer.Option(min=2, help="frames a video")] = 8,
    train: Annotated[int, typer.Option(min=1, help="training videos a class")] = 106,
    val: Annotated[int, typer.Option(min=1, help="validation videos a class")] = 32,
    seed: Annotated[int, typer.Option(help="of the scenes")] = 0,
    workers: Workers = 2,
) -> None:
    """Write the motion set: mp4 files whose class only the order of frames can tell."""
    from xvit.data.synth import PAIRS, write_motion_set

    write_motion_set(
        root,
        size=size,
        num_frames=frames,
        train_per_class=train,
        val_per_class=val,
        seed=seed,
        workers=workers,
    )
    classes = 2 * len(PAIRS)
    typer.echo(f"wrote {classes * train} training and {classes * val} validation videos to {root}")


@app.command()
def pack(
    root: Root,
    output: Annotated[Path, typer.Argument(help="folder to write; an interrupted run is continued")],
    split: Annotated[list[str] | None, typer.Option(help="default: train and val")] = None,
    format: Format = "auto",
    short_side: Annotated[int, typer.Option(min=16, help="larger pictures are reduced to it")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="of the JPEGs")] = 90,
    stride: Annotated[int, typer.Option(min=1, help="every how-many-th frame is kept")] = 1,
    shard_size: Annotated[int, typer.Option(min=1, help="videos a file; 1 is one file a video")] = 1,
    workers: Workers = 2,
) -> None:
    """Pack videos into h5 files of JPEG frames, the layout the released code reads."""
    from xvit.config import DataConfig
    from xvit.data import load_manifest
    from xvit.data.pack import PackSettings
    from xvit.data.pack import pack as pack_split

    settings = PackSettings(short_side=short_side, quality=quality, stride=stride, shard_size=shard_size)
    failed = 0
    for name in split or ["train", "val"]:
        manifest = load_manifest(DataConfig(root=str(root), format=format), name)
        typer.echo(manifest)
        with _progress() as bar:
            task = bar.add_task(f"pack {name}", total=len(manifest.records))
            failures = pack_split(
                manifest, output, settings, workers=workers, on_done=partial(bar.advance, task)
            )
        failed += len(failures)
    if failed:
        typer.echo(f"{failed} videos could not be packed; {output / 'failures.csv'} says why", err=True)
        raise typer.Exit(1)


@app.command()
def check(
    root: Root,
    format: Format = "auto",
    min_frames: Annotated[int, typer.Option(min=1, help="shorter videos are reported")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    fix_csv: Annotated[Path | None, typer.Option(help="folder for lists without the broken videos")] = None,
    workers: Workers = 2,
) -> None:
    """Read every video to its end and compare the lists; exit code 1 when something is wrong."""
    from xvit.config import DataConfig
    from xvit.data.check import check as check_dataset
    from xvit.data.check import write_lists

    with _progress() as bar:
        task = bar.add_task("check", total=None)
        findings, manifests = check_dataset(
            DataConfig(root=str(root), format=format),
            min_frames=min_frames,
            workers=workers,
            on_video=lambda: bar.advance(task),
        )
    if as_json:
        splits = {m.split: {"videos": len(m.records), "digest": m.digest} for m in manifests.values()}
        found = [vars(finding) for finding in findings]
        typer.echo(json.dumps({"splits": splits, "findings": found}, indent=2))
    else:
        for manifest in manifests.values():
            typer.echo(manifest)
        for finding in findings:
            typer.echo(f"{finding.kind:<24} {finding.split:<6} {finding.name}  {finding.detail}".rstrip())
        typer.echo(f"{len(findings)} findings" if findings else "nothing wrong")
    if fix_csv is not None:
        write_lists(findings, manifests, fix_csv)
        typer.echo(f"wrote lists without the broken videos to {fix_csv}", err=True)
    if findings:
        raise typer.Exit(1)


@app.command()
def show(
    config: Annotated[str, typer.Argument(help="a YAML file, or one of the package's")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    output: Annotated[Path, typer.Option(help="picture to write")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train shows augmented clips")] = "train",
    videos: Annotated[int, typer.Option(min=1, help="rows")] = 8,
) -> None:
    """Write a contact sheet of what the model sees."""
    from xvit.config import load_config
    from xvit.data import VideoDataset, load_manifest
    from xvit.data.sheet import write_sheet

    settings = load_config(config, overrides or ())
    manifest = load_manifest(settings.data, split)
    augment = settings.data.augment if split == "train" else None
    dataset = VideoDataset(manifest, settings.data, augment=augment, seed=settings.seed)
    write_sheet(dataset, output, num_videos=videos)
    typer.echo(f"{manifest}\nwrote {output}")


def _progress() -> Progress:
    """A bar with rate and time left, on stderr."""
    from rich import progress
    from rich.console import Console

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            return f"{task.speed or 0:.1f} videos/s"

    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()]
    return progress.Progress(
        *columns, Rate(), progress.TimeRemainingColumn(), console=Console(file=sys.stderr)
    )
