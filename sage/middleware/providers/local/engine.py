"""The child program of the ``local`` provider: llama.cpp's HTTP server for one GGUF file, through ``xllamacpp``.

``python -m sage.middleware.providers.local.engine`` reads its options (:class:`LlamaOptions`) as one line of JSON from
the environment variable ``SAGE_ENGINE_OPTIONS`` and the key that opens it from ``SAGE_ENGINE_KEY``. It prints one line
on stdout, ``{"base_url": "http://127.0.0.1:…"}`` once it serves or ``{"error": "…"}`` before it exits with status 1;
llama.cpp's log goes to stderr. It ends on SIGTERM and when its stdin ends.

It imports nothing of the gateway but the error tree, the reader of GGUF files and the count of processors: a child
process should hold its model and little else, and start fast.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.metadata
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sage.errors import ConfigError, MissingExtra
from sage.middleware.providers.local.gguf import read_gguf
from sage.processors import available_cores

_PROMPT_CACHE_MIB = 256
"""Bound on the prompts that llama.cpp keeps in memory to answer the next turn faster; its own default is 8 GiB."""
_SPARE_MEMORY = 3 * 2**29
"""Bytes of data that it may have beyond a quarter more than the estimate and what its computation takes. Measured: a
tiny model has 0.1 GiB of data, with 0.07 estimated; Gemma 270m has 0.4, with 0.3."""
_AT_ONCE = 512
"""Tokens that llama.cpp computes at once; with ``embed`` and ``rerank`` a whole text."""
_ACTIVATIONS = 256 * 2**10
"""Bytes for each of those tokens, at most: some rows of 12,000 numbers."""
_ATTENTION = 64 * 4
"""Bytes for each of those tokens and each of the context, at most: a number for each of 64 heads."""
_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300"}
"""How the threads that compute together wait for each other, several hundred times a token: a short loop, then asleep.
Without a limit they loop for milliseconds, and beside other work that takes the processor from the very thread that
they wait for. Measured with Gemma 270m on two processors, ms a token, idle and beside 13 busy processes: libgomp's own
12.3 and 396, asleep at once 19.9 and 37, 300 rounds 12.3 and 36, 1000 rounds 11.8 and 77."""
_ERROR_MARK = " E "
"""Marks an error in llama.cpp's log; the first one is the cause."""


class LoadFailed(ConfigError):
    """llama.cpp refused the file or the parameters; only its log has the reason."""


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """What the provider hands to this program."""

    alias: str
    """The model's name, in answers and errors."""
    path: str | None = None
    """A GGUF file. Without one, ``package`` and ``directory`` are set."""
    package: str | None = None
    """An installed package that carries a GGUF file."""
    directory: str | None = None
    """Where the file of the package is assembled."""
    template: str | None = None
    """Jinja text; ``None`` means the file's own."""
    context: int = 4096
    """Tokens of context for each concurrent request."""
    parallel: int = 1
    threads: int | None = None
    """``None`` means one for each core that this process may use."""
    temperature: float | None = None
    """For requests that do not set it."""
    task: str = "generate"
    """Or ``embed``, ``rerank``."""
    pooling: str | None = None
    """How ``embed`` makes one vector of a text's tokens; ``None`` means as the file says, else ``mean``."""
    memory: int | None = None
    """Bytes that it takes, as the configuration says; ``None`` means as the file shows."""


def main() -> int:
    """Serves until SIGTERM or the end of stdin; returns only if the engine could not start."""
    announce = _own_stdout()
    try:
        key = os.environ.pop("SAGE_ENGINE_KEY", "")
        if not key:
            raise ConfigError("SAGE_ENGINE_KEY is not set: this program is started by `sage serve`, not by hand")
        options = LlamaOptions(**json.loads(os.environ["SAGE_ENGINE_OPTIONS"]))
        file = _model_file(options)
        server = _serve(options, file, key)
    except (KeyError, TypeError, ValueError) as exc:
        announce({"error": f"SAGE_ENGINE_OPTIONS is not what this program reads: {exc!r}"})
    except LoadFailed as exc:
        announce({"error": exc.message, "log_mark": _ERROR_MARK})
    except ConfigError as exc:
        announce({"error": exc.message})
    else:
        announce({"base_url": server.listening_address})
        _until_stdin_ends()
    return 1


def _own_stdout() -> Any:
    """Reserves stdout for the announcement: everything else that is printed, by C++ too, goes to stderr."""
    line_out = os.dup(1)
    os.dup2(2, 1)

    def announce(line: dict[str, str]) -> None:
        os.write(line_out, json.dumps(line).encode() + b"\n")
        os.close(line_out)

    return announce


