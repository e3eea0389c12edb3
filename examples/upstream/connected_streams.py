"""One source, several branches, connected again and handled as one stream."""

import time

from sage.api.function.sink_function import SinkFunction
from sage.api.function.source_function import SourceFunction
from sage.api.local_environment import LocalEnvironment


class Numbers(SourceFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.number = 0

    def execute(self, data=None):
        self.number += 1
        return self.number


class Show(SinkFunction):
    def execute(self, data):
        print(f"[{self.name}] {data}")
        return data


def main():
    env = LocalEnvironment("connected_streams")
    env.set_console_log_level("WARNING")
    numbers = env.from_source(Numbers, delay=0.05)
    even = numbers.filter(lambda n: n % 2 == 0).map(lambda n: ("even", n))
    odd = numbers.filter(lambda n: n % 2 == 1).map(lambda n: ("odd", n))
    large = numbers.filter(lambda n: n > 5).map(lambda n: ("large", n))
    connected = even.connect(odd).connect(large)
    connected.map(lambda pair: f"{pair[1]} is {pair[0]}").sink(Show, name="FinalSink")
    try:
        env.submit()
        time.sleep(1)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        env.close()


if __name__ == "__main__":
    main()
