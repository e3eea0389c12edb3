"""An engine for tests that starts in a few milliseconds: the protocol of real ones, and every way to misbehave.

``python -I -S fake_engine.py MODE [ARGUMENT]``. What it serves: ``/health`` to anyone; to who has the key ``/env`` (its
environment), ``/exit?N`` (ends with status N) and an empty object anywhere else.
"""

import json
import os
import signal
import socket
import sys
import time

KEY = os.environ["SAGE_ENGINE_KEY"]


def say(**line: str) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def answer(connection: socket.socket, health: str = "200 OK") -> None:
    head = connection.recv(65536).decode()
    path = head.split()[1]
    status, body = "200 OK", "{}"
    if path == "/health":
        status = health
    elif f"Authorization: Bearer {KEY}".lower() not in head.lower():
        status = "401 Unauthorized"
    elif path == "/env":
        body = json.dumps(dict(os.environ))
    elif path.startswith("/exit?"):
        os._exit(int(path.partition("?")[2]))
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    connection.close()


def serve(health: str = "200 OK", host: str = "127.0.0.1") -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    say(base_url=f"http://{host}:{listener.getsockname()[1]}/")
    while True:
        answer(listener.accept()[0], health)


def stubborn() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def daemon(pids_file: str) -> None:
    """Leaves a process that forked twice, has a session of its own and ignores SIGTERM; notes its pid and ours."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        stubborn()
        os.write(write_end, str(os.getpid()).encode())
        time.sleep(600)
        os._exit(0)
    pid = int(os.read(read_end, 20))
    os.wait()
    with open(pids_file, "w") as file:
        file.write(f"{pid} {os.getpid()}")


def main(mode: str, argument: str = "") -> None:
    if mode == "serve":
        serve()
    elif mode == "large":
        memory = bytearray(os.urandom(1)) * int(argument)
        serve()
        del memory
    elif mode == "daemon":
        daemon(argument)
        serve()
    elif mode == "unruly":
        daemon(argument)
        stubborn()
        serve()
    elif mode == "stubborn":
        stubborn()
        serve()
    elif mode == "error":
        sys.stderr.write("12.5 E loader: the tensors are upside down\n12.6 E loader: giving up\n")
        say(error="the model cannot be loaded", log_mark=argument)
        sys.exit(1)
    elif mode == "early-exit":
        sys.stderr.write("no room\n")
        sys.exit(int(argument))
    elif mode == "silent":
        print("not yet", file=sys.stderr, flush=True)
        time.sleep(600)
    elif mode == "unhealthy":
        serve(health="503 Service Unavailable")
    elif mode == "elsewhere":
        serve(host="192.0.2.1")
    elif mode == "noisy":
        print("a banner\n{not json\n" + json.dumps({"other": 1}), flush=True)
        sys.stderr.write("x" * 5_000_000 + "\n")
        for number in range(100_000):
            sys.stderr.write(f"line {number}\n")
        serve()
    elif mode == "if-exists":  # one that is repaired by making a file
        if os.path.exists(argument):
            serve()
        say(error=f"{os.path.basename(argument)} is missing")
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
