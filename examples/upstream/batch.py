"""Batches: lists, ranges, and classes that give their records one by one or all at once."""

from sage.api.function.batch_function import BatchFunction
from sage.api.local_environment import LocalEnvironment


class Countdown(BatchFunction):
    def __init__(self, start, step=1, ctx=None, **kwargs):
        super().__init__(ctx, **kwargs)
        self.value = start
        self.step = step

    def execute(self):
        if self.value <= 0:
            return None
        value, self.value = self.value, self.value - self.step
        return value


class Squares(BatchFunction):
    def get_data_iterator(self):
        return (number * number for number in range(4))

    def get_total_count(self):
        return 4


def main():
    env = LocalEnvironment("batches")
    env.from_batch(["a", "b"]).print("list", separator=" ")
    env.from_batch(range(2)).print("range", separator=" ")
    env.from_collection([3.5]).print("collection", separator=" ")
    env.from_batch(Countdown, 5, step=2).print("countdown", separator=" ")
    env.from_batch(Squares).print("squares", separator=" ")
    env.submit(autostop=True)


if __name__ == "__main__":
    main()
