"""cuBLAS's workspaces, which a step takes from the caching allocator on CUDA."""

from __future__ import annotations

import torch

from estimator.estimate import Phase
from trainer.recorder import StorageRecorder


class Workspaces:
    """cuBLAS takes one workspace per thread, with the first matrix product of forward and backward.

    Where it comes to lie matters more than its size: carved out of a large free block, it keeps
    that block from being whole ever again.
    """

    def __init__(self, recorder: StorageRecorder, size_bytes: int) -> None:
        self.recorder = recorder
        self.size_bytes = size_bytes
        self.held: dict[Phase | None, torch.Tensor] = {}

    def take(self) -> None:
        """Take the running thread's workspace, unless it has one."""
        if self.recorder.phase not in self.held:
            workspace = torch.empty(self.size_bytes, dtype=torch.uint8)
            self.held[self.recorder.phase] = workspace
            self.recorder.claim([workspace], "workspace")
