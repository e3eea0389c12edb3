"""``/services``: which services there are, in this gateway and in other environments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from sage.middleware.auth.principal import Scope
from sage.middleware.routers.http.deps import TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("Services")


class ServiceState(BaseModel):
    """A service. `state` is stopped (it starts when it is needed), setup, running, stopping or failed, of which `error`
    tells the cause. `statistics` are calls, errors and latency of all tenants together, and the queue. `kind` tells
    whether it belongs to a gateway or to an environment of tasks, and `node` is one run of that."""

    name: str
    class_: str | None = Field(None, alias="class")
    state: str
    host: str
    replicas: int
    methods: list[str]
    health: dict[str, Any] | None = None
    statistics: dict[str, Any] | None = None
    error: str | None = None
    environment: str
    node: str
    kind: str


class ServiceStates(BaseModel):
    """Services, this gateway's first; `warnings` tell which could not be reached."""

    services: list[ServiceState]
    warnings: list[str] = []


@router.get("/services", name="services_list", response_model=ServiceStates)
@requires(Scope.SERVICES_READ)
async def list_services(gateway: TheGateway) -> JSONResponse:
    """The services of this gateway, and those that others announce."""
    services, warnings = await gateway.services.directory.describe()
    return JSONResponse({"services": services, "warnings": warnings})


@router.get("/services/{name}", name="services_show", response_model=ServiceState)
@requires(Scope.SERVICES_READ)
async def show_service(
    name: str,
    gateway: TheGateway,
    environment: Annotated[
        str | None, Query(description="The environment that it runs in; left out, this gateway is preferred.")
    ] = None,
) -> JSONResponse:
    """One service."""
    return JSONResponse(await gateway.services.directory.find(name, environment))