def _until_stdin_ends() -> NoReturn:
    """Waits for the supervisor, which holds our stdin. llama.cpp has nothing to save: the exit is without clean-up."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _model_file(options: LlamaOptions) -> Path:
    """The GGUF file to load, checked to be one."""
    if options.path is not None:
        file = Path(options.path).expanduser()
    elif options.package is not None and options.directory is not None:
        file = _from_package(options.package, Path(options.directory))
    else:
        raise ConfigError(f"model '{options.alias}' has neither a path nor a package with a directory to put it in")
    _check_gguf(options.alias, file)
    return file


def _check_gguf(alias: str, file: Path) -> None:
    """Raises for a file that is not GGUF, before llama.cpp reads it (the format begins with its name and a version).

    The message names the file without its directory, since it may reach a client; the log has the full path.
    """
    print(f"model '{alias}': {file}", file=sys.stderr, flush=True)  # noqa: T201
    where = "correct 'path' in this model's configuration"
    try:
        with file.open("rb") as handle:
            head = handle.read(8)
    except FileNotFoundError:
        raise ConfigError(f"model '{alias}': the file '{file.name}' does not exist; {where}") from None
    except OSError as exc:
        raise ConfigError(f"model '{alias}': the file '{file.name}' cannot be read: {exc.strerror}; {where}") from exc
    if len(head) < 8 or head[:4] != b"GGUF":
        raise ConfigError(f"model '{alias}': the file '{file.name}' is not a GGUF file; {where}")


def _from_package(package: str, directory: Path) -> Path:
    """The GGUF file that ``package`` carries; the first start assembles it in ``directory``.

    The package checks what it writes against its own digest. Only a file that passes gets its name and, beside it, a
    note of its size, so later starts do not read it again. A lock lets one process at a time do this.
    """
    try:
        module = importlib.import_module(package.replace("-", "_"))
        version = importlib.metadata.version(package)
    except ImportError as exc:
        raise MissingExtra(f"the model in the package '{package}'", "local") from exc
    file = package_file(package, version, directory)
    note = file.with_name(f"{package}-{version}.checked")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / f"{package}.lock"):
            if not _is_checked(file, note):
                _assemble(module, file, note)
    except OSError as exc:
        raise ConfigError(f"the model in the package '{package}' cannot be put into {directory}: {exc}") from exc
    except ValueError as exc:
        raise ConfigError(f"the model in the package '{package}' is damaged ({exc}); install it again") from exc
    return file


def package_file(package: str, version: str, directory: Path) -> Path:
    """Where the file of that version of the package is assembled."""
    return directory / f"{package}-{version}.gguf"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process ends
        yield


def _is_checked(file: Path, note: Path) -> bool:
    try:
        return file.stat().st_size == int(note.read_text())
    except (OSError, ValueError):
        return False


def _assemble(module: Any, file: Path, note: Path) -> None:
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    module.assemble(part)
    with part.open("rb+") as handle:
        os.fsync(handle.fileno())
    part.replace(file)
    note.write_text(str(file.stat().st_size))


def _limit_waiting() -> None:
    """OpenMP reads the environment when it is loaded, with ``xllamacpp``. What the user has set for it stays."""
    if not any(name.startswith(("GOMP_SPIN", "OMP_WAIT")) for name in os.environ):
        os.environ.update(_WAITING)


def _serve(options: LlamaOptions, file: Path, key: str) -> Any:
    """llama.cpp's server, which listens and runs on threads of its own."""
    _limit_waiting()
    try:
        import xllamacpp
    except ImportError as exc:
        raise MissingExtra(f"the local model '{options.alias}'", "local") from exc
    parameters = xllamacpp.CommonParams()
    devices = [device for device in xllamacpp.get_device_info() if device["name"] != "CPU"]
    if not devices and sys.platform == "linux":  # elsewhere this limit does not count what is allocated
        _limit_memory(options, file)
    _set_parameters(parameters, options, file, key, devices=bool(devices))
    _set_task(parameters, options, file, xllamacpp)
    try:
        return xllamacpp.Server(parameters)
    except (RuntimeError, MemoryError) as exc:
        raise LoadFailed(f"model '{options.alias}': llama.cpp cannot load the file '{file.name}'") from exc


def _limit_memory(options: LlamaOptions, file: Path) -> None:
    """No request can make this process take all memory: what would is refused.

    Data are what is written to, so the mapped file does not count, nor do the addresses that allocators and drivers
    reserve: with those, the tiny model of the tests has 0.9 GiB of addresses and 0.05 in memory.
    """
    facts = read_gguf(file)
    if facts is None:
        return
    memory = max(options.memory or 0, facts.memory(options.context, options.parallel, options.task))
    at_once = _AT_ONCE if options.task == "generate" else options.context
    computing = at_once * (_ACTIVATIONS + _ATTENTION * options.context * options.parallel)
    limit = memory * 5 // 4 + computing + _SPARE_MEMORY
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _set_parameters(parameters: Any, options: LlamaOptions, file: Path, key: str, *, devices: bool) -> None:
    """Sets ``parameters``. Its nested objects are copies: they are changed, then assigned.

    ``devices`` tells whether there is a device besides the CPU.
    """
    model, sampling, cpu = parameters.model, parameters.sampling, parameters.cpuparams
    model.path = str(file)
    parameters.model = model
    parameters.model_alias = {options.alias}
    parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], 0, [key]
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.context * options.parallel
    parameters.cache_ram_mib = _PROMPT_CACHE_MIB
    parameters.offline = True
    # To find out what fits on which device loads the model twice: 0.6 s for Gemma. Without a device it is useless.
    parameters.fit_params = parameters.fit_params and devices
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.use_jinja = True
    if options.template is not None:
        parameters.chat_template = options.template
    if options.temperature is not None:
        sampling.temp = options.temperature
        parameters.sampling = sampling
    cpu.n_threads = options.threads or available_cores()
    parameters.cpuparams = cpu


def _set_task(parameters: Any, options: LlamaOptions, file: Path, xllamacpp: Any) -> None:
    """Sets the parameters of ``embed`` and ``rerank``. A text must fit in one batch, so batch and context are equal."""
    if options.task == "generate":
        return
    kinds = xllamacpp.llama_pooling_type
    parameters.embedding = True
    parameters.n_batch = parameters.n_ubatch = options.context
    if options.task == "rerank":
        parameters.pooling_type = kinds.LLAMA_POOLING_TYPE_RANK
    elif options.pooling is not None:
        parameters.pooling_type = kinds[f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"]
    elif not _has_pooling(file):
        parameters.pooling_type = kinds.LLAMA_POOLING_TYPE_MEAN


def _has_pooling(file: Path) -> bool:
    facts = read_gguf(file)
    return facts is not None and facts.pooling


if __name__ == "__main__":
    sys.exit(main())
