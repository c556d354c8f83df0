"""`xvit eval` and `xvit compare`: numbers that can be trusted and looked at."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from xvit.errors import ConfigError


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="a run folder, a weight file or a published name")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted overrides")
    ] = None,
    data: Annotated[str | None, typer.Option(help="folder of videos; default: the run's own")] = None,
    views: Annotated[str | None, typer.Option(help="crops×clips per video, such as 3x2")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default: val")] = None,
    output: Annotated[Path | None, typer.Option(help="folder to write; default: RUN/eval")] = None,
    top_k: Annotated[list[int] | None, typer.Option(help="again for each k; default: 1 and 5", min=1)] = None,
    groups: Annotated[
        Path | None, typer.Option(help="csv of each video's recording: intervals draw recordings")
    ] = None,
    stop_margin: Annotated[
        float | None, typer.Option(help="add views until the leader is this far ahead", min=0.0)
    ] = None,
    sources: Annotated[
        list[Path] | None, typer.Option("--from", help="recompute from scores.npz; several are averaged")
    ] = None,
) -> None:
    """Score a split over several views: accuracies with intervals, every video's scores, a report."""
    chosen = tuple(top_k or (1, 5))
    if sources:
        _refuse_beside_from(
            {"MODEL": model, "--data": data, "--views": views, "--stop-margin": stop_margin, "--split": split}
        )
        _from_scores(sources, chosen, groups, output)
        return
    if model is None:
        raise ConfigError("say what to evaluate: xvit eval RUN, or --from scores.npz")
    from xvit.engine.processes import part
    from xvit.engine.protocol import evaluate_run
    from xvit.engine.results import table
    from xvit.report import report_run

    run = evaluate_run(
        model,
        data=data,
        views=views,
        split=split or "val",
        overrides=overrides or (),
        output=output,
        stop_margin=stop_margin,
        top_k=chosen,
        groups=groups,
        command=shlex.join(["xvit", *sys.argv[1:]]),
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one tells
        page = report_run(run)
        typer.echo(table(run.found))
        typer.echo(f"saved {page}")
    part()


def compare(
    a: Annotated[Path, typer.Argument(help="scores.npz, or the folder that holds it")],
    b: Annotated[Path, typer.Argument(help="another")],
    groups: Annotated[
        Path | None, typer.Option(help="csv of each video's recording: intervals draw recordings")
    ] = None,
    flips: Annotated[int, typer.Option(help="flipped videos to list each way")] = 20,
    output: Annotated[Path | None, typer.Option(help="JSON file to write, with all flips")] = None,
) -> None:
    """Is B better than A? Paired intervals over the videos both scored, and the videos that flipped."""
    from xvit.engine.compare import compare as compare_scores
    from xvit.engine.compare import comparison_text
    from xvit.engine.protocol import write_results
    from xvit.engine.results import read_groups
    from xvit.engine.scores import read_scores

    recordings = read_groups(groups) if groups else None
    found = compare_scores(read_scores(a), read_scores(b), groups=recordings)
    typer.echo(comparison_text(found, str(a), str(b), flips))
    if output is not None:
        write_results({"a": str(a), "b": str(b), **found}, output)
        typer.echo(f"saved {output}")


def _refuse_beside_from(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"--from reads scores that are there, without a model or videos: leave {name} out"
            )


def _from_scores(
    sources: list[Path], top_k: tuple[int, ...], groups: Path | None, output: Path | None
) -> None:
    from xvit.engine.compare import ensemble
    from xvit.engine.protocol import make_folder, write_evaluation
    from xvit.engine.results import read_groups, results, table
    from xvit.engine.scores import read_scores
    from xvit.report import write_report

    evaluations = [read_scores(path) for path in sources]
    evaluation = evaluations[0] if len(evaluations) == 1 else ensemble(evaluations)
    recordings = read_groups(groups) if groups else None
    found = results(evaluation, top_k=top_k, groups=recordings)
    found["from"] = [str(path) for path in sources]
    typer.echo(table(found))
    if output is not None:
        write_evaluation(evaluation, found, make_folder(output))
        write_report(output / "report.html", found, evaluation)
        typer.echo(f"saved {output / 'report.html'}")
