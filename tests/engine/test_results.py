from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from xvit.engine.compare import compare, comparison_text, ensemble
from xvit.engine.journal import Journal
from xvit.engine.results import read_groups, results, table
from xvit.engine.scores import Evaluation, Scored, read_scores, write_scores
from xvit.engine.submission import write_submission
from xvit.errors import DatasetError


def make(scores: object, labels: object, *, sizes: tuple[int, ...] = (3,), **changes: object) -> Evaluation:
    scores = np.asarray(scores, np.float32)
    tasks = np.split(scores, np.cumsum(sizes)[:-1], axis=1)
    evaluation = Evaluation(
        video_id=tuple(f"v{n}" for n in range(len(scores))),
        scores=scores,
        labels=np.asarray(labels, np.int64).reshape(len(scores), -1),
        missing=(),
        classes=tuple(tuple(f"{t}{k}" for k in range(size)) for t, size in zip("ab", sizes, strict=False)),
        combine="probabilities",
        leaders=np.stack([task.argmax(1) for task in tasks], 1)[:, None].astype(np.int32),
        margins=np.ones((len(scores), 1), np.float32),
        views_used=np.ones(len(scores), np.int64),
    )
    return dataclasses.replace(evaluation, **changes)


def test_one_task() -> None:
    scores = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]
    found = results(make(scores, [0, 1, 1, 1]), top_k=(1, 2))
    task = found["tasks"]["class"]
    assert task["top1"]["value"] == 0.5
    assert task["top1"]["low"] == 0.0
    assert task["top1"]["high"] == 1.0
    assert task["top2"]["value"] == 1.0
    assert task["mean_class_accuracy"]["value"] == pytest.approx((1 + 1 / 3) / 2)
    assert sorted(task["confusion"]) == [[0, 0, 1], [1, 0, 1], [1, 1, 1], [1, 2, 1]]
    assert [row["class"] for row in task["per_class"]] == ["a0", "a1"]
    assert task["most_confused"][0] == {"class": "a1", "taken_for": "a0", "videos": 1, "of": 3}
    json.dumps(found, allow_nan=False)


def test_verb_noun_and_action() -> None:
    verbs, nouns = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]
    found = results(make(np.hstack([verbs, nouns]), [[0, 0], [0, 0], [0, 0]], sizes=(2, 2)))
    top1 = {name: task["top1"]["value"] for name, task in found["tasks"].items()}
    assert top1 == pytest.approx({"verb": 2 / 3, "noun": 2 / 3, "action": 1 / 3})
    assert found["by_views"] == [{"views": 1, "top1": pytest.approx(1 / 3), "low": 0.0, "high": 1.0}]


def test_several_labels_a_video_give_average_precision() -> None:
    scores = [[0.9, 0.8, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.2]]
    found = results(make(scores, [[0, 1], [1, -1], [2, -1]]))["tasks"]["class"]
    assert 0 <= found["map"]["low"] < found["map"]["value"] < found["map"]["high"] <= 1
    # class 0: first; class 1: both first; class 2: tied second of three
    assert found["map"]["value"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert found["top1"]["value"] == pytest.approx(2 / 3)


def test_a_list_without_labels_gives_predictions(tmp_path: Path) -> None:
    evaluation = make([[0.1, 0.2, 0.7]], np.zeros((1, 0)))
    assert results(evaluation)["tasks"] == {}
    write_submission(evaluation, tmp_path)
    assert (tmp_path / "submission.csv").read_text() == "v0;2;1;0\n"


def test_verbs_and_nouns_without_labels_are_submitted_apart(tmp_path: Path) -> None:
    evaluation = make([[0.9, 0.1, 0.2, 0.3, 0.5]], np.zeros((1, 0)), sizes=(2, 3))
    file = write_submission(evaluation, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["submission.json"]
    found = json.loads(file.read_text())
    assert (found["version"], found["challenge"]) == ("0.2", "action_recognition")
    verbs, nouns = {"0": 0.9, "1": 0.1}, {"0": 0.2, "1": 0.3, "2": 0.5}
    assert found["results"] == {"v0": {"verb": verbs, "noun": nouns}}


def test_several_labels_have_intervals_class_by_class_and_views() -> None:
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(3)[:2] for _ in range(60)])
    labels[::4, 1] = -1
    scores = rng.random((60, 4)) + 0.5 * (labels[:, :1] == np.arange(4))
    leaders = np.stack([scores.argmax(1), labels[:, 1] % 4], 1)[:, :, None].astype(np.int32)
    views = {"leaders": leaders, "margins": np.ones((60, 2), np.float32)}
    found = results(make(scores, labels, sizes=(4,), **views))
    each = found["tasks"]["class"]["per_class"]
    assert [row["class"] for row in each] == ["a0", "a1", "a2"]  # a3 never occurs
    assert all(0 <= row["low"] < row["average_precision"] < row["high"] <= 1 for row in each)
    whole = found["tasks"]["class"]["map"]
    assert whole["value"] == pytest.approx(np.mean([row["average_precision"] for row in each]))
    assert whole["high"] - whole["low"] < max(row["high"] - row["low"] for row in each)
    # the second view's leader is each video's second label, where it has one
    assert [row["top1"] for row in found["by_views"]] == [
        found["tasks"]["class"]["top1"]["value"],
        pytest.approx(45 / 60),
    ]
    json.dumps(found, allow_nan=False)


