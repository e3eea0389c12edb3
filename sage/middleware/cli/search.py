"""``sage search``: a client of a running gateway."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from sage.middleware.cli.client import connect, set_options
from sage.middleware.cli.output import BEGIN, END, AsJson, emphasised, plain, print_json, printable, wrapped

_WIDEST = 100
_INDENT = "    "
_EXCERPT = 300  # characters that are shown of a text without a passage that matched


class SearchModeOption(StrEnum):
    """Which index is searched: vectors (``dense``), keywords (``bm25``), or both."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"


def search(
    collection: Annotated[str, typer.Argument(help="A collection's name.", show_default=False)],
    query: Annotated[str, typer.Argument(help="What to look for; '-' reads it from stdin.", show_default=False)],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many results.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="How many results to skip.")] = 0,
    mode: Annotated[
        SearchModeOption, typer.Option(help="By meaning and by words, only by meaning, or only by words.")
    ] = SearchModeOption.HYBRID,
    filter_text: Annotated[
        str | None,
        typer.Option("--filter", metavar="JSON", help='A condition on metadata: \'{"year": {"$gte": 2020}}\'.'),
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="minmax, rrf, dbsf or zscore.")] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="The weight of meaning; words get the rest.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model that sorts the best results again.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The least relevance of a result; 0 means nothing in common with the query."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show how each score is made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search a collection; the best come first, with the passages that matched."""
    body: dict[str, Any] = {
        "collection": collection,
        "query": sys.stdin.read().strip() if query == "-" else query,
        "top_k": top_k,
        "mode": mode.value,
        "highlight": True,
    }
    options = {
        "offset": offset or None,
        "fusion": fusion,
        "alpha": alpha,
        "rerank": rerank,
        "score_threshold": score_threshold,
        "explain": explain or None,
    }
    body |= set_options(options)
    if filter_text is not None:
        body["filter"] = _filter(filter_text)
    answer = connect().post("/search", body)
    if as_json:
        print_json(answer)
        return
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    for warning in answer.get("warnings") or ():
        typer.echo(f"sage: {plain(warning)}", err=True)
    typer.echo("\n".join(describe(answer, columns=columns, bold=sys.stdout.isatty(), first=offset + 1)))


def _filter(text: str) -> dict[str, Any]:
    try:
        condition = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"is not JSON: {exc}", param_hint="--filter") from None
    if not isinstance(condition, dict):
        raise typer.BadParameter('is not an object such as {"lang": "zh"}', param_hint="--filter")
    return condition


def describe(answer: dict[str, Any], *, columns: int = 80, bold: bool = False, first: int = 1) -> list[str]:
    """The answer of ``POST /search`` as ``sage search`` prints it, in lines of at most ``columns`` cells."""
    lines: list[str] = []
    for rank, result in enumerate(answer["results"], first):
        lines += [*_result(rank, result, columns, bold), ""]
    count = len(answer["results"])
    if not count:
        lines.append("nothing found" if not answer["total"] else f"no more than {answer['total']} documents match")
    else:
        lines.append(f"{first} to {first + count - 1} of {answer['total']} ({answer['took_ms']:.1f} ms)")
    return lines


def _result(rank: int, result: dict[str, Any], columns: int, bold: bool) -> list[str]:
    lines = [f"{rank}. {_bold(plain(_title(result)), bold)}  {result['score']:.4g}"]
    if location := _location(result):
        lines += [_INDENT + line for line in wrapped(location, columns - len(_INDENT))]
    passages = [_passage(passage) for passage in result.get("highlights") or ()]
    text = " … ".join(passages) if passages else _beginning(plain(result["text"]))
    lines += [_INDENT + line for line in _styled(list(wrapped(text, max(columns - len(_INDENT), 20))), bold)]
    if result.get("explanation") is not None:
        lines += [_INDENT + line for line in _explained(result)]
    return lines


def _styled(lines: list[str], bold: bool) -> list[str]:
    """Bold type ends with each line and begins again on the next, so that the indent is not bold."""
    styled, open_before = [], False
    for line in lines:
        marked = f"{BEGIN if open_before else ''}{line}"
        open_before = marked.count(BEGIN) > marked.count(END)
        styled.append(emphasised(f"{marked}{END if open_before else ''}", bold=bold))
    return styled


def _passage(text: str) -> str:
    """A highlight, which is HTML, as text with marks of emphasis."""
    parts = re.split("(</?em>)", text)
    marks = {"<em>": BEGIN, "</em>": END}
    return " ".join("".join(marks.get(part) or printable(html.unescape(part)) for part in parts).split())


def _bold(text: str, bold: bool) -> str:
    return emphasised(f"{BEGIN}{text}{END}", bold=bold)


def _title(result: dict[str, Any]) -> str:
    metadata = result.get("metadata") or {}
    heading = metadata.get("heading")
    if isinstance(heading, list) and heading:
        return " > ".join(str(name) for name in heading)
    return str(metadata.get("title") or result["id"])


def _location(result: dict[str, Any]) -> str:
    """The file and page of a document of ``sage ingest``; of others the id, unless the title is the id already."""
    metadata = result.get("metadata") or {}
    path = metadata.get("path") or metadata.get("source")
    if not isinstance(path, str):
        return "" if _title(result) == result["id"] else plain(result["id"])
    page = f", page {metadata['page']}" if metadata.get("page") is not None else ""
    return f"{plain(path)}{page}"


def _beginning(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT].rstrip()} …"


def _explained(result: dict[str, Any]) -> list[str]:
    """Each part of the explanation on a line of its own."""
    lines = []
    for key, value in result["explanation"].items():
        value = _rounded(value)
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        lines.append(f"{plain(key)}: {plain(text)}")
    return lines


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
