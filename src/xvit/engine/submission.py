"""Predictions in the forms that the test servers of data sets take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from xvit.engine.results import TASKS
from xvit.engine.scores import Evaluation


def write_submission(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write a test list's predictions into `folder`; returns the file.

    One task gives `submission.csv`, SSv2's form: `video_id;k;k;k;k;k`, class numbers, best first. Verb and
    noun give `submission.json`, EPIC-KITCHENS-100's form: the probability of every verb and noun of every
    segment; the levels of supervision (`sls_…`) are -1, for whoever submits to state.
    """
    if len(evaluation.classes) == len(TASKS):
        return _epic(evaluation, Path(folder) / "submission.json")
    best = np.argsort(-evaluation.scores, axis=1, kind="stable")[:, :5]
    lines = (";".join([name, *map(str, row)]) for name, row in zip(evaluation.video_id, best, strict=True))
    path = Path(folder) / "submission.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return path


def _epic(evaluation: Evaluation, path: Path) -> Path:
    shares = [np.round(task, 6).tolist() for task in evaluation.probabilities()]
    found = {
        video: {
            task: {str(k): share for k, share in enumerate(part[row])}
            for task, part in zip(TASKS, shares, strict=True)
        }
        for row, video in enumerate(evaluation.video_id)
    }
    about = {"version": "0.2", "challenge": "action_recognition", "sls_pt": -1, "sls_tl": -1, "sls_td": -1}
    path.write_text(json.dumps({**about, "results": found}) + "\n", encoding="utf8")
    return path
