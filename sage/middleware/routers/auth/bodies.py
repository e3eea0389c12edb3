"""What the bodies of requests and answers about accounts have in common."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, WithJsonSchema

from sage.middleware.auth.accounts import Accounts


def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


AccountsDep = Annotated[Accounts, Depends(_accounts)]


class StrictBody(BaseModel):
    """A JSON body: unknown fields are refused, and no input is shown in errors."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


# What is checked later, with errors that say more; these are for OpenAPI.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
_PATTERN = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^ ?\[]+$"}
PATTERNS = {"type": "array", "items": _PATTERN, "minItems": 1, "maxItems": 50}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


UserName = Annotated[str, Field(validation_alias=AliasChoices("username", "name"))]  # shown as "name" in listings
TenantName = Annotated[str, WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
LimitsAnswer = dict[str, int] | None
"""``rpm``, ``tpm`` and ``concurrent``, as far as they are bounded; ``None`` means nothing of its own."""
