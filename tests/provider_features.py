"""What the tests prove of each vendor: the marks ``proves``, and the tables in the docs that are made of them.

``python tests/provider_features.py --write`` writes the tables of docs/providers.md (from the marks) and of
docs/configuration.md (from the rows of :mod:`sage.middleware.settings.kinds`) anew, and those of the same pages in
Chinese. Without ``--write`` it only says which page is stale, and fails if one is.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from project import ROOT

from sage.middleware.settings import kinds

VENDORS = tuple(kind.name for kind in kinds.VENDORS)
"""Those with a column of their own; a preset has a line."""
FEATURES = (
    "chat",
    "streaming",
    "system",
    "multi-turn",
    "images",
    "tools",
    "parallel tools",
    "streamed tool arguments",
    "tool_choice",
    "response_format json_schema",
    "response_format json_object",
    "stop",
    "seed",
    "logprobs",
    "n",
    "reasoning",
    "usage",
    "completions",
    "embeddings",
    "embeddings base64",
    "dimensions",
    "rerank",
    "score",
    "tokenize",
    "moderations",
    "image generation",
    "speech",
    "transcriptions",
    "several keys",
    "list models",
    "pull",
    "load and unload",
    "LoRA",
    "managed server",
    "errors",
    "drop_unsupported",
    "SDK at the gateway",
)
PAGE = ROOT / "docs" / "providers.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
CHINESE_PAGE = ROOT / "docs" / "zh" / "providers.md"
CHINESE_CONFIGURATION = ROOT / "docs" / "zh" / "configuration.md"
BEGIN, END = "<!-- made by tests/provider_features.py: begin -->", "<!-- made by tests/provider_features.py: end -->"
COMMAND = "python tests/provider_features.py --write"
_APART = ROOT / "tests" / "vllm"
"""Tests that `make check` does not run, since they need a vendor's own server (`make test-vllm`)."""
_LEGEND = """\
✓ means that a test in `make check` proves that it works. ✗ means that a test proves that it is refused by a clear
error: a 400 that names the field and the provider, unless the model has `drop_unsupported: true`; for a pull, a 409.
Blank means that nothing is proven. `local` runs on real llama.cpp engines; the other vendors are scripted upstreams of
their wires, which the vendors' own SDKs read without fault. The SDKs also drive the gateway."""
_LEGEND_APART = " ● means that it is also proven on a real vLLM (`make test-vllm`)."


@dataclass(frozen=True)
class Words:
    """What the tables say in one language; ``features`` has those whose names are words."""

    legend: str = _LEGEND
    legend_apart: str = _LEGEND_APART
    features: Mapping[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("kind", "variables of its vendor", "needs", "address", "its models")
    engine: str = "a deployment's `engine`"
    either: str = " or "

    def feature(self, name: str) -> str:
        return self.features.get(name, name)


ENGLISH = Words()
CHINESE = Words(
    legend="""\
✓ 表示 `make check` 中有测试证明它可用。✗ 表示有测试证明它会被拒绝，并给出清楚的错误：指出字段和提供方的 400，
除非该模型设置了 `drop_unsupported: true`；对下载则是 409。空白表示没有任何证明。`local` 在真实的 llama.cpp 引擎上运行；
其他厂商是模拟其 API 的脚本上游，厂商自己的 SDK 能够毫无差错地读取。这些 SDK 也用来访问网关。""",
    legend_apart=" ● 表示在真实的 vLLM 上也得到了证明（`make test-vllm`）。",
    features={
        "chat": "聊天",
        "streaming": "流式输出",
        "system": "系统消息",
        "multi-turn": "多轮对话",
        "images": "图片",
        "tools": "工具",
        "parallel tools": "并行工具调用",
        "streamed tool arguments": "流式工具参数",
        "stop": "停止词",
        "seed": "随机种子",
        "reasoning": "思考过程",
        "usage": "用量",
        "completions": "文本补全",
        "embeddings": "嵌入",
        "embeddings base64": "base64 嵌入",
        "dimensions": "向量维度",
        "rerank": "重排",
        "score": "打分",
        "tokenize": "分词",
        "moderations": "内容审核",
        "image generation": "图片生成",
        "speech": "语音合成",
        "transcriptions": "语音转写",
        "several keys": "多个密钥",
        "list models": "列出模型",
        "pull": "下载模型",
        "load and unload": "加载与卸载",
        "managed server": "受管服务器",
        "errors": "错误",
        "SDK at the gateway": "SDK 访问网关",
    },
    kinds=("种类", "厂商的变量", "需要", "地址", "它的模型"),
    engine="部署的 `engine`",
    either=" 或 ",
)


@dataclass
class Proven:
    """The (vendor, feature) pairs that are proven, by the kind of proof."""

    works: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    apart: set[tuple[str, str]] = field(default_factory=set)
    """The pairs that work at a real server, which `make check` does not start."""

    def add(self, mark: pytest.Mark, *, apart: bool = False) -> None:
        """Counts one mark; raises :class:`ValueError` for one that :func:`check` would not pass."""
        check(mark)
        vendor, *features = mark.args
        pairs = self.refused if mark.kwargs.get("refused") else self.apart if apart else self.works
        pairs.update((vendor, feature) for feature in features)

    def contradictions(self) -> list[str]:
        """The pairs that are marked both as working and as refused."""
        both = (self.works | self.apart) & self.refused
        return [f"{vendor}: '{feature}' is proven to work and to be refused" for vendor, feature in sorted(both)]

    def table(self, words: Words = ENGLISH) -> str:
        """One row a feature, one column a vendor, and what the signs mean."""
        rows = [["", *(f"`{vendor}`" for vendor in VENDORS)], ["---", *("---" for _ in VENDORS)]]
        rows += [[words.feature(name), *(self._sign((vendor, name)) for vendor in VENDORS)] for name in FEATURES]
        legend = words.legend + (words.legend_apart if self.apart else "")
        return "\n".join([*map(_row, rows), "", legend])

    def preset_table(self, words: Words = ENGLISH) -> str:
        """One row a preset, one column for each feature that is proven of any of them."""
        presets = [preset.name for preset in kinds.PRESETS]
        shown = [feature for feature in FEATURES if any(self._sign((preset, feature)) for preset in presets)]
        rows = [["", *map(words.feature, shown)], ["---", *("---" for _ in shown)]]
        rows += [[f"`{preset}`", *(self._sign((preset, feature)) for feature in shown)] for preset in presets]
        return "\n".join(map(_row, rows))

    def _sign(self, pair: tuple[str, str]) -> str:
        if pair in self.refused:
            return "✗"
        return "✓" * (pair in self.works) + "●" * (pair in self.apart)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def check(mark: pytest.Mark) -> None:
    """Raises :class:`ValueError` for a mark ``proves`` that names no vendor of ours or no feature of the list."""
    if len(mark.args) < 2:
        raise ValueError("proves(vendor, feature, …) names a vendor and at least one feature")
    vendor, *features = mark.args
    if vendor not in kinds.KINDS:
        raise ValueError(f"proves: there is no vendor {vendor!r}; known: {', '.join(kinds.KINDS)}")
    for feature in features:
        if feature not in FEATURES:
            raise ValueError(f"proves: there is no feature {feature!r}; known: {', '.join(FEATURES)}")
    if mark.kwargs.keys() - {"refused"}:
        raise ValueError(f"proves: refused is its only keyword, not {', '.join(sorted(mark.kwargs))}")


def check_items(items: Iterable[pytest.Item]) -> None:
    """Raises :class:`pytest.UsageError` that names the first test with a bad mark."""
    for item in items:
        for mark in item.iter_markers("proves"):
            try:
                check(mark)
            except ValueError as exc:
                raise pytest.UsageError(f"{item.nodeid}: {exc}") from None


class Collector:
    """A plugin that gathers the marks of the tests that would run."""

    def __init__(self) -> None:
        self.proven = Proven()

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "proves: as tests/conftest.py says")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.proven = proven_by(session.items)


