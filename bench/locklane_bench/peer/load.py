"""The process that makes the load, so that it has a processor's time of its own to count.

``python -m locklane_bench.peer.load`` reads one task per line and answers each with one line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys

from locklane_bench.peer import bulk, engine
from locklane_bench.peer.tasks import Done, LoadError, Task
from locklane_client.loop import new_event_loop


def carry_out(task: Task, runner: asyncio.Runner) -> Done:
    """Do one task.

    :raises LoadError: the server did not do its part.
    """
    if task.kind in ("locks", "checkpresent", "downloads", "remove"):
        return runner.run(engine.carry_out(task))
    return bulk.carry_out(task)


def main() -> None:
    """Do tasks until there are no more."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        for line in sys.stdin:
            task = Task.from_json(line)
            gc.collect()
            try:
                answer = carry_out(task, runner).to_json()
            except LoadError as error:
                answer = json.dumps({"error": str(error)})
            except Exception as error:
                answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
