"""Services that are tasks: a pipeline whose functions call a key-value store, a vector database and a memory.

Run it as it stands: `python examples/dag_microservices_demo.py`, or on Ray with `--ray` (extra 'ray').
"""

import argparse
from typing import Any

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.service import (
    KVService,
    MemoryOrchestratorService,
    VDBService,
    create_kv_service_factory,
    create_memory_service_factory,
    create_vdb_service_factory,
)

CONVERSATION = [
    {"id": 1, "session": "kitchen", "content": "My sister Mei is allergic to peanuts."},
    {"id": 2, "session": "kitchen", "content": "We are cooking for her birthday on Friday."},
    {"id": 3, "session": "garden", "content": "The tomatoes need water every morning."},
    {"id": 4, "session": "garden", "content": "西红柿每天早上都要浇水。"},
    {"id": 5, "session": "kitchen", "content": "   "},
]


class Remember(BaseFunction):
    """Stores each record unchanged, and its content in the memory of its session."""

    def process(self, record: dict[str, Any]) -> dict[str, Any]:
        self.call_service["kv_service"].put(f"raw/{record['id']}", record)
        memory = self.call_service["memory_service"].store_memory(
            session_id=record["session"],
            content=record["content"],
            metadata={"source": record["id"]},
            timeout=60,
        )
        return {**record, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", action="store_true", help="run services and functions as Ray actors")
    platform = "ray" if parser.parse_args().ray else "local"

    env = LocalEnvironment("demo", {}, platform=platform)
    # In any order: the memory names the services that it needs, and they start before it.
    env.register_service(
        "memory_service",
        MemoryOrchestratorService,
        create_memory_service_factory(kv_service_name="kv_service", vdb_service_name="vdb_service"),
    )
    env.register_service("kv_service", KVService, create_kv_service_factory(max_size=1000, ttl_seconds=3600))
    env.register_service("vdb_service", VDBService, create_vdb_service_factory(distance_metric="cosine"))

    with env:
        refused: list[Any] = []
        stream = env.from_batch(CONVERSATION).map(Remember, on_error=refused.append)
        stream.sink(lambda record: print(f"remembered {record['id']} as {record['memory']}"))
        env.execute()
        print(f"refused: {len(refused)}")  # the last record is blank, and a memory needs content

        memory = env.call_service["memory_service"]
        (best, *_) = memory.search_memories("Who is allergic to nuts?", session_id="kitchen", timeout=60)
        print(f"found: {best['content']}")
        print(f"sessions: {sorted(session['session_id'] for session in memory.list_sessions())}")
        print(f"raw records: {env.call_service['kv_service'].list_keys('raw/')}")
        for service in env.services():
            print(
                f"{service['name']}: {service['statistics']['calls']} calls, {service['statistics']['errors']} errors"
            )


if __name__ == "__main__":
    main()
