"""What all learning shares: a loop that goes on where it was killed, schedules, averages, curves.

A training keeps its checkpoint in the cache under its fingerprint, and its result too:

    def learn(path: Path) -> dict[str, float]:
        loop = Loop("fit", key, {"model": model, "optimizer": optimizer}, steps, ("loss",))
        for step in loop:
            loop.record(**method.step(step))
        torch.save(model.state_dict(), path)
        return loop.means()

    entry = made_once("fit", key, "model.pt", learn)
"""

from stages.training.average import Average
from stages.training.curves import write_curve
from stages.training.loop import Diverged, Loop, Part, finite, made_once
from stages.training.schedules import cosine, multistep, warmup

__all__ = ["Average", "Diverged", "Loop", "Part", "cosine", "finite", "made_once", "multistep", "warmup", "write_curve"]
