"""``sage chat``: turns, commands, piped input, and what the keys of a terminal do."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sage_process import SAGE, environment, sage
from shared_gateway import SharedGateway, one_model, share_gateway
from upstream import Upstream, chat_chunk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    with share_gateway(tmp_path_factory.mktemp("chat"), one_model) as gateway:
        yield gateway


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    return shared.up()


@pytest.fixture
def env(shared: SharedGateway, up: Upstream, tmp_path: Path) -> dict[str, str]:
    running = shared.running()
    state = str(tmp_path / "state")
    keys = {"SAGE_URL": running.url, "SAGE_API_KEY": running.key}
    return environment(tmp_path / "mine", **keys, XDG_STATE_HOME=state, TERM="xterm", COLUMNS="200")


def says(up: Upstream, *texts: str) -> None:
    for text in texts:
        up.stream([chat_chunk(text), chat_chunk(None, "stop")], times=1)


def sent(up: Upstream) -> list[list[tuple[str, str]]]:
    """The messages of each chat that the upstream got."""
    chats = [request.body for request in up.requests if request.path.endswith("/chat/completions")]
    return [[(message["role"], message["content"]) for message in chat["messages"]] for chat in chats]


def test_each_line_of_a_pipe_is_a_turn(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    says(up, "It is Paris.", "About two million.")
    done = sage(["chat", "bench"], env, cwd=tmp_path, stdin="The capital of France?\n\nHow many people?\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is Paris.\nAbout two million.\n", "")
    first = ("user", "The capital of France?")
    assert sent(up) == [[first], [first, ("assistant", "It is Paris."), ("user", "How many people?")]]


def test_commands_and_options(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    says(up, "one", "two", "three")
    script = 'hello\n/clear\n/system Be brief.\n"""\nTwo\n\nlines\n"""\n/system none\n//etc/hosts?\n/exit\nnever\n'
    words = ["chat", "bench", "--system", "You rhyme.", "--temperature", "0", "--max-tokens", "7"]
    done = sage(words, env, cwd=tmp_path, stdin=script)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\nthree\n"), done.stderr
    two = [("system", "Be brief."), ("user", "Two\n\nlines")]
    assert sent(up) == [
        [("system", "You rhyme."), ("user", "hello")],
        two,
        [*two[1:], ("assistant", "two"), ("user", "/etc/hosts?")],
    ]
    body = up.requests[-1].body
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 7, True)


def test_the_model_is_shown_and_changed(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    says(up, "hi")
    script = "/model\n/model up0/other\nhello\n/model nobody\n"
    done = sage(["chat", "bench"], env, cwd=tmp_path, stdin=script)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "The model is bench."
    assert done.stdout.splitlines()[1].startswith("Registered: bench")
    assert done.stdout.splitlines()[2:] == ["hi"]
    assert "model 'nobody' is not registered" in done.stderr
    assert next(request.body["model"] for request in up.requests if request.method == "POST") == "other"


def test_without_a_model_it_takes_one_that_there_is(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    """The embedders of the gateway are always loaded, and do not chat."""
    says(up, "hi")
    done = sage(["chat"], env, cwd=tmp_path, stdin="/model\nhello\n")
    assert done.stdout.splitlines()[0] == "The model is bench."
    assert done.stdout.splitlines()[2] == "hi"


def test_a_turn_that_fails_ends_a_pipe(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    up.reply(status=400, times=1)
    done = sage(["chat", "bench"], env, cwd=tmp_path, stdin="one\ntwo\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sage: ")
    assert len(sent(up)) == 1


def test_what_ends_an_answer_early_is_told(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    up.stream([chat_chunk("once \x1b]0;x\x07upon"), chat_chunk(None, "length")], times=1)
    done = sage(["chat", "bench"], env, cwd=tmp_path, stdin="a story\n")
    assert done.stdout == "once ]0;xupon\n"
    assert done.stderr == "(the answer reached its limit of tokens)\n"


def test_a_pipe_is_utf_8_in_every_locale(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    says(up, "你好")
    words = [*SAGE, "chat", "bench"]
    latin = {**env, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:replace"}
    done = subprocess.run(words, env=latin, cwd=tmp_path, input="早上好\n".encode() + b"\xff\n", capture_output=True)
    assert sent(up)[0] == [("user", "早上好")]
    assert sent(up)[1][2] == ("user", "\ufffd")
    assert done.returncode == 0, done.stderr


def test_what_a_model_thinks_is_no_part_of_its_answer(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    thought = chat_chunk(None)
    thought["choices"][0]["delta"] = {"reasoning_content": "They greet me."}
    up.stream([thought, chat_chunk("Hello!"), chat_chunk(None, "stop")], times=1)
    says(up, "Fine.")
    done = sage(["chat", "bench"], env, cwd=tmp_path, stdin="hi\nhow are you?\n")
    assert (done.stdout, done.stderr) == ("Hello!\nFine.\n", "")
    assert sent(up)[1][1] == ("assistant", "Hello!")


class Terminal:
    """``sage chat`` on a terminal."""

    def __init__(self, env: dict[str, str], cwd: Path, *words: str) -> None:
        self._side, other = pty.openpty()
        self.process = subprocess.Popen(
            [*SAGE, "chat", *words], env=env, cwd=cwd, stdin=other, stdout=other, stderr=other, start_new_session=True
        )
        os.close(other)
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._side, keys.encode())

    def interrupt(self) -> None:
        self.process.send_signal(2)

    def until(self, text: str) -> str:
        """What it shows up to ``text``."""
        deadline = time.monotonic() + 20
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen
            try:
                data = os.read(self._side, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended: {self._seen}") from None
            self._seen += re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", data)
        shown, _, self._seen = self._seen.partition(text)
        return shown

    def end(self) -> int:
        """Its status."""
        try:
            while os.read(self._side, 65536):
                pass
        except OSError:
            pass
        return self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._side)


@contextmanager
def terminal(env: dict[str, str], cwd: Path, *words: str) -> Iterator[Terminal]:
    shown = Terminal(env, cwd, *words)
    try:
        yield shown
    finally:
        shown.close()


def test_a_pasted_text_is_one_message_and_ctrl_d_leaves(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    says(up, "I see.")
    with terminal(env, tmp_path, "bench") as shown:
        assert "bench at http://127.0.0.1" in shown.until(">>> ")
        shown.type("\x1b[200~def f():\n    return 1\x1b[201~\r")
        assert "I see." in shown.until("see.") + "see."
        shown.until(">>> ")
        shown.type("\x04")
        assert shown.end() == 0
    assert sent(up) == [[("user", "def f():\n    return 1")]]
    history = tmp_path / "state" / "sage" / "chat_history"
    assert "def f():" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_answer_and_no_more(env: dict[str, str], up: Upstream, tmp_path: Path) -> None:
    up.stream([chat_chunk("A long "), chat_chunk("story")], hang_after=1, times=1)
    says(up, "Yes.")
    with terminal(env, tmp_path, "bench") as shown:
        shown.until(">>> ")
        shown.type("tell\r")
        shown.until("A long")
        shown.interrupt()
        shown.until("(stopped)")
        shown.until(">>> ")
        assert up.requests[-1].closed.wait(10)
        shown.interrupt()
        shown.until("Ctrl-D or /exit leaves.")
        shown.until(">>> ")
        shown.type("go on?\r")
        shown.until("Yes.")
        shown.until(">>> ")
        shown.type("/exit\r")
        assert shown.end() == 0
    assert sent(up)[1] == [("user", "tell"), ("assistant", "A long "), ("user", "go on?")]


def test_an_error_on_a_terminal_is_a_line_and_the_conversation_goes_on(
    env: dict[str, str], up: Upstream, tmp_path: Path
) -> None:
    up.reply(status=400, times=1)
    says(up, "Better.")
    with terminal(env, tmp_path, "bench") as shown:
        shown.until(">>> ")
        shown.type("/nonsense\r")
        shown.until("there is no command '/nonsense'")
        shown.until(">>> ")
        shown.type("one\r")
        shown.until("sage: ")
        shown.until(">>> ")
        shown.type("two\r")
        shown.until("Better.")
    assert sent(up)[1] == [("user", "two")]


def test_a_model_that_there_is_not_ends_at_once(env: dict[str, str], tmp_path: Path) -> None:
    with terminal(env, tmp_path, "nobody") as shown:
        shown.until("model 'nobody' is not registered")
        assert shown.end() == 1
