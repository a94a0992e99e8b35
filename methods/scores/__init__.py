"""A number per training image, found in earlier runs and kept in a file for later ones.

python -m engine.scores RUN [RUN ...] --score NAME[,NAME ...] --out FILE
"""

from .covering import k_center
from .file import SCORES, ScoreFile, digest, read_score
from .formulas import el2n, grand
from .recording import RECORDED, Recording

__all__ = [
    "RECORDED",
    "SCORES",
    "Recording",
    "ScoreFile",
    "digest",
    "el2n",
    "grand",
    "k_center",
    "read_score",
]
