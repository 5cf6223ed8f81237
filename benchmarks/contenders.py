"""Contenders of a benchmark: processes of their own that take turns, so that noise slows all alike.

A process prints a line of JSON once it is ready, then answers each word with another line.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Contender:
    """The benchmark's side. `facts` is what the process said when it was ready, None if it failed.

    Args:
      command: of the process, without the interpreter.
      environment: variables on top of this process's own; None takes one away.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str | None] | None = None
    ) -> None:
        variables = os.environ | (environment or {})
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it goes with the process
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
        )
        line = self._process.stdout.readline()
        self.facts = json.loads(line) if line else None

    def ask(self, word: str) -> Any:
        """The process's answer to `word`. Raises RuntimeError if it has died, of memory perhaps."""
        try:
            print(word, file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise RuntimeError(f"a contender died: {self.failure()}") from None

    def failure(self) -> str:
        """The last line of what the process had to say when it failed, such as what is missing."""
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no output"]
        return lines[-1][:80]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(facts: Any, answers: Mapping[str, Callable[[], Any]]) -> None:
    """The process's side: says `facts`, then answers each word by what its function returns."""
    print(json.dumps(facts), flush=True)
    for word in sys.stdin:
        print(json.dumps(answers[word.strip()]()), flush=True)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of what one had next to what another had in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
