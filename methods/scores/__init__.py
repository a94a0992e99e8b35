"""A number per training image, found in earlier runs and kept in a file for later ones.

python -m engine.scores RUN [RUN ...] --score NAME[,NAME ...] --out FILE

To add a score that is recorded while a run trains: one file here, one line in RECORDED, and one in
`file.SCORES`.
"""

from .file import SCORES, ScoreFile, digest, read_score
from .forgetting import Forgetting
from .means import AUM, EL2N
from .recording import Recorder, Recording
from .tdds import TDDS
from .trajectories import Dual, DynUnc

RECORDED: dict[str, type[Recorder]] = {
    "forgetting": Forgetting,
    "el2n": EL2N,
    "aum": AUM,
    "dyn-unc": DynUnc,
    "dual": Dual,
    "tdds": TDDS,
}

__all__ = ["RECORDED", "SCORES", "Recorder", "Recording", "ScoreFile", "digest", "read_score"]
