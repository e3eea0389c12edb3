"""A pipeline that hands its records to the durable queue of a gateway: questions are answered in the background.

`python examples/jobs_pipeline.py gemma-3-270m` runs the gateway itself. Beside a running one, name it:
`SAGE_URL=http://127.0.0.1:8000 SAGE_API_KEY=… python examples/jobs_pipeline.py gemma-3-270m`.
"""

import os
import sys
from typing import Any

from sage.api.local_environment import LocalEnvironment
from sage.middleware.llm import JobsClient, LLMService

COUNTRIES = ["France", "Italy", "Japan", "China"]


def question(country: str) -> dict[str, Any]:
    return {"custom_id": country, "prompt": f"What is the capital of {country}?", "temperature": 0, "max_tokens": 8}


def run(jobs: JobsClient, model: str) -> None:
    env = LocalEnvironment("capitals", {"discovery": None, "jobs": jobs})
    countries = env.from_batch(COUNTRIES)

    # The results flow on, in order; a country that fails would be skipped and counted.
    answers = countries.enqueue(
        "generate", question, model=model, wait=True, combine=lambda country, answer: (country, answer["text"]),
        on_error="skip",
    )  # fmt: skip
    answers.sink(lambda pair: print(f"{pair[0]}: {pair[1].strip()}"))

    # Beside it, jobs that nobody waits for: what flows on says where each record went.
    later = countries.enqueue("generate", question, model=model, group=2, priority="low")
    later.sink(lambda one: print(f"queued: {one.record} is number {one.index} of {one.job}"))
    env.execute()

    for job in jobs.list(kind="generate"):
        print(f"{job.kind}: {job.wait(timeout=300)['state']}, {job.progress['done']} done")


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m"
    if "SAGE_URL" in os.environ:
        run(JobsClient(), model)
        return
    with LLMService() as service:
        run(service.jobs, model)


if __name__ == "__main__":
    main()
