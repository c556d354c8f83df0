"""Where else the curves go: Accelerate's trackers by name, and a CSV file."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import LoggerType

from xvit.config import Config
from xvit.errors import ConfigError

PACKAGES = {"comet_ml": "comet_ml", "mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb"}
EXTRAS = ("tensorboard", "wandb")  # of our own package


class CsvTracker(GeneralTracker):
    """`log.csv`: a row a step, a column a value, and new columns where a new value comes up."""

    name = "csv"
    requires_logging_directory = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns = ["step"]
        self.rows = 0  # written
        self.last: dict[str, Any] = {}  # the newest row: a validation adds to it

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def resume(self, step: int) -> None:
        """Go on after `step`: the rows of later steps are about to come again. Step 0 begins a new file."""
        kept: list[dict[str, Any]] = []
        if step and self.path.exists():
            with self.path.open(newline="", encoding="utf8", errors="replace") as file:
                reader = csv.DictReader(file)
                whole = [row for row in reader if None not in row.values()]  # a kill cuts the last one short
                kept = [row for row in whole if row.get("step", "").isdecimal() and int(row["step"]) <= step]
                if "step" in (reader.fieldnames or ()):
                    self.columns = list(reader.fieldnames or ())
        self._rewrite(kept)

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The run folder has its config.yaml already."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write the values of a step."""
        row: dict[str, Any] = {"step": step, **values}
        new = [name for name in row if name not in self.columns]
        again = self.last.get("step") == str(step)
        if new or again:
            with self.path.open(newline="", encoding="utf8") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            if again:
                row = {**rows.pop(), **row}
            self.columns += new
            self._rewrite([*rows, row])
        else:
            with self.path.open("a", newline="", encoding="utf8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        self.last = {"step": str(step)}

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        draft = self.path.with_name(self.path.name + ".unfinished")
        with draft.open("w", newline="", encoding="utf8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.path)
        self.last = {"step": str(rows[-1]["step"])} if rows else {}


def choose_trackers(config: Config) -> list[str | GeneralTracker]:
    """What `train.trackers` names. Raises ConfigError on an unknown name or one that is not installed."""
    chosen: list[str | GeneralTracker] = []
    for name in config.train.trackers:
        if name == "csv":
            chosen.append(CsvTracker(Path(config.output) / "log.csv"))
            continue
        if name not in LoggerType or name == "all":
            known = ", ".join(["csv", *(str(kind) for kind in LoggerType if str(kind) != "all")])
            raise ConfigError(f"train.trackers: no tracker is called {name!r}; there are {known}")
        package = PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            way = f"'xvit[{name}]'" if name in EXTRAS else package
            raise ConfigError(f"train.trackers: {name} is not installed; pip install {way}")
        chosen.append(name)
    return chosen


def start_trackers(accelerator: Accelerator, config: Config, step: int) -> None:
    """Begin, or go on after `step`."""
    if not config.train.trackers:
        return
    folder = Path(config.output)
    accelerator.init_trackers(
        "xvit",
        config=dict(_flat(config.model_dump(mode="json"))),
        init_kwargs={
            "tensorboard": {"purge_step": step + 1 if step else None},
            "wandb": {"dir": str(folder), "name": folder.name},
        },
    )
    for tracker in accelerator.trackers:
        if isinstance(tracker, CsvTracker):
            tracker.resume(step)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with values that every tracker takes."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, bool | int | float | str) else str(value)
