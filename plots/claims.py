"""State each claim of the two studies as a test on the finished runs, with its verdict.

python -m plots.claims [RESULTS_DIR]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import claim_tests, segmentation
from .claim_tests import CLOSE, CONSISTENT, LEAST_METHODS, NEGLIGIBLE, STRONG, Case
from .command import run_command
from .estimates import LEAST_PAIRS, LEVEL
from .evidence import TOO_FEW, combine, describe
from .study import Study, is_plain

ARAZO, FIDON = "Arazo et al. 2021", "Fidon et al. 2022"
PAIRED = (
    "per seed the mean over cells (augmentation x budget) of the paired difference in last-epoch "
    "accuracy, two-sided t-test over seeds"
)
DIVIDED = "level divided by the comparisons of all setups"
#: One failure contradicts a claim, so chance gets as many tries; to support it, all have to hold.
BELOW = f"contradicted if significantly below ({DIVIDED})"
ABOVE = f"supported if significantly above zero at the 5% level, {BELOW}"


#: Kinds of setups: of balanced classes with right labels, of unequal classes, of images in groups.
BALANCED, IMBALANCED, GROUPED = "balanced", "imbalanced", "grouped"


class Claim(NamedTuple):
    """A claim, how it is tested and judged, and in which setups; `test` yields its cases."""

    source: str
    statement: str
    statistic: str
    rule: str
    setups: str  # the kind that it is about
    test: Callable[[Study], Iterator[Case]]


CLAIMS = [
    Claim(
        ARAZO,
        "Under a budget (< 100%), no importance-sampling method beats uniform sampling "
        "consistently. Methods: all that favour images by what the network makes of them.",
        f"method - unif-SGD; {PAIRED}",
        f"contradicted if some method is above zero in at least {CONSISTENT:.0%} of the cells and "
        f"significantly so ({DIVIDED}); supported if for each one the 95% "
        f"interval ends below {NEGLIGIBLE} points",
        BALANCED,
        claim_tests.no_consistent_advantage,
    ),
    Claim(
        ARAZO,
        f"Under a budget, a stronger augmentation ({STRONG}) helps more than any importance "
        "sampling.",
        f"unif-SGD with {STRONG} - method with standard; {PAIRED}; a cell is a budget",
        f"for each method {ABOVE}",
        BALANCED,
        claim_tests.augmentation_helps_more,
    ),
    Claim(
        ARAZO,
        f"On CIFAR-10/100, 30% of the iterations with {STRONG} about equal all of them with "
        f"standard: they lose at most {CLOSE:g} point.",
        f"unif-SGD with {STRONG} at 30% - SGD with standard at 100%, paired by seed, t-test",
        f"supported if significantly above -{CLOSE:g} point at the 5% level, {BELOW}",
        BALANCED,
        claim_tests.third_equals_whole,
    ),
    Claim(
        ARAZO,
        "Under a budget, the more evenly a method uses the images, entropy H(c), the higher its "
        "accuracy.",
        f"Spearman's correlation over methods (at least {LEAST_METHODS}) within cell and seed; per "
        "seed the mean over cells, two-sided t-test over seeds; it speaks of these methods only",
        ABOVE,
        BALANCED,
        claim_tests.even_use_is_better,
    ),
    Claim(
        ARAZO,
        "unif-SGD beats a fixed random subset clearly at every budget below 100%.",
        f"unif-SGD - random-subset at each budget; {PAIRED}",
        f"at each budget {ABOVE}",
        BALANCED,
        claim_tests.beats_fixed_subset,
    ),
    Claim(
        ARAZO,
        "unif-SGD with the linear schedule stays close to full training on CIFAR-10/100: it loses "
        f"at most {CLOSE:g} point more than published.",
        "unif-SGD at each published budget - SGD at 100%, standard, paired by seed, t-test",
        f"at each budget supported if significantly above the published loss - {CLOSE:g} point at "
        f"the 5% level, {BELOW}",
        BALANCED,
        claim_tests.stays_close_to_whole,
    ),
    Claim(
        FIDON,
        "On imbalanced data, dro has a better worst-class accuracy than SGD.",
        f"dro - SGD; {PAIRED.replace('accuracy', 'worst-class accuracy')}",
        ABOVE,
        IMBALANCED,
        claim_tests.worst_class_gains,
    ),
    Claim(
        FIDON,
        "On imbalanced data, dro has a better 5th percentile of class accuracies than SGD.",
        f"dro - SGD; {PAIRED.replace('accuracy', '5th percentile of class accuracies')}",
        ABOVE,
        IMBALANCED,
        claim_tests.low_percentile_gains,
    ),
    Claim(
        FIDON,
        "On images in groups, dro has a better worst-group accuracy than SGD.",
        f"dro - SGD; {PAIRED.replace('accuracy', 'worst-group accuracy')}",
        ABOVE,
        GROUPED,
        claim_tests.worst_group_gains,
    ),
    Claim(
        FIDON,
        "On images in groups, dro has a better 5th percentile of group accuracies than SGD.",
        f"dro - SGD; {PAIRED.replace('accuracy', '5th percentile of group accuracies')}",
        ABOVE,
        GROUPED,
        claim_tests.low_group_percentile_gains,
    ),
]


def check(claim: Claim, study: Study) -> tuple[str, list[str]]:
    """The verdict on a claim and lines on each setup that it is about."""
    parts = [part for _, part in study.split("setup") if concerns(claim, part)]
    cases = [list(claim.test(part)) for part in parts]
    # A failure in any of the setups contradicts the claim, so all their comparisons are counted.
    tests = sum(case.counts and case.pooled is not None for group in cases for case in group)
    verdicts, lines = [], []
    for part, group in zip(parts, cases):
        own = [TOO_FEW if case.pooled is None else case.judge(case.pooled, tests) for case in group]
        counting = [verdict for case, verdict in zip(group, own) if case.counts]
        enough = len(counting) - counting.count(TOO_FEW)
        verdicts.append(combine(counting))
        counted = f", by {enough} of {len(counting)} comparisons" if enough else ""
        lines.append(f"  {part.title}: {verdicts[-1]}{counted}")
        for case, verdict in zip(group, own):
            beside = "" if case.counts else "(a variant, which does not count) "
            numbers = ""
            if case.pooled is not None:
                numbers = f": {describe(case.pooled, case.unit, case.most)}"
            lines.append(f"    {case.subject}: {beside}{verdict}{numbers}")
    return combine(verdicts), [*lines, f"  {tally(verdicts, tests)}"]


def concerns(claim: Claim, part: Study) -> bool:
    """Decide whether a claim is about a setup, by its data; none is about budgets of compute."""
    if part.runs["compute_budget"].any():
        return False
    if claim.setups == GROUPED:
        return part.runs["worst_group_accuracy"].notna().any()
    if claim.setups == IMBALANCED:
        return part.runs["imbalance"].notna().all()
    return is_plain(part.runs).all()


def tally(verdicts: list[str], tests: int) -> str:
    """Setups by verdict, and the level that the number of comparisons leaves."""
    counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(verdicts).items())
    level = f"; contradicted at p < {LEVEL / tests:.2g} ({LEVEL:g} / {tests})" if tests else ""
    return f"setups: {counts or 'none'}{level}"


def report(study: Study) -> str:
    """All claims with their verdicts, as text."""
    blocks = []
    for number, claim in enumerate(CLAIMS, 1):
        if claim.setups == GROUPED and not any(concerns(claim, p) for _, p in study.split("setup")):
            continue
        verdict, lines = check(claim, study)
        blocks.append(
            "\n".join(
                [
                    f"{number}. {verdict.upper()}: {claim.statement} ({claim.source})",
                    f"  Statistic: {claim.statistic}.",
                    f"  Rule: {claim.rule}; undecided otherwise.",
                    *lines,
                ]
            )
        )
    footer = (
        f"Significant: p < {LEVEL:g}. At least {LEAST_PAIRS} common seeds are needed, else: "
        f"{TOO_FEW}. A claim is contradicted where it is in one setup, and supported where it is "
        "in all that have enough runs. Verdicts are by the paired test. Where the two sides "
        "correlate negatively over seeds, pairing costs power, and Welch's test stands beside it; "
        "no verdict is made of it. A claim speaks of the setups named, whatever their length; "
        "those of Arazo et al. are ResNet-18, 200 epochs."
    )
    return "\n\n".join([*blocks, footer])


def main(arguments: list[str]) -> int:
    if any((Path(word) / segmentation.FILE).exists() for word in arguments[:1]):
        return segmentation.main(arguments)
    description = "Print each claim of the two studies with its test, numbers and verdict."
    return run_command(
        "plots.claims", description, lambda study, _: print(report(study)), arguments
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
