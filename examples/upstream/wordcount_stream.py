"""Words of an endless source, one sentence after the other; the program runs for a moment and closes."""

import time
from collections import Counter

from sage.api.function.source_function import SourceFunction
from sage.api.local_environment import LocalEnvironment


class Sentences(SourceFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sentences = ["streams never end", "batches end", "words are counted"]
        self.next = 0

    def execute(self):
        sentence = self.sentences[self.next % len(self.sentences)]
        self.next += 1
        return sentence


def main():
    env = LocalEnvironment()
    counts = Counter()
    (
        env.from_source(Sentences, delay=0.05)
        .map(lambda sentence: sentence.strip().lower())
        .filter(lambda sentence: len(sentence) > 0)
        .flatmap(lambda sentence: sentence.split())
        .filter(lambda word: len(word) > 3)
        .sink(lambda word: counts.update([word]))
    )
    try:
        env.submit()
        time.sleep(1)
    finally:
        env.close()
    print("words:", sorted(counts))


if __name__ == "__main__":
    main()
