"""Five tenants that use the same names on all surfaces: no foreign id, text, count, score or cached answer."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from running_gateway import PASSWORD, Running
from upstream import Upstream

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
TENANTS = ("amber", "birch", "cedar", "dahlia", "elder")
tenants = st.sampled_from(TENANTS)
names = st.sampled_from(["notes", "plans"])
ids = st.sampled_from(["1", "2", "3"])


def machine(running: Running, keys: dict[str, str]) -> type[RuleBasedStateMachine]:
    """The machine over one gateway: each run has fresh names, since the gateway goes on."""
    runs = iter(range(10**6))

    class Tenants(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.run = f"r{next(runs)}"
            self.documents: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
            self.keys: dict[str, set[str]] = defaultdict(set)
            self.vectors: dict[str, set[str]] = defaultdict(set)
            self.memories: dict[str, int] = defaultdict(int)
            self.files: dict[str, set[str]] = defaultdict(set)

        def ask(self, tenant: str, method: str, path: str, body: Any = None, **options: Any) -> Any:
            """The answer, in which nothing of another tenant may stand."""
            answer = running.request(method, path, key=keys[tenant], json=body, **options)
            assert answer.status_code < 500, answer.text
            for other in TENANTS:
                assert other == tenant or other not in answer.text, (tenant, method, path, answer.text)
            return answer.json() if answer.content and answer.status_code < 300 else None

        @rule(tenant=tenants, name=names, id=ids)
        def add_document(self, tenant: str, name: str, id: str) -> None:
            name = f"{self.run}-{name}"
            if name not in self.documents[tenant]:
                self.ask(tenant, "POST", "/collections", {"name": name})
            document = {"id": id, "text": f"the same words, and {tenant}"}
            assert self.ask(tenant, "POST", f"/collections/{name}/documents", {"documents": [document]}) is not None
            self.documents[tenant][name].add(id)

        @rule(tenant=tenants, name=names)
        def delete_collection(self, tenant: str, name: str) -> None:
            name = f"{self.run}-{name}"
            self.ask(tenant, "DELETE", f"/collections/{name}")
            self.documents[tenant].pop(name, None)

        @rule(tenant=tenants, name=names)
        def search(self, tenant: str, name: str) -> None:
            name = f"{self.run}-{name}"
            body = {"query": "same words", "collection": name, "top_k": 10, "mode": "bm25"}
            found = self.ask(tenant, "POST", "/search", body)
            own = self.documents[tenant].get(name)
            assert (found is None) == (own is None)
            if found is not None:
                assert {each["id"] for each in found["results"]} == own
                if own:  # alike in all tenants with as many documents, whatever others hold
                    assert len({each["score"] for each in found["results"]}) == 1
                shown = self.ask(tenant, "GET", f"/collections/{name}")
                assert shown["documents"] == len(own or ())

        @rule(tenant=tenants, id=ids)
        def put_value(self, tenant: str, id: str) -> None:
            self.ask(tenant, "PUT", f"/kv/{self.run}/{id}", {"value": tenant})
            self.keys[tenant].add(id)

        @rule(tenant=tenants, id=ids)
        def get_value(self, tenant: str, id: str) -> None:
            value = self.ask(tenant, "GET", f"/kv/{self.run}/{id}")
            assert (value is not None) == (id in self.keys[tenant])
            assert value is None or value["value"] == tenant

        @rule(tenant=tenants)
        def clear_values(self, tenant: str) -> None:
            cleared = self.ask(tenant, "DELETE", f"/kv?prefix={self.run}/")
            assert cleared == {"deleted": len(self.keys.pop(tenant, ()))}

        @rule(tenant=tenants, id=ids)
        def add_vector(self, tenant: str, id: str) -> None:
            items = [{"id": id, "vector": [1.0, 0.0], "metadata": {"of": tenant}}]
            self.ask(tenant, "POST", f"/vdb/{self.run}", {"items": items})
            self.vectors[tenant].add(id)

        @rule(tenant=tenants)
        def search_vectors(self, tenant: str) -> None:
            found = self.ask(tenant, "POST", f"/vdb/{self.run}/search", {"vector": [1.0, 0.0]})
            got = {each["id"] for each in found["results"]} if found is not None else set()
            assert got == self.vectors[tenant]

        @rule(tenant=tenants)
        def remember(self, tenant: str) -> None:
            body = {"session_id": self.run, "content": f"memory {self.memories[tenant]} of {tenant}"}
            assert self.ask(tenant, "POST", "/memory", body) is not None
            self.memories[tenant] += 1

        @rule(tenant=tenants)
        def recall(self, tenant: str) -> None:
            sessions = self.ask(tenant, "GET", "/memory/sessions?limit=1000")
            assert (self.run in json.dumps(sessions)) == (self.memories[tenant] > 0)
            self.ask(tenant, "POST", "/memory/search", {"query": "memory", "session_id": self.run})

        @rule(tenant=tenants)
        def upload(self, tenant: str) -> None:
            file = {"file": ("a.jsonl", b"{}")}
            made = self.ask(tenant, "POST", "/v1/files", files=file, data={"purpose": "batch"})
            self.files[tenant].add(made["id"])

        @rule(tenant=tenants, other=tenants)
        def read_files(self, tenant: str, other: str) -> None:
            listed = {each["id"] for each in self.ask(tenant, "GET", "/v1/files")["data"]}
            assert self.files[tenant] <= listed
            for id in self.files[other] if other != tenant else ():
                assert id not in listed
                assert self.ask(tenant, "GET", f"/v1/files/{id}") is None
                assert self.ask(tenant, "DELETE", f"/v1/files/{id}") is None

        @rule(tenant=tenants)
        def chat(self, tenant: str) -> None:
            body = {"model": "bench", "messages": [{"role": "user", "content": "the same question"}], "user": tenant}
            assert self.ask(tenant, "POST", "/v1/chat/completions", body) is not None
            calls[tenant] += 1

        @rule()
        def accounts_are_apart(self) -> None:
            tenant = TENANTS[sum(calls.values()) % len(TENANTS)]
            rows = self.ask(tenant, "GET", "/usage?by=tenant")["rows"]
            assert sum(row["requests"] for row in rows if row["tenant"] == tenant) >= calls[tenant]
            for path in ("/usage/requests", "/usage?by=user", "/usage?by=key", "/budgets", "/tasks", "/collections"):
                self.ask(tenant, "GET", path)
            for path in ("/audit?limit=1000", "/auth/keys", "/auth/users", "/auth/teams", "/v1/models", "/vdb"):
                self.ask(tenant, "GET", path)

    calls: dict[str, int] = defaultdict(int)
    return Tenants


@pytest.mark.slow
def test_tenants_see_nothing_of_each_other(upstreams: Callable[..., Running]) -> None:
    with Upstream() as upstream:
        walk(upstreams(upstream))


def walk(running: Running) -> None:
    assert running.accounts is not None
    keys: dict[str, str] = {}
    for tenant in TENANTS:
        name = f"owner-of-{tenant}"
        running.accounts.users.add(name, PASSWORD, role="owner", tenant=tenant)
        scopes = list(ROLES["owner"])
        keys[tenant] = running.accounts.keys.create_for(name, KeyRequest("all", scopes=scopes)).secret
    run_state_machine_as_test(
        machine(running, keys),
        settings=settings(
            max_examples=40 if FULL else 4,
            stateful_step_count=40 if FULL else 15,
            deadline=None,
            derandomize=not FULL,
            suppress_health_check=list(HealthCheck),
        ),
    )
