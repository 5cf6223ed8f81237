"""What tests of metrics share: labels in padded-sparse form, and workers that are threads."""

import threading

import numpy as np

from models.distributed.base import SingleProcess


def listed(labels):
    """Padded-sparse form of dense labels [B, C]."""
    rows = [np.flatnonzero(row) for row in labels]
    longest = max([len(row) for row in rows] + [1])
    index = np.full((len(labels), longest), -1, np.int32)
    value = np.zeros((len(labels), longest), np.float32)
    for i, row in enumerate(rows):
        index[i, : len(row)], value[i, : len(row)] = row, labels[i, row]
    return index, value


class Threads:
    """Workers that are threads: `sum` waits for all and adds up."""

    def __init__(self, size):
        self.size, self.barrier, self.parts = size, threading.Barrier(size, timeout=20), {}

    def worker(self, rank):
        class Worker(SingleProcess):
            size = self.size

            def sum(worker, array):  # noqa: N805
                self.parts[rank] = np.asarray(array)
                self.barrier.wait()
                total = sum(self.parts[r] for r in range(self.size))
                self.barrier.wait()
                return total

        worker = Worker()
        worker.rank = rank
        return worker

    def run(self, job):
        results = [None] * self.size

        def one(rank):
            results[rank] = job(self.worker(rank), rank)

        threads = [threading.Thread(target=one, args=[rank]) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
