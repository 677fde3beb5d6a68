"""Several dry runs in a row, made by one worker process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from types import TracebackType
from typing import IO

from estimator.estimate import Device, MemoryEstimate
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.dry_run_cache import find_dry_run, keep_dry_run
from trainer.launch import (
    TERM_SECONDS,
    WorkerFailed,
    problems_in,
    worker_command,
    worker_environment,
)


class DryRuns:
    """Makes dry runs one after another; the libraries' import, of seconds, is paid once.

    The worker starts with the first dry run and ends with the ``with`` block. One that broke is
    replaced by a new one.
    """

    def __init__(self, *, module: str = "trainer.dry_run_service") -> None:
        self._module = module
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> DryRuns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def dry_run(self, plan: FineTunePlan, *, device: Device = "cuda") -> MemoryEstimate:
        """Return the dry run's reading of a plan, made now or before.

        Raises:
            InputError: The plan cannot be run.
            WorkerFailed: The process broke.
        """
        if known := find_dry_run(plan, device):
            return known
        process = self._started()
        request = json.dumps({"plan": plan.to_document(), "device": device})
        answer = ""
        try:
            if process.stdin and process.stdout:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        except BrokenPipeError:  # it has died: its log says why
            answer = ""
        except BaseException:  # Ctrl-C: no answer is waited for any more
            process.kill()
            raise
        if not answer:
            raise self._failure(plan)
        if problems := problems_in(answer):
            raise InputError(problems)
        found = MemoryEstimate.model_validate(json.loads(answer)["estimate"])
        keep_dry_run(found)
        return found

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            # a file, not a pipe: nobody reads it while the worker works
            self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (see _end)
            self._process = subprocess.Popen(
                worker_command(self._module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                env=worker_environment(),
            )
        return self._process

    def _failure(self, plan: FineTunePlan) -> WorkerFailed:
        log: list[str] = []
        if self._process and self._log:
            self._process.wait()
            self._log.seek(0)
            log = [line.rstrip() for line in self._log if line.strip()][-20:]
        self._end()
        said = f": {log[-1].strip()}" if log else ""
        return WorkerFailed(f"the dry run of {plan.model} broke{said}", log)

    def _end(self) -> None:
        """End the worker: the end of its input ends it, where it does not hang."""
        process, log = self._process, self._log
        self._process = self._log = None
        if process:
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            try:
                process.wait(TERM_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        if log:
            log.close()
