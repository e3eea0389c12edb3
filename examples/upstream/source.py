"""Sources that say themselves when they end: with a stop signal, or with None."""

import time

from sage.api.function.sink_function import SinkFunction
from sage.api.function.source_function import SourceFunction, StopSignal
from sage.api.local_environment import LocalEnvironment


class Lines(SourceFunction):
    def __init__(self, lines, **kwargs):
        super().__init__(**kwargs)
        self.lines = lines
        self.position = 0

    def execute(self):
        if self.position == len(self.lines):
            return StopSignal("lines")
        line = self.lines[self.position]
        self.position += 1
        self.logger.debug("line %d", self.position)
        return line


class Ticks(SourceFunction):
    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.left = count

    def execute(self, data=None):
        self.left -= 1
        return f"tick {self.left}" if self.left >= 0 else None


class Show(SinkFunction):
    def execute(self, data):
        print(f"[{self.name}] {data}")
        return data


def main():
    env = LocalEnvironment("sources")
    shout = lambda line: line.upper() if not isinstance(line, StopSignal) else line  # noqa: E731
    lines = env.from_source(Lines, ["first", "second"], delay=0.02).map(shout)
    ticks = env.from_source(Ticks, count=2, delay=0.02)
    lines.connect(ticks).sink(Show, name="BothSink")
    job = env.submit()
    while not job.ended:
        time.sleep(0.02)
    env.stop()


if __name__ == "__main__":
    main()
