"""A batch of greetings, in capitals, printed."""

from sage.api.function.batch_function import BatchFunction
from sage.api.function.map_function import MapFunction
from sage.api.function.sink_function import SinkFunction
from sage.api.local_environment import LocalEnvironment


class Greetings(BatchFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sent = 0

    def execute(self):
        if self.sent == 3:
            return None
        self.sent += 1
        return f"hello, world {self.sent}"


class Capitals(MapFunction):
    def execute(self, data):
        return data.upper()


class Show(SinkFunction):
    def execute(self, data):
        print(data)


def main():
    env = LocalEnvironment("hello_world")
    env.from_batch(Greetings).map(Capitals).sink(Show)
    env.submit(autostop=True)
    print("done")


if __name__ == "__main__":
    main()
