"""Our own pages under ``/flower``: the form to log in, and what a browser is told in place of Flower's page.

They need nothing from elsewhere, no script, and speak English or Chinese as the browser asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from sage.middleware.routers.http.asgi import Headers

ENGLISH: Mapping[str, str] = {
    "title": "Log in to Flower",
    "intro": "Workers and tasks of this gateway, for its admins.",
    "user": "User name",
    "password": "Password",
    "log_in": "Log in",
    "log_out": "Log out",
    "wrong_password": "Wrong user name or password.",
    "too_many_logins": "Too many logins at this moment. Wait a little, then try again.",
    "missing_scope": "This user is not an admin: Flower needs the scope 'admin'.",
    "other_site": "This form was sent from another site. Log in here.",
    "needs_tls": "A browser keeps this login only over https, or on this machine (127.0.0.1). "
    "Put TLS in front of the gateway, or forward its port: ssh -L 8000:127.0.0.1:8000 HOST.",
    "logged_out": "You have logged out.",
    "unavailable_title": "Flower does not run",
    "unavailable": "Start it where the gateway runs, on the same configuration:",
    "refused_title": "Flower refused the gateway",
    "refused": "Its password is not the gateway's (queue.flower.password). Start both on one configuration.",
    "denied_title": "No access",
    "retry": "Try again",
}
CHINESE: Mapping[str, str] = {
    "title": "登录 Flower",
    "intro": "本网关的工作进程和任务，供管理员查看。",
    "user": "用户名",
    "password": "密码",
    "log_in": "登录",
    "log_out": "退出登录",
    "wrong_password": "用户名或密码错误。",
    "too_many_logins": "当前登录次数过多。请稍等片刻再试。",
    "missing_scope": "该用户不是管理员：Flower 需要权限范围 'admin'。",
    "other_site": "该表单来自其他网站。请在此处登录。",
    "needs_tls": "浏览器只在 https 下或在本机（127.0.0.1）保留此登录。请在网关前启用 TLS，"
    "或转发端口：ssh -L 8000:127.0.0.1:8000 HOST。",
    "logged_out": "您已退出登录。",
    "unavailable_title": "Flower 没有运行",
    "unavailable": "请在网关所在的机器上用同一份配置启动它：",
    "refused_title": "Flower 拒绝了网关",
    "refused": "它的密码与网关的（queue.flower.password）不同。请用同一份配置启动两者。",
    "denied_title": "无权访问",
    "retry": "重试",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:12vh auto;padding:0 1rem;color:#222;"
    "background:#fff}h1{font-size:1.4rem}label{display:block;margin:1rem 0 .2rem}input{box-sizing:border-box;"
    "width:100%;padding:.5rem;font:inherit}button{margin-top:1.2rem;padding:.5rem 1.2rem;font:inherit}"
    ".fault{color:#b00020}code{background:#eee;padding:.1rem .3rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}.fault{color:#ff8a80}code{background:#333}}"
)
_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"vary", b"accept, accept-language, cookie"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
]
_LANGUAGE = re.compile(r"\s*([A-Za-z*]{1,8})[A-Za-z0-9-]*\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?")


def language_of(accept: str) -> str:
    """``zh`` or ``en``, whichever the header ``Accept-Language`` wants more; English for neither."""
    weights = {"en": 0.0, "zh": 0.0}
    for part in accept[:500].split(","):
        match = _LANGUAGE.fullmatch(part)
        if match is not None and match[1].lower() in weights:
            name = match[1].lower()
            weights[name] = max(weights[name], float(match[2] or 1))
    return "zh" if weights["zh"] > weights["en"] else "en"


def login_page(language: str, target: str, note: str | None = None, user: str = "") -> bytes:
    """The form. ``target`` is where it leads, ``note`` the name of a text above it, ``user`` what was typed before."""
    words = _words(language)
    message = f'<p class="fault" role="alert">{escape(words[note])}</p>' if note is not None else ""
    focus = ("", " autofocus") if user else (" autofocus", "")
    return _page(
        language,
        words["title"],
        f"<p>{words['intro']}</p>{message}"
        f'<form method="post" action="/flower/login"><input type="hidden" name="next" value="{escape(target)}">'
        f'<label for="username">{words["user"]}</label><input id="username" name="username" required maxlength="200" '
        f'autocomplete="username" autocapitalize="none" spellcheck="false" value="{escape(user)}"{focus[0]}>'
        f'<label for="password">{words["password"]}</label><input id="password" name="password" type="password" '
        f'required maxlength="1000" autocomplete="current-password"{focus[1]}>'
        f"<button>{words['log_in']}</button></form>",
    )


def denied_page(language: str) -> bytes:
    """For a session without the right, which may be left for another one."""
    words = _words(language)
    return _page(
        language,
        words["denied_title"],
        f'<p class="fault" role="alert">{words["missing_scope"]}</p>'
        f'<form method="post" action="/flower/logout"><button>{words["log_out"]}</button></form>',
    )


def unavailable_page(language: str, *, refused: bool) -> bytes:
    """In place of Flower, which does not answer, or with ``refused`` does not know the gateway's password."""
    words = _words(language)
    if refused:
        return _page(language, words["refused_title"], f"<p>{words['refused']}</p>")
    return _page(
        language,
        words["unavailable_title"],
        f'<p>{words["unavailable"]}</p><p><code>sage flower</code></p><p><a href="/flower/">{words["retry"]}</a></p>',
    )


def page_headers(body: bytes) -> Headers:
    """The headers of an answer that has ``body``."""
    return [*_HEADERS, (b"content-length", b"%d" % len(body))]


def _words(language: str) -> Mapping[str, str]:
    return CHINESE if language == "zh" else ENGLISH


def _page(language: str, title: str, body: str) -> bytes:
    # The referrer policy of all answers would make browsers send `Origin: null` with the form.
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="same-origin"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    ).encode()
