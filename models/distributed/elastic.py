"""Elastic jobs: training continues when workers die, leave or join.

Every `commit_steps` steps, each worker copies the variables in memory (a commit). When a worker
dies, the others return to the last commit and repeat the steps since then. When workers join, or
leave without dying, no step is repeated.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from absl import logging
from horovod.common.elastic import State, run_fn
from horovod.common.exceptions import HorovodInternalError

from models.distributed.base import DistributedOptions
from models.distributed.horovod_backend import HorovodProcesses, is_lost_connection


class ElasticProcesses(HorovodProcesses):
    """The workers of a job under `horovodrun --host-discovery-script`."""

    elastic = True

    def __init__(self, hvd: Any, options: DistributedOptions) -> None:
        super().__init__(hvd, options)
        self._state: _State | None = None
        self._steps_until_commit = options.commit_steps

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        def guarded(state: _State) -> Any:
            del state
            with _lost_connections():
                return body()

        self._state = _State(self._hvd, list(variables), self)
        # Horovod: synchronizes and calls `guarded`; reconnects and repeats when workers change.
        return run_fn(guarded, self._reconnect)(self._state)

    def step_done(self) -> None:
        self._steps_until_commit -= 1
        if self._steps_until_commit == 0:
            self._steps_until_commit = self.options.commit_steps
            with _lost_connections():
                self._state.commit()  # Horovod: raises when workers have joined or left.

    def _reconnect(self) -> None:
        logging.info("worker %d of %d: the workers changed, reconnecting", self.rank, self.size)
        self._hvd.shutdown()
        self._hvd.init()
        self.refresh()
        self._steps_until_commit = self.options.commit_steps
        logging.info("worker %d of %d continues", self.rank, self.size)


class _State(State):
    """The variables and the copy, in this process's memory, that Horovod rolls back to."""

    def __init__(self, hvd: Any, variables: list[tf.Variable], workers: HorovodProcesses) -> None:
        super().__init__(bcast_object=hvd.broadcast_object, get_rank=lambda: workers.rank)
        self._hvd, self._variables = hvd, variables
        self.save()

    def save(self) -> None:
        self._copies = [variable.numpy() for variable in self._variables]

    def restore(self) -> None:
        for variable, copy in zip(self._variables, self._copies, strict=True):
            variable.assign(copy)

    def sync(self) -> None:
        with _lost_connections():
            # Horovod: rank 0 is never a worker that has just joined.
            self._hvd.broadcast_variables(self._variables, root_rank=0)
        self.save()


@contextmanager
def _lost_connections() -> Iterator[None]:
    """Turns TensorFlow's error about a dead worker into the one that Horovod recovers from."""
    try:
        yield
    except tf.errors.OpError as error:
        if not is_lost_connection(error):
            raise
        raise HorovodInternalError(str(error)) from error
