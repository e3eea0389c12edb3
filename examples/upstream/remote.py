"""A batch whose functions are actors of Ray. There is no JobManager to start."""

from sage.api.function.sink_function import SinkFunction
from sage.api.function.source_function import SourceFunction, StopSignal
from sage.api.remote_environment import RemoteEnvironment


class Numbers(SourceFunction):
    def __init__(self, max_count=10, **kwargs):
        super().__init__(**kwargs)
        self.counter = 0
        self.max_count = max_count

    def execute(self):
        if self.counter == self.max_count:
            return StopSignal("numbers")
        self.counter += 1
        return self.counter


class Add(SinkFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.total = 0

    def execute(self, data):
        self.total += data

    def close(self):
        print("total:", self.total, flush=True)


def main():
    env = RemoteEnvironment("remote_batch")
    env.from_source(Numbers, max_count=5).map(lambda number: number * 2).sink(Add)
    env.submit(autostop=True)
    env.close()
    print("done")


if __name__ == "__main__":
    main()