def test_what_is_not_on_disk_stays_known(tmp_path: Path) -> None:
    write_scores(make([[1, 0, 0], [0, 1, 0]], [0, 1], not_on_disk=3), tmp_path / "scores.npz")
    found = results(read_scores(tmp_path))
    assert found["not_on_disk"] == 3
    assert "2 videos, none missing, 3 more that the list names are not on disk;" in table(found)


def test_groups_widen_the_interval_and_are_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 10)
    scores = np.where((rng.random(10) < 0.5)[group, None], [[0.9, 0.1, 0.0]], [[0.1, 0.9, 0.0]])
    evaluation = make(scores, np.zeros(100))
    file = tmp_path / "groups.csv"
    lines = [f"{name}.mp4 0 g{g}" for name, g in zip(evaluation.video_id, group, strict=True)]
    file.write_text("path label_id group_id\n" + "\n".join(lines) + "\n")
    alone = results(evaluation)["tasks"]["class"]["top1"]
    grouped = results(evaluation, groups=read_groups(file))
    top1 = grouped["tasks"]["class"]["top1"]
    assert grouped["groups"] == 10
    assert top1["high"] - top1["low"] > 2 * (alone["high"] - alone["low"])
    with pytest.raises(DatasetError, match=r"no group is given for v0 \(100 of 100 videos\)"):
        results(evaluation, groups={})
    file.write_text("path,group\nv0\n")
    with pytest.raises(DatasetError, match=r"groups\.csv:2: expected a video and its group"):
        read_groups(file)


def test_budget_spends_views_where_they_are_needed() -> None:
    leaders = np.array([[0, 0], [1, 0]])[:, :, None].astype(np.int32)
    margins = np.array([[0.9, 0.9], [0.1, 0.3]], np.float32)
    evaluation = make([[1, 0, 0], [0.6, 0.4, 0]], [0, 0], leaders=leaders, margins=margins)
    found = results(dataclasses.replace(evaluation, views_used=np.array([2, 2])))
    assert [row["top1"] for row in found["by_views"]] == [0.5, 1.0]
    spent = {row["mean_views"]: row["top1"] for row in found["by_margin"]}
    assert spent[1.0] == 0.5
    assert spent[1.5] == 1.0


def test_a_diverged_model_is_counted_not_hidden() -> None:
    found = results(make(np.full((4, 3), np.nan), [0, 0, 1, 2]))
    assert found["not_finite"] == 4
    assert found["tasks"]["class"]["top5"]["value"] == 0.0


def test_the_list_that_was_scored_stays_known(tmp_path: Path) -> None:
    one = make([[1, 0, 0], [0, 1, 0]], [0, 1], list_sha256="aa")
    write_scores(one, tmp_path / "scores.npz")
    again = read_scores(tmp_path)
    assert results(again)["list"] == {"sha256": "aa"}
    other = dataclasses.replace(again, list_sha256="bb")
    assert compare(again, other)["list_sha256"] == {"a": "aa", "b": "bb"}
    assert results(ensemble([again, again]))["list"] == {"sha256": "aa"}
    assert results(ensemble([again, other]))["list"] == {"sha256": None}


