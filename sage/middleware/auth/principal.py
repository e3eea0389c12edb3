"""The verified caller with its rights: the one object that every access check reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from sage.errors import PermissionDenied
from sage.middleware.settings.limits import SubjectLimits


class Scope(StrEnum):
    """What a credential may do. A route names one of these, or none and is public."""

    GENERATE = "generate"
    """Ask models: generate, chat, completions, embeddings."""
    SEARCH = "search"
    """Search collections and read their documents, also as sources of an answer."""
    COLLECTIONS_WRITE = "collections:write"
    """Make, change and delete collections and documents."""
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    """Load and unload models."""
    KV = "kv"
    """Read and write the tenant's entries of the key-value service."""
    VDB = "vdb"
    """Read and write the tenant's collections of the vector service."""
    MEMORY = "memory"
    """Read and write the tenant's memories, also those of a chat with memory."""
    TASKS = "tasks"
    """Submit, see and cancel jobs, and store files for them. What a job does takes the scope of that, too."""
    TOOLS = "tools"
    """Call tools of MCP servers, also in answers of models."""
    TOOLS_WRITE = "tools:write"
    """Accept tools of MCP servers that are new or have changed."""
    WORKER = "worker"
    """Run jobs for everybody, each with the rights of who asked for it. For the machines that run ``sage worker``."""
    SERVICES_READ = "services:read"
    """See which services run where, with counts of all tenants' calls."""
    ACCOUNT = "account"
    """See and change one's own account and keys."""
    USAGE = "usage"
    """See what one's own calls have used and cost, and what is left of one's budgets."""
    TENANT_ADMIN = "tenant:admin"
    """Users, keys, limits, budgets, usage and audit of one's own tenant, but nothing of its admins."""
    METRICS = "metrics"
    ADMIN = "admin"
    """Users and keys of all tenants. Whoever has it can make any account, so it is worth all the others."""


_READS = frozenset({Scope.MODELS_READ, Scope.SEARCH, Scope.USAGE, Scope.ACCOUNT})
_WORK = frozenset(
    {Scope.GENERATE, Scope.COLLECTIONS_WRITE, Scope.KV, Scope.VDB, Scope.MEMORY, Scope.TASKS, Scope.TOOLS}
)

ROLES: dict[str, frozenset[Scope]] = {
    "viewer": _READS,
    "user": _READS | _WORK,
    "owner": _READS | _WORK | {Scope.TENANT_ADMIN},
    "admin": frozenset(Scope),
}
"""What each role may do: an admin in all tenants, the others in their own."""


def with_implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes, and those that they bring along: who manages all tenants manages its own too."""
    given = frozenset(scopes)
    return given | {Scope.TENANT_ADMIN} if Scope.ADMIN in given else given


NOT_BY_DEFAULT = frozenset({Scope.ADMIN, Scope.TENANT_ADMIN, Scope.TOOLS_WRITE, Scope.WORKER})
"""What a key gets only where it is asked for by name."""

MAX_BYTES = 8 * 1024
"""No credential is longer."""

IN_JOBS = frozenset(Scope) - {
    *(
        Scope.ACCOUNT,
        Scope.ADMIN,
        Scope.METRICS,
        Scope.SERVICES_READ,
        Scope.TENANT_ADMIN,
        Scope.TOOLS_WRITE,
        Scope.USAGE,
    ),
    Scope.WORKER,
}
"""What the credential of a running job may do at most: the work, and nothing with accounts."""


_ANY = ("*",)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a job: its rights are looked up anew whenever the job runs.

    ``key`` is the id of the API key; ``None`` means that it was a login.
    """

    user: str
    tenant: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller.

    ``models`` are patterns in which ``*`` stands for any text; ``credential`` names the key, token or job
    (``key:ab12``, ``token:<jti>``, ``job:<id>``, ``none``) and is never secret; ``expires_at`` is in Unix seconds.
    """

    user: str
    tenant: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] = ("*",)
    credential: str = "none"
    expires_at: float | None = None
    role: str = field(default="user")
    session: str | None = None
    """The login session of an access token; ``None`` for an API key."""
    subjects: tuple[str, ...] = ()
    """What limits and budgets of its calls hang on: ``key:<id>`` of its key and of those that made it, ``user:<name>``,
    ``tenant:<name>``."""
    limits: tuple[SubjectLimits, ...] = ()
    """The limits that its calls count against, but for the models' own."""
    tags: tuple[str, ...] = ()
    """Those of its key, in the ledger."""
    is_replaced: bool = False
    """Whether its key has a newer secret: this one may do all but get another."""
    tenant_models: tuple[str, ...] = ("*",)
    """Patterns of models that its tenant reaches: a model must be among these and among ``models``."""

    tools: tuple[str, ...] = ("*",)
    """Patterns of the tools of MCP servers (``docs__*``) that it may call with the scope ``tools``."""
    request_id: bytes = field(default=b"", compare=False)
    """The ``x-request-id`` under which what others ask of models for this caller is in the ledger."""

    @property
    def by_key(self) -> bool:
        """Whether the credential is an API key."""
        return self.credential.startswith("key:")

    @property
    def in_job(self) -> bool:
        """Whether a job calls, with the rights of who asked for it."""
        return self.credential.startswith("job:")

    @property
    def asker(self) -> Asker:
        """Who asks, for the jobs that it submits."""
        return Asker(self.user, self.tenant, self.credential.removeprefix("key:") if self.by_key else None)

    def allows_model(self, name: str) -> bool:
        """Whether this caller may use the model with the public name ``name``."""
        return _match(name, self.models) and _match(name, self.tenant_models)

    def allows_tool(self, name: str) -> bool:
        """Whether this caller may call the tool of an MCP server with the public name ``name``."""
        return _match(name, self.tools)

    def require(self, scope: Scope) -> None:
        """Raises :class:`PermissionDenied` unless the caller has ``scope``."""
        if scope not in self.scopes:
            raise PermissionDenied(
                f"this credential lacks the scope '{scope}'; it has: {', '.join(sorted(self.scopes)) or 'none'}",
                code="missing_scope",
            )

    def require_model(self, name: str) -> None:
        """Raises :class:`PermissionDenied` unless the caller may use the model ``name``."""
        if self.models == _ANY and self.tenant_models == _ANY:
            return
        if not self.allows_model(name):
            raise PermissionDenied(
                f"this credential does not reach the model '{name}'; it reaches: {self.reach}",
                param="model",
                code="model_not_allowed",
            )

    @property
    def reach(self) -> str:
        """The models that it reaches, for a reader."""
        own, team = ", ".join(self.models), ", ".join(self.tenant_models)
        if self.tenant_models == ("*",):
            return own
        return team if self.models == ("*",) else f"{own}; of these, what its team reaches: {team}"


def _match(name: str, patterns: tuple[str, ...]) -> bool:
    return patterns == _ANY or any(fnmatchcase(name, pattern) for pattern in patterns)


LOCAL = Principal(
    user="local",
    tenant="local",
    scopes=frozenset(Scope) - {Scope.ADMIN, Scope.TENANT_ADMIN, Scope.ACCOUNT},
    subjects=("user:local", "tenant:local"),
)
"""Everyone, when the gateway runs with ``--no-auth`` on loopback: no users, no keys, no admin."""
