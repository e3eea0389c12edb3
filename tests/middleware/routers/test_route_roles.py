"""Every route × method × role, and anonymous: exactly what ``route_table.py`` declares."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from route_table import ROUTES, DeclaredRoute
from running_gateway import PASSWORD, Running
from test_routes import scopes, served

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES, Scope

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def test_the_table_has_every_route_and_no_other() -> None:
    declared = {name: (route.method, route.path, route.scope) for name, route in ROUTES.items()}
    known = scopes()
    assert declared == {name: (*where, str(known[name] or "-")) for name, where in served().items()}


def test_the_roles_of_the_table_are_those_that_have_the_scope() -> None:
    assert set(ROLES) == {"admin", "owner", "user", "viewer"}
    for route in ROUTES.values():
        having = {role for role, scopes in ROLES.items() if route.scope in scopes}
        assert route.roles == (having if route.scope != "-" else set()), route.name


def filled(route: DeclaredRoute) -> str:
    path = route.path
    for part in [each.partition("}")[0] for each in path.split("{")[1:]]:
        path = path.replace(f"{{{part}}}", {"due": "1", "number": "1", "kind": "user"}.get(part, "m"))
    return path


@pytest.mark.slow
def test_each_role_gets_what_the_table_says(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.accounts is not None
    keys: dict[str, str] = {}
    for role, own in ROLES.items():
        name = f"{role}-of-acme"
        running.accounts.users.add(name, PASSWORD, role=role, tenant="acme")
        keys[role] = running.accounts.keys.create_for(name, KeyRequest("all", scopes=list(own))).secret
    keys["narrow"] = running.accounts.keys.create_for("admin-of-acme", KeyRequest("k", scopes=[Scope.METRICS])).secret
    wrong: list[tuple[str, str, int, str]] = []
    for route in ROUTES.values():
        path, is_public = filled(route), route.scope == "-"
        bare = requests.request(route.method, running.url + path, json={}, timeout=20)
        told_to_log_in = bare.status_code == 401 and "www-authenticate" in bare.headers and "no credential" in bare.text
        if told_to_log_in == is_public or bare.status_code == 403 or bare.status_code >= 500:
            wrong.append((route.name, "anonymous", bare.status_code, bare.text))
        if is_public:
            continue
        for who, key in keys.items():
            with running.request(route.method, path, key=key, json={}, stream=True) as answer:
                said = answer.text if answer.status_code >= 400 else ""  # a stream of events has no end
            may = who in route.roles or (who == "narrow" and route.scope == Scope.METRICS)
            is_refused = answer.status_code == 403 and "missing_scope" in said
            if (
                answer.status_code == 401
                or is_refused == may
                or (answer.status_code >= 500 and answer.status_code != 503)
            ):
                wrong.append((route.name, who, answer.status_code, said[:200]))
    assert wrong == []


@pytest.mark.slow
def test_methods_that_no_route_has_are_refused_for_everybody(gateway: Callable[..., Running]) -> None:
    running = gateway()
    there = {(route.method, filled(route)) for route in ROUTES.values()}
    for path in sorted({path for _, path in there}):
        for method in METHODS:
            if any(method == each.method and _fits(each, path) for each in ROUTES.values()):
                continue
            assert running.request(method, path, json={}).status_code in (404, 405), (method, path)
            assert requests.request(method, running.url + path, timeout=20).status_code in (401, 404, 405), (
                method,
                path,
            )


def _fits(route: DeclaredRoute, path: str) -> bool:
    """Whether the address of ``route`` may be ``path``; its last parameter may hold slashes."""
    wanted, given = route.path.split("/"), path.split("/")
    if wanted[-1].startswith("{"):
        given = [*given[: len(wanted) - 1], "/".join(given[len(wanted) - 1 :])] if len(given) >= len(wanted) else given
    return len(wanted) == len(given) and all(
        a == b or (a.startswith("{") and b != "") for a, b in zip(wanted, given, strict=True)
    )