def test_compare_names_the_flips_and_pairs_the_interval() -> None:
    labels = np.zeros(200, np.int64)
    scores = np.tile([0.6, 0.3, 0.1], (200, 1))
    scores[:100] = [0.3, 0.6, 0.1]  # wrong in both but for the first ten
    better = scores.copy()
    better[:10] = [0.6, 0.3, 0.1]
    found = compare(make(scores, labels), make(better, labels))
    assert found["top1"]["a"] == 0.5
    assert found["top1"]["difference"]["value"] == pytest.approx(0.05)
    assert 0.01 < found["top1"]["difference"]["low"] < found["top1"]["difference"]["high"] < 0.1
    assert [flip["video_id"] for flip in found["fixed"]] == [f"v{n}" for n in range(10)]
    assert found["fixed"][0] == {"video_id": "v0", "label": "a0", "a": "a1", "b": "a0"}
    assert found["broken"] == []


def test_compare_of_several_labels_pairs_mean_average_precision() -> None:
    rng = np.random.default_rng(5)
    positive = rng.random((60, 3)) < 0.4
    positive[:, 0] |= ~positive.any(1)
    labels = [[*np.flatnonzero(row), -1, -1][:3] for row in positive]
    noise = rng.random((60, 3))
    one, two = make(0.3 * positive + noise, labels), make(0.9 * positive + noise, labels)
    found = compare(one, two)["map"]
    own = [results(each)["tasks"]["class"]["map"] for each in (one, two)]
    assert [found["a"], found["b"]] == [each["value"] for each in own]
    change = found["difference"]
    assert change["value"] == pytest.approx(found["b"] - found["a"])
    assert 0 < change["low"] < change["value"] < change["high"]
    # the same videos are drawn for both, so the difference is surer than either figure
    assert change["high"] - change["low"] < sum(each["high"] - each["low"] for each in own)
    assert "mAP    A 78.49 %  B 99.33 %" in comparison_text(compare(one, two), "one", "two", 3)


def test_compare_joins_by_name_and_refuses_other_labels() -> None:
    one = make([[1, 0, 0], [0, 1, 0]], [0, 1])
    turned = make([[0, 1, 0], [1, 0, 0], [1, 0, 0]], [1, 0, 0], video_id=("v1", "v0", "new"))
    found = compare(one, turned)
    assert (found["videos"], found["only_b"], found["fixed"], found["broken"]) == (2, ["new"], [], [])
    with pytest.raises(DatasetError, match="different labels"):
        compare(one, make([[1, 0, 0], [0, 1, 0]], [0, 2]))
    with pytest.raises(DatasetError, match="no video in common"):
        compare(one, make([[1, 0, 0]], [0], video_id=("x",)))


def test_ensemble_averages_probabilities_also_of_summed_logits() -> None:
    one = make([[0.6, 0.4, 0.0], [1, 0, 0]], [1, 0])
    logits = np.log([[0.1, 0.8, 0.1]]) * 2  # two views of the same logits, added up
    two = make(logits, [1], combine="logits", margins=np.ones((1, 2), np.float32))
    both = ensemble([one, two])
    np.testing.assert_allclose(both.scores, [[0.35, 0.6, 0.05]], rtol=1e-6)
    assert both.missing == (("v1", "not in all score files"),)
    assert results(both)["tasks"]["class"]["top1"]["value"] == 1.0


def scored(row: int) -> Scored:
    return Scored(
        rows=np.array([row]),
        scores=np.full((1, 3), row, np.float32),
        labels=np.array([[row]]),
        leaders=np.zeros((1, 2, 1), np.int32),
        margins=np.zeros((1, 2), np.float32),
        views_used=np.array([2]),
    )


def test_a_journal_keeps_whole_blocks_only(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.bin"
    journal = Journal(path, {"list": "a"})
    for row in range(3):
        journal.add(scored(row))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Journal(path, {"list": "a"})
    assert [int(part.rows[0]) for part in again.finished] == [0, 1]
    assert again.seconds > 0
    again.add(scored(2))
    last = Journal(path, {"list": "a"})
    assert [int(part.rows[0]) for part in last.finished] == [0, 1, 2]
    assert last.seconds > again.seconds
    assert Journal(path, {"list": "b"}).finished == []
    assert Journal(path, {"list": "a"}).finished == []
    journal.close()
    assert not path.exists()
