"""One of several processes that train by a framework: torchrun ... framework_ranks.py NAME DIR."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import test_frameworks
import torch
import torch.distributed as dist

if __name__ == "__main__":
    framework, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    make = getattr(test_frameworks, f"{framework}_training")(num_workers=2)

    def make_together(sampler, folder):
        if dist.is_initialized():
            dist.barrier()  # as the checkpoint is written by one of them
        return make(sampler, folder)

    seen = test_frameworks.assert_goes_on(make_together, folder)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(seen))
    dist.barrier()
    os._exit(0)  # gloo's threads abort Python's own end at times
