"""A loop: a counter goes round until it has reached its target."""

import time

from sage.api.function.base_function import BaseFunction
from sage.api.function.comap_function import BaseCoMapFunction
from sage.api.function.sink_function import SinkFunction
from sage.api.function.source_function import SourceFunction
from sage.api.local_environment import LocalEnvironment


class Start(SourceFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.has_started = False

    def execute(self):
        if self.has_started:
            return None
        self.has_started = True
        return {"count": 0}


class Enter(BaseCoMapFunction):
    def map0(self, data):
        print("enters:", data["count"])
        return data

    def map1(self, data):
        return data


class Increment(BaseFunction):
    def execute(self, data):
        return {"count": data["count"] + 1}


class LeaveAtFive(BaseFunction):
    def execute(self, data):
        return None if data["count"] > 5 else data


class Show(SinkFunction):
    def execute(self, data):
        print("count:", data["count"])


def main():
    env = LocalEnvironment("future")
    feedback = env.from_future("feedback")
    counted = env.from_source(Start, delay=0.02).connect(feedback).comap(Enter).map(Increment).map(LeaveAtFive)
    counted.sink(Show)
    counted.fill_future(feedback)
    job = env.submit()
    time.sleep(0.5)
    print("the loop has ended" if job.ended else "the loop still runs")
    env.close()


if __name__ == "__main__":
    main()
