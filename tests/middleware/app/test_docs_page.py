"""``/docs`` and ``/redoc`` in a real browser: they render and work with nothing but the gateway to talk to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Page, chromium, open_page
from running_gateway import PASSWORD, Running
from upstream import Upstream

from sage.middleware.auth.principal import Scope

pytestmark = pytest.mark.slow

OPERATION = "#operations-{}"


def strangers(page: Page, running: Running) -> list[str]:
    """The requests of ``page`` to anyone but ``running``; ``data:`` and the page's own ``blob:`` go nowhere."""
    own = urlsplit(running.url).netloc
    outward = [url.removeprefix("blob:") for url in page.requested if not url.startswith("data:")]
    return [url for url in outward if urlsplit(url).netloc != own]


async def log_in(page: Page, password: str) -> None:
    await page.click(".btn.authorize")
    await page.type("#oauth_username", "root")
    await page.type("#oauth_password", password)
    await page.click("button[aria-label='Apply given OAuth2 credentials']")


async def execute(page: Page, operation: str) -> str:
    """Opens an operation of /docs, sends its example; what the page then shows as the answer."""
    block = OPERATION.format(operation)
    await page.click(f"{block} .opblock-summary-control")
    await page.click(f"{block} .btn.execute")
    await page.wait_for(f"document.querySelector('{block} .live-responses-table')")
    return await page.text(f"{block} .live-responses-table tbody")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], upstream: Upstream) -> Running:
    provider = {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}
    models = {"gemma-3-270m": {"deployments": [{"provider": "up0", "model": "theirs"}]}}
    return module_gateway(llm={"providers": {"up0": provider}, "models": models})


def test_docs_page_logs_in_by_password_or_key_and_calls(running: Running, upstream: Upstream, tmp_path: Path) -> None:
    """After a wrong password, which the page reports; with an API key; then by the Enter key, in the same form. The
    body that the page offers for a model is one that works as it stands."""

    async def visit() -> None:
        async with open_page(tmp_path) as page:
            await page.go(f"{running.url}/docs")
            await page.wait_for("document.querySelectorAll('.opblock').length >= 15")
            paths = await page.text(".swagger-ui")
            assert all(path in paths for path in ("/generate", "/v1/chat/completions", "/models/{name}", "/auth/keys"))
            assert "SAGE Middleware" in await page.text(".info .title")

            await log_in(page, f"{PASSWORD}?")
            await page.wait_for("document.querySelector('.modal-ux .errors')")
            shown = await page.text(".modal-ux .errors")
            assert "error: invalid_grant, description: wrong user name or password" in shown
            await page.click(".modal-ux .close-modal")
            assert (await execute(page, "Accounts-auth_me")).split()[0] == "401"
            assert len(page.errors) <= 2  # the browser's own words for the two refusals
            page.errors.clear()

            await page.click(".btn.authorize")
            await page.type("#auth-bearer-value", running.key)
            await page.click("button[aria-label='Apply credentials']")
            await page.click(".modal-ux .close-modal")
            answer = await execute(page, "Generate-generate")
            assert answer.split()[0] == "200"
            assert '"model": "gemma-3-270m"' in answer
            await page.click(".btn.authorize")
            await page.click("button[aria-label='Remove authorization']")

            await page.type("#oauth_username", "root")
            await page.type("#oauth_password", PASSWORD)
            await page.press("Enter", 13)
            await page.wait_for("document.querySelector('.modal-ux').innerText.includes('Authorized')")
            await page.click(".modal-ux .close-modal")
            block = OPERATION.format("Accounts-auth_me")
            await page.click(f"{block} .btn.execute")
            await page.wait_for(f"document.querySelector('{block} .live-responses-table').innerText.includes('root')")
            answer = await page.text(f"{block} .live-responses-table tbody")
            assert answer.split()[0] == "200"
            assert '"user": "root"' in answer
            assert all(f'"{scope}"' in answer for scope in Scope)

            assert strangers(page, running) == []
            assert f"{running.url}/auth/me" in page.requested
            assert page.errors == []

    asyncio.run(visit())
    sent = upstream.requests[-1].body
    assert sent["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    assert set(sent) == {"model", "messages", "max_tokens", "temperature"}


def test_redoc_renders(running: Running, tmp_path: Path) -> None:
    async def visit() -> None:
        async with open_page(tmp_path) as page:
            await page.go(f"{running.url}/redoc")
            await page.wait_for("document.querySelectorAll('[data-section-id^=\"tag/\"]').length >= 20")
            text = await page.text("body")
            assert "SAGE Middleware" in text
            assert all(path in text for path in ("/generate", "/v1/embeddings", "/auth/setup"))
            assert strangers(page, running) == []
            assert page.errors == []

    asyncio.run(visit())


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_browser_is_named(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Chromium a test is skipped on a developer's machine, and fails where it must not be missed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"^this test needs a Chromium: apt-get install chromium$"):
        chromium()


def test_titles_are_sentences(running: Running) -> None:
    document = json.loads(running.get("/openapi.json").text)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    tags = ["Generate", "OpenAI", "Anthropic", "Cohere", "Ollama", "vLLM", "Models", "Search", "Services", "MCP"]
    tags += ["Jobs", "Accounts", "Usage", "Audit", "Operation", "Workers"]
    assert [tag["name"] for tag in document["tags"]] == tags
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document["tags"]}
    titles = {operation["operationId"]: operation["summary"] for operation in operations}
    assert titles["auth_me"] == "Who the caller is, and what its credential may do"
    assert not [name for name, title in titles.items() if title == name.replace("_", " ").title()]
