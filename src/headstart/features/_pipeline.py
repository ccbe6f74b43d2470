"""Read, decode and compute in parallel: one thread per core, each taking whole chunks through every step.

Decoding and the network's arithmetic both release the interpreter lock, so that threads which each do all steps keep
every core busy without queues, copies between processes, or idle cores while another step catches up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from headstart._runtime import cores, progress

CHUNK = 16  # examples a thread takes at a time: large enough for the network, small enough to share out evenly


def in_parallel(items: Sequence[Any], work: Callable[[Sequence[Any]], None], *, what: str, chunk: int = CHUNK) -> None:
    """Call ``work`` on chunks of ``items`` from one thread per core; the first error stops the rest and is raised."""
    import torch

    chunks = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    workers = max(1, min(cores(), 32, len(chunks)))
    before, stop = torch.get_num_threads(), threading.Event()
    with progress(what, len(items)) as advance:

        def task(part: Sequence[Any]) -> None:
            if stop.is_set():
                return
            work(part)
            advance(len(part))

        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, cores() // workers),))
        try:
            futures = [pool.submit(task, part) for part in chunks]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            stop.set()
            for future in done:
                future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(before)
