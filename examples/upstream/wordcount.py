"""Counts the words of a batch of sentences; the sink prints the counts when it is closed."""

from sage.api.function.batch_function import BatchFunction
from sage.api.function.flatmap_function import FlatMapFunction
from sage.api.function.map_function import MapFunction
from sage.api.function.sink_function import SinkFunction
from sage.api.local_environment import LocalEnvironment


class Sentences(BatchFunction):
    def __init__(self, sentences, **kwargs):
        super().__init__(**kwargs)
        self.sentences = list(sentences)

    def execute(self):
        return self.sentences.pop(0) if self.sentences else None


class Split(FlatMapFunction):
    def execute(self, data):
        for word in data.split():
            self.collect(word)


class Pair(MapFunction):
    def execute(self, data):
        return (data, 1)


class Count(SinkFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counts = {}

    def execute(self, data):
        word, count = data
        self.counts[word] = self.counts.get(word, 0) + count

    def close(self):
        for word, count in sorted(self.counts.items()):
            print(f"{word}: {count}")


def main():
    env = LocalEnvironment("wordcount")
    sentences = ["the cat sees the dog", "the dog sleeps", "a cat sleeps"]
    env.from_batch(Sentences, sentences).flatmap(Split).map(Pair).keyby(lambda pair: pair[0]).sink(Count)
    env.submit(autostop=True)


if __name__ == "__main__":
    main()