def proven_by(items: Iterable[pytest.Item]) -> Proven:
    """What the marks say of those tests that would run."""
    proven = Proven()
    for item in items:
        apart = item.path.is_relative_to(_APART)
        if apart or _runs(item):
            for mark in item.iter_markers("proves"):
                proven.add(mark, apart=apart)
    return proven


def _runs(item: pytest.Item) -> bool:
    """Whether the test is neither skipped nor expected to fail. A condition in words counts as one that holds."""
    conditions = [condition for mark in item.iter_markers("skipif") for condition in mark.args]
    return not any(item.iter_markers("skip")) and not any(item.iter_markers("xfail")) and not any(conditions)


def marked() -> list[Path]:
    """The test modules that prove something."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "proves(" in path.read_text()]


def collect(modules: Iterable[Path]) -> Proven:
    """The marks in ``modules``; raises :class:`SystemExit` when they cannot be collected or contradict each other."""
    collector, output = Collector(), io.StringIO()
    options = ["--collect-only", f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}"]
    with contextlib.redirect_stdout(output):
        status = pytest.main([*options, *map(str, modules)], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the tests could not be collected:\n{output.getvalue()}")
    wrong = collector.proven.contradictions()
    if wrong:
        raise SystemExit("\n".join(wrong))
    return collector.proven


def kinds_table(words: Words = ENGLISH) -> str:
    """One row a kind: what configures it, where it is, and which models are its own."""
    rows = [[*words.kinds], ["---"] * 5]
    for kind in kinds.KINDS.values():
        variables = [f"`{variable}` → `{key}`" for variable, key in kind.variables.items()]
        needs = [f"`{key}`" for key in kind.needs] + [words.engine] * kind.starts_engines
        address = f"`{kind.default_url}`" if kind.default_url else ""
        families = [f"`{pattern}`" for pattern in kind.families]
        cells = (", ".join(variables), words.either.join(needs), address, ", ".join(families))
        rows.append([f"`{kind.name}`", *cells])
    return "\n".join(map(_row, rows))


def replaced(page: str, *tables: str) -> str:
    """``page`` with each of ``tables`` between its pair of marks; raises :class:`ValueError` without so many pairs."""
    parts, rest = [], page
    for table in tables:
        before, begin, rest = rest.partition(BEGIN)
        _, end, rest = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"the page lacks the marks '{BEGIN}' and '{END}'")
        parts.append(f"{before}{begin}\n{table}\n{end}")
    return "".join([*parts, rest])


def pages(proven: Proven) -> dict[Path, str]:
    """The pages as they should be."""
    tables = {
        PAGE: (proven.table(), proven.preset_table()),
        CHINESE_PAGE: (proven.table(CHINESE), proven.preset_table(CHINESE)),
        CONFIGURATION: (kinds_table(),),
        CHINESE_CONFIGURATION: (kinds_table(CHINESE),),
    }
    return {page: replaced(page.read_text("utf-8"), *parts) for page, parts in tables.items()}


def main(arguments: list[str]) -> None:
    stale = {page: text for page, text in pages(collect(marked())).items() if page.read_text("utf-8") != text}
    if arguments == ["--write"]:
        for page, text in stale.items():
            page.write_text(text, "utf-8")
    elif stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        raise SystemExit(f"stale: {names}; run: {COMMAND}")


if __name__ == "__main__":
    main(sys.argv[1:])
