"""What a front process and its owner tell each other, beside the requests that a front forwards.

They are pickled: both ends are this program, and no other process has an end of the socket.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage.errors import SageError
from sage.middleware.auth.credential_cache import Verified
from sage.middleware.auth.principal import Principal
from sage.middleware.budgets.subjects import NOBODY, BudgetedSubjects
from sage.middleware.gateway.metrics import ModelMetrics, RetrievalMetrics
from sage.middleware.settings.settings import Settings
from sage.middleware.usage.records import UsageRecord


@dataclass(frozen=True, slots=True)
class Begin:
    """Owner to front, first of all: what it is to do. ``index`` counts the fronts from 1; the owner is worker 0."""

    settings: Settings
    index: int
    revision: int | None
    """The revision of rights; ``None`` means a gateway without accounts."""
    affinity_key: bytes
    """For :meth:`sage.middleware.dispatch.prefix_affinity.Prefixes.share`."""
    own_models: tuple[str, ...]
    """Names of models that run in the owner itself."""


@dataclass(frozen=True, slots=True)
class FrontReady:
    """Front to owner: it serves."""


@dataclass(frozen=True, slots=True)
class SharedState:
    """Owner to front, several times a second and at every change: what decides how requests are answered."""

    number: int
    revision: int | None = None
    revision_read_at: float = 0.0
    """``time.monotonic``, which all processes of a machine share."""
    models: int = 0
    """Counts the changes of the models."""
    asleep: tuple[str, ...] = ()
    """Providers whose server sleeps, so that it has to be woken before it is asked."""
    budgeted: BudgetedSubjects = NOBODY
    """Those whose calls are the owner's, since they have budgets."""
    captured: tuple[str, ...] = ()
    """Teams whose prompts and answers are kept."""


@dataclass(frozen=True, slots=True)
class StateTaken:
    """Front to owner: from now on it answers by the state of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class VerifyCredential:
    """Front to owner: a value of ``Authorization`` that it does not know now; ``None`` means that there is none."""

    number: int
    authorization: bytes | None
    again: Principal | None = None
    """The caller that it was when a call began that runs now; ``None`` means a new call."""


@dataclass(frozen=True, slots=True)
class CredentialVerdict:
    """Owner to front: the answer to :class:`VerifyCredential`."""

    number: int
    outcome: Verified | SageError


@dataclass(frozen=True, slots=True)
class AskCounts:
    """Owner to front: a scrape of the metrics waits for its counts."""

    number: int


@dataclass(frozen=True, slots=True)
class FrontCounts:
    """Front to owner, once a second while they change, and in answer to :class:`AskCounts`: its metrics."""

    number: int
    models: Mapping[str, ModelMetrics]
    retrieval: RetrievalMetrics


@dataclass(frozen=True, slots=True)
class LiveUse:
    """Front to owner, ten times a second while it changes: the requests that run at each deployment (by the model's
    name and the deployment's index), and when the last one has ended (``time.time``)."""

    deployments: Mapping[tuple[str, int], tuple[int, float | None]]


@dataclass(frozen=True, slots=True)
class SettledCalls:
    """Front to owner, ten times a second while there are some, and before :class:`FrontCounts`: calls that have ended,
    for the usage ledger. Their costs are not known, but for those that cost nothing."""

    rows: tuple[tuple[Any, ...], ...]
    """Each is the fields of a :class:`UsageRecord`: as plain tuples, which pickle reads and writes by itself."""

    @classmethod
    def of(cls, records: Iterable[UsageRecord]) -> SettledCalls:
        return cls(tuple(map(tuple, records)))

    @property
    def records(self) -> Iterator[UsageRecord]:
        return map(UsageRecord._make, self.rows)


@dataclass(frozen=True, slots=True)
class DeploymentHealth:
    """Both ways: a deployment failed, or its breaker closed again. Times are those of ``time.monotonic``."""

    model: str
    deployment: int
    """Its index among the model's."""
    cooling_until: tuple[float, ...]
    refused_until: tuple[float, ...]
    """Of each key."""
    invalid_until: tuple[float, ...]
    open_until: float
    """Of the breaker of all callers; 0 means that it is closed."""
    failure: SageError | None = field(default=None)
    """The last one, where the breaker is open."""


@dataclass(frozen=True, slots=True)
class AnsweredConversations:
    """Both ways, several times a second: the hashes of conversations, each with the deployment that answered it."""

    deployments: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class CredentialUses:
    """Front to owner, once a second while there are any: when credentials were last used (Unix seconds)."""

    times: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LastWord:
    """Front to owner, when it ends: it has told all. The owner answers with the same, and tells nothing more."""


Message = (
    Begin
    | FrontReady
    | SharedState
    | StateTaken
    | VerifyCredential
    | CredentialVerdict
    | AskCounts
    | FrontCounts
    | LiveUse
    | SettledCalls
    | DeploymentHealth
    | AnsweredConversations
    | CredentialUses
    | LastWord
)


def encode(message: Message) -> bytes:
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes) -> Message:
    message: Message = pickle.loads(data)  # noqa: S301 (see above)
    return message
