"""Other splits of a small set by recording: how much of an accuracy is the val list?

    python benchmarks/splits.py ../shared/videos/ut_mini splits

writes splits/B and splits/C: links to the set's videos with a `train.csv` and `val.csv` of their own. No
recording (`groups.csv`) is in both, and no val clip is one of the set's own val list or of another split.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", type=Path, help="a folder with groups.csv, val.csv and classes.txt")
    parser.add_argument("output", type=Path, help="a folder to write")
    args = parser.parse_args()
    rows = [line.rsplit(" ", 2) for line in (args.set / "groups.csv").read_text().splitlines()[1:]]
    used = {line.rsplit(" ", 1)[0] for line in (args.set / "val.csv").read_text().splitlines()}
    count = len(used)
    for split in ("B", "C"):
        val = held_out(rows, used, count, random.Random(split))
        used |= val
        folder = args.output / split
        folder.mkdir(parents=True)
        classes = (args.set / "classes.txt").read_text()
        (folder / "classes.txt").write_text(classes)
        for name in classes.split():
            (folder / name).symlink_to((args.set / name).resolve())
        for name, wanted in (("val.csv", True), ("train.csv", False)):
            lines = [f"{path} {label}\n" for path, label, _ in rows if (path in val) is wanted]
            (folder / name).write_text("".join(lines))


def held_out(rows: list[list[str]], used: set[str], count: int, rng: random.Random) -> set[str]:
    """At least `count` paths of whole recordings, none of them used; alike from every class where each
    class has recordings of its own.
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    labels = sorted({label for _, label, _ in rows})
    own = len({(label, group) for _, label, group in rows}) < 2 * len({group for _, _, group in rows})
    for path, label, group in rows:
        groups[label if own else ""][group].append(path)
    val: set[str] = set()
    for part in sorted(groups):
        free = [name for name, paths in sorted(groups[part].items()) if used.isdisjoint(paths)]
        rng.shuffle(free)
        chosen: set[str] = set()
        for name in free:
            if len(chosen) < (count // len(labels) if own else count):
                chosen.update(groups[part][name])
        val |= chosen
    return val


if __name__ == "__main__":
    main()
