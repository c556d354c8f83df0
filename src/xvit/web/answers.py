"""The shapes of the service's answers, for its OpenAPI description."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Refusal(BaseModel):
    """Every answer of 400 and more."""

    detail: str = Field(description="what is wrong, in one sentence")
    limit: str | None = Field(None, description="the limit that was exceeded, where it was one")


class About(BaseModel):
    """The video that was sent."""

    video: str = Field(description="its name, as it was sent")
    seconds: float | None = Field(description="null where the file tells no frame rate")
    num_frames: int
    fps: float | None
    height: int
    width: int


class Entry(BaseModel):
    """A class and its probability."""

    label: str
    score: float
    task: int | None = Field(None, description="of models with several tasks, from 0")


class Prediction(About):
    """The best classes, best first; of several tasks those of each."""

    views: str
    predictions: list[Entry]


class Segment(BaseModel):
    """A stretch of the film in seconds; the score is the mean of its smoothed scores."""

    start: float
    end: float
    label: str
    score: float


class Curve(BaseModel):
    """A class's scores at the times in `Curves.seconds`."""

    label: str
    scores: list[float]


class Curves(BaseModel):
    """The leading classes over time."""

    seconds: list[float]
    classes: list[Curve]


class TimelineAnswer(About):
    """What happens when."""

    segments: list[Segment]
    curves: Curves
    srt: str = Field(description="the segments as subtitles")


class ExplainedFrame(BaseModel):
    """A frame as the model saw it: pictures are data URIs, `share` its part of the decision."""

    seconds: float | None
    share: float
    picture: str
    map: str = Field(description="what mattered, to be laid over the picture")


class ExplanationAnswer(About):
    """Where in space and time a decision came from."""

    label: str
    score: float
    method: str
    frames: list[ExplainedFrame]


class Labels(BaseModel):
    """Class names, one list a task."""

    tasks: list[list[str]]
    several_labels: bool = Field(
        description="whether each class has a probability of its own; else those of a task add up to 1"
    )


class Health(BaseModel):
    """Whether the service takes requests."""

    status: str
    model: str
    requests: int = Field(description="in the house now")
