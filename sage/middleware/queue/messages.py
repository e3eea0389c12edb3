"""The messages that wake workers: Celery's, as kombu writes them, with a job's id and a signature and nothing else.

What comes out of a broker is read for these two words only, and the message that Celery sees is made anew from them.
So nothing else that somebody put in (other tasks, times, chains, pickles, text that is no JSON) has any effect.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Any

import orjson

TASK = "sage.run"
"""The name of the only task."""
QUEUE_PREFIX = "sage.jobs."
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SIGNATURE = re.compile(r"[A-Za-z0-9_=-]{16,100}")
_MOST_BYTES = 8192
"""Of a message of ours, which has some 900."""
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def is_job_queue(name: str) -> bool:
    """Whether this is the name at the broker of a queue of jobs."""
    return name.startswith(QUEUE_PREFIX)


def make_message(job_id: str, signature: str, queue: str) -> dict[str, Any]:
    """A message for the task (Celery's protocol 2) in kombu's form for brokers that know nothing of AMQP."""
    body = base64.b64encode(orjson.dumps([[job_id, signature], {}, _EMBEDDED])).decode()
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK,
            "id": job_id,
            "root_id": job_id,
            "parent_id": None,
            "group": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": f"('{job_id}',)",
            "kwargsrepr": "{}",
            "origin": "sage",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": job_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE_PREFIX + queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": secrets.token_hex(16),
        },
    }


def encode_message(job_id: str, signature: str, queue: str) -> bytes:
    """The bytes of :func:`make_message` at the broker."""
    return orjson.dumps(make_message(job_id, signature, queue))


def read_message(entry: bytes | str) -> tuple[str, str] | None:
    """The job's id and the signature in an entry of a queue; ``None`` means that it is no message of ours."""
    if len(entry) > _MOST_BYTES:
        return None
    try:
        message = orjson.loads(entry)
        headers, properties = message["headers"], message["properties"]
        if headers["task"] != TASK or message["content-type"] != "application/json":
            return None
        body = message["body"]
        if properties["body_encoding"] == "base64":
            body = base64.b64decode(body, validate=True)
        (job_id, signature), _, _ = orjson.loads(body)
        good = _JOB_ID.fullmatch(job_id) and _SIGNATURE.fullmatch(signature)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    return (job_id, signature) if good else None


def cleaned(entry: bytes | str, queue: str) -> bytes | None:
    """The entry made anew from what :func:`read_message` reads; ``None`` means that it must be dropped."""
    ours = read_message(entry)
    return None if ours is None else encode_message(*ours, queue.removeprefix(QUEUE_PREFIX))
