"""Where the time of a picture goes, and whether the stages account for all of it.

    python benchmarks/stages.py [PHOTOS...] [--seconds 20] [--people 1 2 4 8 16] [--json]

Each picture runs through the pipeline in process, one after the other, and is rendered as JSON.
Stages are in percent of their sum. `unaccounted_p95` is the share of the time seen from outside
that no stage claims, at the 95th percentile; aim: 5 %. `not_networks` is the share outside the
networks themselves; aim: 20 %.
"""

import asyncio
import time
from itertools import cycle

from served import jobs_of, parser, percentile, report

from posegate.api.documents import poses_json
from posegate.bench import Job
from posegate.build import running_pipeline
from posegate.metrics import STAGES
from posegate.pipeline import Pipeline
from posegate.settings import load_settings

PEOPLE = (1, 2, 4, 8, 16)
WARM_UP = 3


async def measure(pipeline: Pipeline, jobs: list[Job], people: int, seconds: float) -> dict:
    walls, sums, unaccounted, networks = [], [], [], 0.0
    stages = dict.fromkeys(STAGES, 0.0)
    ends = time.perf_counter() + seconds
    for number, job in enumerate(cycle(jobs)):
        begun = time.perf_counter()
        estimate = await pipeline.estimate(job.data, job.options)
        poses_json(estimate, min_keypoint_score=0.0)
        ended = time.perf_counter()
        if number < WARM_UP:
            continue
        wall_ms, sum_ms = (ended - begun) * 1000, estimate.clock.total_ms
        walls.append(wall_ms)
        sums.append(sum_ms)
        unaccounted.append(abs(wall_ms - sum_ms) / wall_ms)
        networks += estimate.network_s * 1000
        for stage, milliseconds in estimate.clock.stages_ms.items():
            stages[stage] += milliseconds
        if ended > ends:
            break
    total = sum(sums)
    return {
        "people": people,
        "images": len(walls),
        "mean_ms": total / len(walls),
        **{stage: f"{100 * spent / total:.1f}" for stage, spent in stages.items()},
        "not_networks": 1 - networks / total,
        "unaccounted_p95": percentile(unaccounted, 95),
    }


async def main() -> None:
    arguments = parser(__doc__, seconds=20)
    arguments.add_argument("--people", type=int, nargs="+", default=PEOPLE)
    given = arguments.parse_args()
    settings = load_settings(model_repository=given.repository)
    jobs = {people: await jobs_of(given, people) for people in given.people}
    async with running_pipeline(settings) as pipeline:
        rows = [
            await measure(pipeline, found, people, given.seconds / len(jobs))
            for people, found in jobs.items()
        ]
    report("share of each stage, percent", rows, as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())
