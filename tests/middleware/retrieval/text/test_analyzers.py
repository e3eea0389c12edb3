"""Words of texts in many scripts, the same for documents and queries."""

from __future__ import annotations

import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import MissingExtra
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.tokens import LONGEST
from sage.middleware.settings.retrieval import AnalysisOptions

ANALYZER = Analyzer(AnalysisOptions())


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Runners were running", ["the", "runner", "were", "run"]),
        ("state-of-the-art", ["state", "of", "the", "art"]),
        ("It costs $1,234.50 or 3.14", ["it", "cost", "1234.50", "or", "3.14"]),
        ("sections 1,2,3", ["section", "1", "2", "3"]),
        ("RTX-4090", ["rtx", "4090", "rtx4090"]),
        ("RTX4090", ["rtx", "4090", "rtx4090"]),
        ("A-12/b", ["a", "12", "b", "a12", "a12b"]),
        ("2024-01-15", ["2024", "01", "15", "2024-01-15"]),
        ("max_tokens v1.5.2", ["max", "token", "max_tokens", "1.5.2"]),
        ("jo@example.com", ["jo", "exampl", "com", "examplecom", "jo@example.com"]),
        ("https://www.example.com/a", ["exampl", "com", "examplecom", "a", "example.com/a"]),
        ("U.S.A. dog's l'été o'neill don't", ["usa", "dog", "ete", "oneil", "dont"]),
        ("C++ and C# and c", ["c++", "and", "c#", "and", "c"]),
        ("café cafe\u0301 CAFÉ", ["cafe", "cafe", "cafe"]),
        ("Straße Ünïcode", ["strass", "unicod"]),
        ("北京大学", ["北", "北京", "京", "京大", "大", "大学", "学"]),
        ("买RTX显卡。", ["买", "rtx", "显", "显卡", "卡"]),
        ("「引」，号！", ["引", "号"]),
        ("ＲＴＸ－４０９０", ["rtx", "4090", "rtx4090"]),
        ("カメラを使う", ["カメ", "メラ", "ラを", "を使", "使", "使う"]),
        ("한국어 서울", ["한국", "국어", "서울"]),
        ("Москва ёлка йод", ["москва", "елка", "йод"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("great 👍🏽👍 🇨🇳 ❤️", ["great", "👍", "👍", "🇨🇳", "❤"]),
        ("iPhone™ x²", ["iphon", "x2"]),
        ("iPhone15 COVID19", ["iphon", "15", "iphone15", "covid", "19", "covid19"]),
        ("getUserById HTTPServer", ["getuserbyid", "get", "user", "by", "id", "httpserver", "http", "server"]),
        ("PhD H2O 90s 1st mRNA IDs", ["phd", "h2o", "90s", "1st", "mrna", "id"]),
        ("node.js Ph.D. e.g.", ["node", "js", "nodej", "phd", "eg"]),
        ("python3.11 10kg 2.5mg", ["python", "3.11", "python3.11", "10", "kg", "10kg", "2.5", "mg", "2.5mg"]),
        ("e-mails wi-fi well-known", ["e", "mail", "email", "wi", "fi", "wifi", "well", "known"]),
        (
            "non-linear anti-viral plug-in",
            ["non", "linear", "nonlinear", "anti", "viral", "antivir", "plug", "in", "plugin"],
        ),
        ("١٢٣ १२३ ๑๒๓ １２３ ١٬٢٣٤٫٥", ["123", "123", "123", "123", "1234.5"]),
        ("", []),
        (" ,;。！ ", []),
        ("ـ ab12ـ", ["ab12"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert ANALYZER.terms(text) == terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v1.2.3", "1.2.3"),
        ("V2.0", "v2.0"),
        ("release-v1.2.3", "1.2.3"),
        ("1.2.3-beta", "v1.2.3"),
        ("RTX4090", "rtx 4090"),
        ("RTX4090", "rtx-4090"),
        ("GPT4", "gpt 4"),
        ("iPhone15", "iphone 15"),
        ("B12", "B 12"),
        ("H100", "the H 100"),
        ("RTX4090", "an rtx 4090, new"),
        ("4090Ti", "4090 ti"),
        ("10kg", "10 kg"),
        ("python3.11", "Python 3.11"),
        ("UTF8", "utf-8"),
        ("H.264", "h264"),
        ("node.js", "nodejs"),
        ("ASP.NET", "aspnet"),
        ("getUserById", "user"),
        ("getUserById", "getuserbyid"),
        ("HTTPServer", "server"),
        ("parseHTML5", "html"),
        ("S3Bucket", "bucket"),
        ("maxTokens", "max_tokens"),
        ("snake_case", "snake"),
        ("ÜberGröße", "größe"),
        ("данныеПользователя", "пользователя"),
        ("Ph.D.", "phd"),
        ("ph.d.", "PhD"),
        ("M.Sc.", "msc"),
        ("U.S.A.", "usa"),
        ("e-mail", "email"),
        ("E-Mails", "email"),
        ("wi-fi", "WiFi"),
        ("x-ray", "xray"),
        ("C++", "c++"),
        ("١٢٣", "123"),
        ("१२३", "123"),
        ("၁၂၃", "123"),
        ("１２３", "123"),
    ],
)
def test_what_is_written_in_two_ways_is_found_by_either(one: str, other: str) -> None:
    assert set(ANALYZER.query_terms(one)) & set(ANALYZER.terms(other))
    assert set(ANALYZER.query_terms(other)) & set(ANALYZER.terms(one))


def test_a_code_in_a_query_stands_for_itself() -> None:
    assert ANALYZER.query_terms("RTX4090") == ["rtx4090"]
    assert ANALYZER.query_terms("nvidia rtx 4090") == ["nvidia", "rtx", "4090", "rtx4090"]
    assert "rtx4090" not in ANALYZER.terms("RTX3080, rtx. 4090 rtx 4090x rtx 4090-8 rtx  4090")
    assert ANALYZER.terms("published in 2024") == ["publish", "in", "2024"]
    assert ANALYZER.query_terms("published in 2024") == ["publish", "2024"]
    assert ANALYZER.query_terms("in 2024") == ["2024"]


def test_a_query_leaves_out_stop_words_unless_it_has_nothing_else() -> None:
    assert ANALYZER.query_terms("What is the capital of France?") == ["capit", "franc"]
    assert ANALYZER.query_terms("to be or not to be") == ["to", "be", "or", "not", "to", "be"]
    assert set(ANALYZER.query_terms("to be or not to be")) <= set(ANALYZER.terms("To be, or not to be: that is it"))


def test_options() -> None:
    plain = Analyzer(AnalysisOptions(stem=False, stop_words=False))
    assert plain.terms("the running dogs") == ["the", "running", "dogs"]
    assert plain.query_terms("the running dogs") == ["the", "running", "dogs"]


def test_traditional_characters_count_as_simplified_by_option() -> None:
    pytest.importorskip("opencc")
    simplified = Analyzer(AnalysisOptions(script="simplified"))
    assert simplified.terms("臺灣漢字") == simplified.terms("台湾汉字")
    assert ANALYZER.terms("臺灣") != ANALYZER.terms("台湾")
    tokens = simplified.tokens("學 漢字")
    assert [("學 漢字"[t.start : t.end], t.term) for t in tokens][-1] == ("漢字", "汉字")


def test_chinese_words_of_a_dictionary_by_option() -> None:
    pytest.importorskip("rjieba")
    words = Analyzer(AnalysisOptions(chinese="rjieba"))
    assert words.terms("我来到北京清华大学") == ["我", "来到", "北京", "清华", "华大", "大学", "清华大学"]
    results = words.tokens("在清华大学")
    assert all("在清华大学"[t.start : t.end] == t.term for t in results)
    assert words.atoms("北京大学") == list("北京大学")


@pytest.mark.parametrize("options", [AnalysisOptions(chinese="rjieba"), AnalysisOptions(script="simplified")])
def test_an_option_without_its_package_names_the_extra(
    options: AnalysisOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(MissingExtra, match=r"\[chinese\]"):
        Analyzer(options)


def test_words_without_end_are_cut() -> None:
    assert [len(term) for term in ANALYZER.terms("ab1" * 10_000)] == [LONGEST]
    assert max(map(len, ANALYZER.terms("x-1" * 10_000))) <= LONGEST


texts = st.text(
    st.one_of(
        st.sampled_from("aZé1９-_/.'@,:+# 北京大か한สा🎉👍\u0301\ufe0f\u200d“”™ßİ"),
        st.characters(),
    ),
    max_size=60,
)


@given(texts)
def test_whatever_the_text_its_terms_stand_in_it(text: str) -> None:
    tokens = ANALYZER.tokens(text)
    assert all(0 <= token.start < token.end <= len(text) and token.term for token in tokens)
    assert sorted(token.term for token in tokens) == sorted(ANALYZER.terms(text))
    assert [token.start for token in tokens if token.atom] == sorted(t.start for t in tokens if t.atom)


@given(texts)
def test_composed_and_decomposed_text_is_the_same(text: str) -> None:
    assert ANALYZER.terms(unicodedata.normalize("NFC", text)) == ANALYZER.terms(unicodedata.normalize("NFD", text))


@given(texts, texts)
def test_texts_side_by_side_keep_their_terms(left: str, right: str) -> None:
    assert ANALYZER.terms(f"{left}\n{right}") == ANALYZER.terms(left) + ANALYZER.terms(right)


def test_several_threads_get_what_one_gets() -> None:
    analyzer = Analyzer(AnalysisOptions())
    texts = [f"running word{i}s-{i} generalizations of node{i % 7}" for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(analyzer.terms, texts))
    assert results == [ANALYZER.terms(text) for text in texts]
