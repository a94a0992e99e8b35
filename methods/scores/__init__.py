"""A number per training image, found in earlier runs and kept in a file for later ones.

python -m engine.scores RUN [RUN ...] --score NAME[,NAME ...] --out FILE
"""

from .file import SCORES, ScoreFile, digest, read_score
from .recording import RECORDED, Recording

__all__ = ["RECORDED", "SCORES", "Recording", "ScoreFile", "digest", "read_score"]
