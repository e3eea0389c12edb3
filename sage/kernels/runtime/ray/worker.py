"""The function of one pipeline stage as an actor of Ray, which processes batches of records."""

from __future__ import annotations

import secrets
import time
from typing import Any

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.ray.cluster import RayCluster
from sage.kernels.runtime.ray.directory import callers_of
from sage.kernels.runtime.ray.errors import RemoteError, packed, unpacked, why_not_carried
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.stage_function import StageFunction
from sage.kernels.runtime.streams.workers import Failure, LocalWorker, Outcome

_PAUSE = 0.1
"""Seconds between two attempts to reach an actor that is being started again."""
_CLEANUP = 10.0


class StageActor:
    """Runs one :class:`StageFunction`. Its life begins with the actor's, and again when Ray starts that again."""

    def __init__(self, function: StageFunction, namespace: str, environment: str) -> None:
        self._name = function.name
        self._worker = LocalWorker(function)
        self._error: BaseException | None = None
        try:
            self._worker.start(callers_of(namespace, environment))
        except BaseException as exc:
            self._error = exc

    def error(self) -> Any:
        """The error that its start raised, packed; ``None`` means that it is set up."""
        return packed(self._error) if self._error is not None else None

    def process(self, batch: list[Any]) -> list[tuple[bool, Any]]:
        return [self._packed(outcome) for outcome in self._worker.process(batch)]

    def _packed(self, outcome: Outcome) -> tuple[bool, Any]:
        if type(outcome) is Failure:
            return False, packed(outcome.error)
        if (why := why_not_carried(outcome)) is None:
            return True, outcome
        kind = type(outcome).__qualname__
        return False, packed(
            RemoteError(f"{self._name} gave what cannot be carried to another process, a {kind}: {why}")
        )

    def stop(self) -> None:
        self._worker.stop()


class RayWorker:
    """Meets :class:`sage.kernels.runtime.streams.workers.Worker`.

    Records are processed at least once: when the actor dies, it is started again and gets the records of its batch
    again, one at a time. A record with which it dies once more has failed.
    """

    def __init__(self, function: StageFunction, index: int, cluster: RayCluster) -> None:
        self._function = function
        self._index = index
        self._cluster = cluster
        self._actor: Any = None
        self._one_by_one = 0
        """How many records are still to be sent one at a time."""

    def start(self, callers: Callers) -> None:
        ray = load_ray()
        name = f"task/{self._index}/{self._function.name}/{secrets.token_hex(4)}"
        options = self._cluster.actor_options(name, {})
        arguments = (self._function, self._cluster.namespace, self._cluster.environment)
        try:
            self._actor = ray.remote(StageActor).options(**options, name=name).remote(*arguments)
        except TypeError as exc:
            raise InvalidRequest(f"{self._function.name} cannot be carried to another process: {exc}") from exc
        self._await_start()

    def _await_start(self) -> None:
        """Waits until the actor is set up; raises what its setup raised."""
        ray = load_ray()
        patience, asked = self._cluster.patience(), None
        for seconds in patience.waits():
            try:
                asked = asked or self._actor.error.remote()
                error = ray.get(asked, timeout=seconds)
            except ray.exceptions.ActorUnavailableError:
                asked = None
                time.sleep(_PAUSE)  # it is being started again
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayActorError as exc:
                raise Unavailable(f"the actor of {self._function.name} died during its setup: {exc}") from exc
            else:
                if error is not None:
                    raise unpacked(error)
                return
        raise Unavailable(
            f"the actor of {self._function.name} is not placed and set up in {patience.waited:.3g} s",
            code="not_placed",
        )

    def process(self, batch: list[Any]) -> list[Outcome]:
        if self._one_by_one:
            self._one_by_one -= 1
            return [self._process_one(batch[0])]
        try:
            return [_outcome(*result) for result in self._send(batch)]
        except _ActorDied:
            self._await_start()
        except Exception:  # noqa: S110 - a record cannot be carried; sent one at a time, only that one fails
            pass
        self._one_by_one = len(batch) - 1
        return [self._process_one(batch[0])]

    def _process_one(self, record: Any) -> Outcome:
        try:
            return _outcome(*self._send([record])[0])
        except _ActorDied as exc:
            self._await_start()
            return Failure(
                Unavailable(
                    f"the actor of {self._function.name} died with this record, which may have been processed in part "
                    f"({exc}); it was started again",
                    code="worker_died",
                )
            )
        except Exception as exc:
            cause = f"{type(exc).__name__}: {exc}"
            return Failure(InvalidRequest(f"{self._function.name}: a record cannot be carried to its actor: {cause}"))

    def _send(self, batch: list[Any]) -> list[tuple[bool, Any]]:
        ray = load_ray()
        try:
            results: list[tuple[bool, Any]] = ray.get(self._actor.process.remote(batch))
        except ray.exceptions.RayActorError as exc:
            raise _ActorDied(str(exc).splitlines()[0]) from exc
        return results

    def stop(self) -> None:
        ray = load_ray()
        if self._actor is None or not ray.is_initialized():
            return
        actor, self._actor = self._actor, None
        try:
            ray.get(actor.stop.remote(), timeout=_CLEANUP)
        except ray.exceptions.RayTaskError as exc:
            raise exc.cause from None
        except ray.exceptions.RayError:
            pass  # it is dead, or stuck in its function
        finally:
            ray.kill(actor, no_restart=True)


class _ActorDied(Exception):
    """The actor died with what it was processing."""


def _outcome(succeeded: bool, value: Any) -> Outcome:
    return value if succeeded else Failure(unpacked(value))
