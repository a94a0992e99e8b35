"""Ways to choose a core-set of images by what is known of each.

To add one: one file here, and one line below.
"""

from .beta import beta
from .candidates import Candidates, Rule
from .d2 import d2
from .facility_location import craig, facility_location
from .grad_match import grad_match
from .ranks import bottom, middle, top
from .stratified import stratified

SELECTION: dict[str, Rule] = {
    "top": Rule(top),
    "bottom": Rule(bottom),
    "middle": Rule(middle),
    "stratified": Rule(stratified, drops=True),
    "beta": Rule(beta, by_means=True),
    "d2": Rule(d2, by_features=True, drops=True),
    "craig": Rule(craig, by_features=True, by_score=False, always_per_class=True),
    "facility-location": Rule(
        facility_location, by_features=True, by_score=False, always_per_class=True
    ),
    "grad-match": Rule(grad_match, by_features=True, by_score=False, always_per_class=True),
}

__all__ = ["SELECTION", "Candidates", "Rule"]
