"""Evaluations as pages with pictures: one HTML file each, which opens offline."""

from __future__ import annotations

from xvit.report.demo import TrainedModel, write_demo_report
from xvit.report.evaluation import read_strips, report_run, worst_mistakes, write_report
from xvit.report.page import Filmstrip, filmstrip, one_per_class
from xvit.report.timeline import write_timeline

__all__ = [
    "Filmstrip",
    "TrainedModel",
    "filmstrip",
    "one_per_class",
    "read_strips",
    "report_run",
    "worst_mistakes",
    "write_demo_report",
    "write_report",
    "write_timeline",
]
