"""What a new API key may do: never more than its creator. Pure rules, no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sage.errors import InvalidRequest, PermissionDenied
from sage.middleware.auth.principal import NOT_BY_DEFAULT, ROLES, Principal, Scope
from sage.middleware.settings.limits import Limits

MAX_NOTE = 1000
MAX_TAGS = 20
_MAX_PATTERNS = 50
_MAX_PATTERN_LENGTH = 256
_MAX_STARS = 8  # keeps matching fast whatever the pattern
_ANY = "\0"  # stands for a child's '*': only a '*' of the parent matches it


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What is requested for a new key. ``None`` means as much as its creator has, without ``admin``, ``tenant:admin``,
    ``tools:write`` and ``worker``.

    ``user`` is whose key it is to be, if not its creator's. Its limits hold beside those of its creator, which count
    its calls too.
    """

    name: str = ""
    scopes: Sequence[str] | None = None
    models: Sequence[str] | None = None
    tenant: str | None = None
    expires_at: int | None = None
    note: str = ""
    tags: Sequence[str] = ()
    limits: Limits | None = None
    user: str | None = None
    tools: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key gets. ``expires_at`` is in Unix seconds."""

    scopes: tuple[Scope, ...]
    models: tuple[str, ...]
    tools: tuple[str, ...]
    tenant: str
    expires_at: int | None


def decide(creator: Principal, request: KeyRequest, now: float) -> Grant:
    """What a new key of ``creator`` gets.

    Raises :class:`InvalidRequest` for a request that makes no sense, :class:`PermissionDenied` for one beyond the
    creator's own rights.
    """
    return Grant(
        scopes=_scopes(creator, request.scopes),
        models=allowed_patterns(creator.models, request.models, "models"),
        tools=allowed_patterns(creator.tools, request.tools, "tools"),
        tenant=_tenant(creator, request.tenant),
        expires_at=_expiry(creator, request.expires_at, now),
    )


def covers(parent: str, child: str) -> bool:
    """Whether every name that the pattern ``child`` matches is matched by the pattern ``parent`` too.

    Exact for patterns whose only wildcard is ``*``: each ``*`` of the child is replaced by a character that no
    pattern has. Only a ``*`` of the parent can match it, and that would match any other text there as well.
    """
    return fnmatchcase(child.replace("*", _ANY), parent)


def common_patterns(own: Sequence[str], others: Sequence[str]) -> list[str]:
    """Patterns for no more than both match. Of two that overlap and do not cover one another, it has neither."""
    kept = [each for each in others if any(covers(pattern, each) for pattern in own)]
    kept += [pattern for pattern in own if any(covers(each, pattern) for each in others)]
    return list(dict.fromkeys(kept))


def check_patterns(patterns: Sequence[str], param: str = "models") -> tuple[str, ...]:
    """The patterns of names of models or tools, each once; raises :class:`InvalidRequest` for one that is malformed."""
    kind = param.removesuffix("s")
    if not 1 <= len(patterns) <= _MAX_PATTERNS:
        raise InvalidRequest(f"give 1 to {_MAX_PATTERNS} {kind} patterns ('*' for all {param})", param=param)
    for pattern in patterns:
        if not 1 <= len(pattern) <= _MAX_PATTERN_LENGTH or not pattern.isprintable() or " " in pattern:
            raise InvalidRequest(
                f"a {kind} pattern has 1 to {_MAX_PATTERN_LENGTH} printable characters without spaces", param=param
            )
        if "?" in pattern or "[" in pattern:
            raise InvalidRequest(
                f"{kind} pattern '{pattern}': '*' is the only wildcard; '?' and '[' are not allowed", param=param
            )
        if pattern.count("*") > _MAX_STARS:
            raise InvalidRequest(f"{kind} pattern '{pattern}' has more than {_MAX_STARS} '*'", param=param)
    return tuple(dict.fromkeys(patterns))


def check_name(text: str) -> str:
    """Raises :class:`InvalidRequest` for a name of a key that is too long or not printable."""
    if len(text) > 100 or not text.isprintable():
        raise InvalidRequest("a key's name has at most 100 printable characters", param="name")
    return text


def check_note(text: str) -> str:
    """Raises :class:`InvalidRequest` for a note that is too long or has control characters."""
    if len(text) > MAX_NOTE or not all(char.isprintable() or char == "\n" for char in text):
        raise InvalidRequest(f"a note has at most {MAX_NOTE} printable characters", param="note")
    return text


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags, each once; raises :class:`InvalidRequest` for one that is malformed, or too many."""
    if len(tags) > MAX_TAGS:
        raise InvalidRequest(f"a key has at most {MAX_TAGS} tags", param="tags")
    for tag in tags:
        if not 1 <= len(tag) <= 64 or not tag.isprintable() or " " in tag or "," in tag:
            raise InvalidRequest("a tag has 1 to 64 printable characters without spaces and commas", param="tags")
    return tuple(dict.fromkeys(tags))


