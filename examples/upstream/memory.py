"""The key-value, vector and memory services, registered with upstream's factories."""

from sage.api.function.map_function import MapFunction
from sage.api.local_environment import LocalEnvironment
from sage.service import (
    KVService,
    MemoryService,
    VDBService,
    create_kv_service_factory,
    create_memory_service_factory,
    create_vdb_service_factory,
)

MEMORIES = [
    {"content": "The kettle is in the left cupboard.", "vector": [1.0, 0.0, 0.0]},
    {"content": "Mei drinks green tea.", "vector": [0.0, 1.0, 0.0]},
    {"content": "The garden needs water on Friday.", "vector": [0.0, 0.0, 1.0]},
]


class Remember(MapFunction):
    def execute(self, data):
        self.call_service["kv_service"].put(f"raw/{data['content'][:7]}", data)
        return self.call_service["memory_service"].store_memory(
            session_id="kitchen", content=data["content"], vector=data["vector"], memory_type="note"
        )


def main():
    env = LocalEnvironment("memory")
    env.register_service("kv_service", KVService, create_kv_service_factory("kv_service"))
    env.register_service("vdb_service", VDBService, create_vdb_service_factory("vdb_service", embedding_dimension=3))
    memory_factory = create_memory_service_factory(service_name="memory_service", default_vector_dimension=3)
    env.register_service("memory_service", MemoryService, memory_factory)
    env.from_batch(MEMORIES).map(Remember).sink(lambda memory: print("stored:", isinstance(memory, str)))
    env.start()
    env.submit(autostop=True)
    memory = env.call_service["memory_service"]
    for found in memory.search_memories(query_vector=[0.1, 0.9, 0.0], session_id="kitchen", limit=1):
        print("found:", found["content"])
    print("keys:", sorted(env.call_service["kv_service"].list_keys(prefix="raw/")))
    env.close()


if __name__ == "__main__":
    main()
