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

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import BEGIN, END, AsJson, emphasised, plain, print_json, printable, wrapped
from sage.middleware.client.connection import connect, set_options

_WIDEST = 100
_INDENT = "    "
_EXCERPT = 300  # characters that are shown of a text without a passage that matched


class SearchModeOption(StrEnum):
    """Which index is searched: vectors (``dense``), keywords (``bm25``), or both."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"


class SyntaxOption(StrEnum):
    """Whether quotation marks, ``+`` and ``-`` of a query are signs."""

    AUTO = "auto"
    QUERY = "query"
    PLAIN = "plain"


def search(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.", show_default=False)],
    query: Annotated[
        str,
        typer.Argument(metavar="QUERY", help="What to look for; '-' reads it from standard input.", show_default=False),
    ],
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", metavar="N", min=1, help="How many results are shown at most.")
    ] = 10,
    offset: Annotated[
        int, typer.Option(metavar="N", min=0, help="Skip this many results, to see those after them.")
    ] = 0,
    mode: Annotated[
        SearchModeOption,
        typer.Option(help="Search by meaning and words (hybrid), by meaning only (dense), or by words only (bm25)."),
    ] = SearchModeOption.HYBRID,
    syntax: Annotated[
        SyntaxOption,
        typer.Option(
            help='Read "phrases", +must and -not as signs (query), as plain words (plain), or as signs where they are '
            "meant (auto)."
        ),
    ] = SyntaxOption.AUTO,
    filter_text: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="JSON",
            help='Find only documents whose metadata meet this condition, such as \'{"year": {"$gte": 2020}}\'.',
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="How the scores for meaning and for words are joined: 'minmax', 'rrf', 'dbsf' or 'zscore'.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT", min=0, max=1, help="How much meaning counts; words get the rest. 0.5 is half and half."
        ),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model that reads the best results and puts them into a better order."),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            min=0,
            max=1,
            help="Leave out results below this relevance: 0 has nothing in common with the query, 1 is the best.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show for each result how its score was computed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search a collection. The best results come first, with the passages that matched."""
    body: dict[str, Any] = {
        "collection": collection,
        "query": sys.stdin.read().strip() if query == "-" else query,
        "top_k": top_k,
        "mode": mode.value,
        "highlight": True,
    }
    options = {
        "offset": offset or None,
        "syntax": None if syntax is SyntaxOption.AUTO else syntax.value,
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
        typer.echo(f"sage: {translated(plain(warning))}", err=True)
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
        more = _("no more than {total} documents match").format(total=answer["total"])
        lines.append(more if answer["total"] else _("nothing found"))
    else:
        message = _("{first} to {last} of {total} ({milliseconds} ms)")
        took = f"{answer['took_ms']:.1f}"
        lines.append(message.format(first=first, last=first + count - 1, total=answer["total"], milliseconds=took))
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
    if metadata.get("page") is None:
        return plain(path)
    return _("{path}, page {page}").format(path=plain(path), page=plain(metadata["page"]))


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
