"""``POST /tasks/evaluate``: questions over models and collections, as a caller asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from sage.middleware.evaluation.expected import ANSWER_METRICS, ExpectedAnswer
from sage.middleware.evaluation.ranking import RANKING_METRICS, RankingMetric
from sage.middleware.gateway.collections.requests import ModelName, Reranking, SourcesRequest
from sage.middleware.gateway.jobs.generate_request import CustomId
from sage.middleware.gateway.jobs.options import JobOptions
from sage.middleware.settings.quantities import nearest

MOST_SYSTEMS = 32
"""Models, or models times collections, of one evaluation: each is a row of its report."""
_MOST_METRICS = 32
_MOST_JUDGED = 1000
_DEFAULT_ANSWER_METRICS = tuple(name for name in ANSWER_METRICS if name != "judge")
_DEFAULT_RANKING_METRICS = tuple(RANKING_METRICS)


class EvaluatedCollection(BaseModel):
    """A collection, and how it is searched."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    collection: str = Field(min_length=1, examples=["docs"])
    name: str | None = Field(
        None, min_length=1, max_length=64, description="In the report; null means as it is searched."
    )
    top_k: int = Field(5, ge=1, le=50, description="How many sources a model is given.")
    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    syntax: Literal["auto", "query", "plain"] = Field("plain", description="How the signs of questions are read.")
    filter: dict[str, Any] | None = None
    fusion: Literal["minmax", "rrf", "dbsf", "zscore"] = "minmax"
    alpha: float | None = Field(None, ge=0, le=1)
    rerank: Reranking | None = None
    exact: bool = False

    @property
    def label(self) -> str:
        """How the report calls it: its name, else the collection with what is not as usual."""
        if self.name is not None:
            return self.name
        unusual = [
            str(value.model if field == "rerank" else value)
            for field in ("mode", "fusion", "rerank")
            if (value := getattr(self, field)) != type(self).model_fields[field].default
        ]
        return f"{self.collection} ({', '.join(unusual)})" if unusual else self.collection

    def search_fields(self) -> dict[str, Any]:
        """The fields of a search as a request has them."""
        fields = self.model_dump(exclude={"name"}, exclude_defaults=True)
        return {**fields, "collection": self.collection, "top_k": self.top_k, "syntax": self.syntax}

    def check_filter(self) -> None:
        """Raises :class:`sage.errors.InvalidRequest` for a filter that no search takes."""
        SourcesRequest.model_construct(filter=self.filter).check_filter()