def is_within(scopes: Sequence[str], models: Sequence[str], tools: Sequence[str], holder: Principal) -> bool:
    """Whether a key with these scopes, models and tools may do no more than ``holder``."""
    return (
        set(scopes) <= set(holder.scopes)
        and all(any(covers(own, pattern) for own in holder.models) for pattern in models)
        and all(any(covers(own, pattern) for own in holder.tools) for pattern in tools)
    )


def _scopes(creator: Principal, requested: Sequence[str] | None) -> tuple[Scope, ...]:
    if requested is None:
        return tuple(sorted(creator.scopes - NOT_BY_DEFAULT))
    unknown = sorted(set(requested) - {str(scope) for scope in Scope})
    if unknown:
        valid = ", ".join(sorted(Scope))
        raise InvalidRequest(f"there is no scope '{unknown[0]}'; known: {valid}", param="scopes", code="unknown_scope")
    if not requested:
        raise InvalidRequest("give a key at least one scope", param="scopes")
    scopes = {Scope(scope) for scope in requested}
    beyond = sorted(scopes - creator.scopes)
    if beyond:
        owned = ", ".join(sorted(creator.scopes)) or "none"
        raise PermissionDenied(
            f"a key cannot have the scope '{beyond[0]}', which its creator does not have; it has: {owned}",
            param="scopes",
            code="beyond_creator",
        )
    return tuple(sorted(scopes))


def allowed_patterns(own: tuple[str, ...], requested: Sequence[str] | None, param: str) -> tuple[str, ...]:
    """The patterns that a key gets, of names of models or tools. Raises :class:`PermissionDenied` for more than its
    maker's ``own``."""
    if requested is None:
        return own
    patterns = check_patterns(requested, param)
    for pattern in patterns:
        if not any(covers(each, pattern) for each in own):
            raise PermissionDenied(
                f"a key cannot use the {param} '{pattern}', which its creator may not use; it may use: "
                f"{', '.join(own)}",
                param=param,
                code="beyond_creator",
            )
    return patterns


def _tenant(creator: Principal, requested: str | None) -> str:
    if requested is None or requested == creator.tenant:
        return creator.tenant
    if creator.by_key or creator.role != "admin":
        raise PermissionDenied(
            f"a key cannot belong to the tenant '{requested}': its creator belongs to '{creator.tenant}' "
            "(only an admin's login makes keys of other tenants)",
            param="tenant",
            code="beyond_creator",
        )
    return requested


def _expiry(creator: Principal, requested: int | None, now: float) -> int | None:
    if requested is not None and requested <= now:
        raise InvalidRequest("the key would have expired already; give a time in the future", param="expires_at")
    limit = creator.expires_at if creator.by_key else None
    if limit is None:
        return requested
    if requested is not None and requested > limit:
        raise PermissionDenied(
            "a key cannot live longer than the key that makes it", param="expires_at", code="beyond_creator"
        )
    return int(limit) if requested is None else requested


def operator(user: str, tenant: str, role: str) -> Principal:
    """The creator of a key that the command line makes for ``user``: the same as that user, logged in."""
    return Principal(user=user, tenant=tenant, scopes=ROLES[role], credential="cli", role=role)
