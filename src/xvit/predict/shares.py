"""Whose share of a corpus is whose, and how processes that torchrun started end together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from xvit.errors import ConfigError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=30)  # for the process with the slowest share; torchrun ends all where one dies


@dataclass(frozen=True)
class Share:
    """The `number`-th of `count` shares, from 1.

    launched: whether a launcher started the processes of all shares with one command line.
    meets:    whether it also told them how to find each other, as torchrun does.
    """

    number: int
    count: int
    launched: bool = False
    meets: bool = False

    @classmethod
    def find(cls, text: str | None) -> Share:
        """ "2/4" -> the second of four; None is torchrun's place for this process. Raises ConfigError."""
        if text is None:
            number, count = int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))
            return cls(number, count, count > 1, count > 1 and "MASTER_ADDR" in os.environ)
        left, _, right = text.partition("/")
        if not (left.isdecimal() and right.isdecimal() and 1 <= int(left) <= int(right)):
            raise ConfigError(f'--shard is written i/n with i from 1 to n, such as "1/4", got {text!r}')
        return cls(int(left), int(right))

    @property
    def speaks(self) -> bool:
        """Whether this process tells what there is to tell of them all."""
        return self.number == 1 or not self.meets

    def of(self, videos: Sequence[T]) -> Sequence[T]:
        """This share's part of all videos."""
        return videos[self.number - 1 :: self.count]

    def file(self, output: Path) -> Path:
        """Launched processes share a command line, so each gets a file of its own: out.2of4.jsonl."""
        if not self.launched:
            return output
        return output.with_suffix(f".{self.number}of{self.count}{output.suffix}")

    def gather(self, found: T) -> list[T]:
        """What every share's process has found, in their order, once the last of them is done.

        Nobody goes on before that: torchrun ends all processes as soon as one of them has failed.
        """
        if not self.meets:
            return [found]
        from torch import distributed

        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        everything: list[Any] = [None] * self.count
        distributed.all_gather_object(everything, found)
        return everything

    def part(self) -> None:
        """Wait until the process that speaks has spoken, and leave the others."""
        if self.meets:
            from torch import distributed

            distributed.barrier()
            distributed.destroy_process_group()