class Judge(BaseModel):
    """A model that judges answers by a rubric, from 1 to 5."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName
    rubric: str | None = Field(None, min_length=1, max_length=4000)
    max_tokens: int = Field(512, ge=16, le=8192)
    temperature: float | None = Field(0, ge=0, description="Null leaves it out, for models that refuse it.")


def _named(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


class Question(BaseModel):
    """A question, with the answer that is expected or the documents that are relevant, or both."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: CustomId | None = Field(None, description="In results; null means its place, from 0.")
    question: str = Field(min_length=1, max_length=1_000_000)
    expected: Any = Field(
        None,
        description="A text, texts of which one is right, a number, "
        '`{"number": 3.1, "tolerance": 0.1}` or `{"regex": "…"}`.',
    )
    relevant: dict[str, float | int] | list[str] | None = Field(
        None, max_length=_MOST_JUDGED, description="Ids of relevant documents, or grades by id."
    )
    messages: list[dict[str, Any]] | None = Field(
        None, description="What stands before the question, such as examples."
    )
    metadata: dict[str, Any] | None = Field(None, description="Comes back with the question's results.")

    @field_validator("expected")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        if value is not None:
            ExpectedAnswer.read(value)
        return value

    @field_validator("relevant")
    @classmethod
    def _any_relevant(cls, value: Any) -> Any:
        if value is not None and not any(grade > 0 for grade in grades_of(value).values()):
            raise ValueError("must name a document that is relevant, with a grade above 0")
        return value

    @field_validator("question")
    @classmethod
    def _any_word(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value


def grades_of(relevant: dict[str, float | int] | list[str]) -> dict[str, float]:
    """The grade of each judged document; those that are only listed have 1."""
    if isinstance(relevant, list):
        return dict.fromkeys(relevant, 1.0)
    return {name: float(grade) for name, grade in relevant.items()}


class EvaluateFields(BaseModel):
    """What an evaluation compares, and how."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    models: list[ModelName] = Field([], max_length=MOST_SYSTEMS, description="Models that answer every question.")
    collections: list[Annotated[EvaluatedCollection, _named("collection")]] = Field(
        [],
        max_length=MOST_SYSTEMS,
        description="Collections that are searched for every question; with `models` each model answers from the "
        "sources of each collection.",
    )
    prompt: str | None = Field(
        None, max_length=100_000, description="What a model is asked, with `{question}` where the question goes."
    )
    metrics: list[Annotated[str, StringConstraints(max_length=64)]] | None = Field(
        None,
        min_length=1,
        max_length=_MOST_METRICS,
        description=f"{', '.join(ANSWER_METRICS[:-1])}; of searches {', '.join(RANKING_METRICS)}, with `@10` as depth. "
        "Null means all.",
    )
    judge: Annotated[Judge, _named("model")] | None = Field(None, description="A model, or `{model, rubric}`.")
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, description="Of the models, and of the intervals in the report.")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if (name not in ANSWER_METRICS or name == "judge") and RankingMetric.read(name) is None:
                known = [*ANSWER_METRICS[:-1], *RANKING_METRICS]
                raise ValueError(f"there is no metric '{name}'; {nearest(name, known)}")
        return names

    @field_validator("prompt")
    @classmethod
    def _has_question(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{question}" not in prompt:
            raise ValueError("must contain {question}, where each question is put")
        return prompt

    @model_validator(mode="after")
    def _some_system(self) -> EvaluateFields:
        if not self.models and not self.collections:
            raise ValueError("give 'models' that answer, 'collections' that are searched, or both")
        if len(self.models) * max(1, len(self.collections)) > MOST_SYSTEMS:
            raise ValueError(f"'models' times 'collections' may be {MOST_SYSTEMS}")
        for field, names in (("models", self.models), ("collections", [one.label for one in self.collections])):
            if len(set(names)) < len(names):
                raise ValueError(f"'{field}' names one twice; give one of two collections a 'name' of its own")
        if self.judge is not None and not self.models:
            raise ValueError("a 'judge' judges answers: give 'models' too")
        return self

    @property
    def answer_metrics(self) -> list[str]:
        """Those of answers, the judge left out."""
        return [name for name in self.metrics or _DEFAULT_ANSWER_METRICS if name in ANSWER_METRICS]

    @property
    def ranking_metrics(self) -> list[RankingMetric]:
        """Those of searches."""
        read = map(RankingMetric.read, self.metrics or _DEFAULT_RANKING_METRICS)
        return list(dict.fromkeys(metric for metric in read if metric is not None))

    def prompt_for(self, question: str) -> str:
        return question if self.prompt is None else self.prompt.replace("{question}", question)

    def sampling(self) -> dict[str, Any]:
        """The fields that go to the models unchanged."""
        fields = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "stop", "seed")}
        return {name: value for name, value in fields.items() if value is not None}

    def systems(self) -> Sequence[tuple[str, EvaluatedCollection | None]]:
        """Every model, or every model with every collection."""
        if not self.collections:
            return [(model, None) for model in self.models]
        return [(model, collection) for model in self.models for collection in self.collections]


class EvaluateJobRequest(EvaluateFields, JobOptions):
    """An evaluation. With `Content-Type: application/x-ndjson` the body is one question a line, and the other fields
    stand in the query string."""

    questions: list[Question] | None = Field(
        None, examples=[[{"question": "What is the capital of France?", "expected": "Paris"}]]
    )
    input_file_id: str | None = Field(None, description="An uploaded file with one question a line.")
