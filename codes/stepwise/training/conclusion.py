"""What the figures of 3D allow to say: the sentences at the head of its report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stepwise.data.image_sets import AUGMENTED, DECODED, ImageSet
from stepwise.evaluation.intervals import Measured, of_difference
from stepwise.evaluation.measures import Measure, titled
from stepwise.foundation.seeds import numpy_rng
from stepwise.training.candidates import Candidate
from stepwise.training.quality import SPACES, Result

ANOTHER = "another training may differ"  # the intervals know nothing of that
SURE_CONTROL = 0.9  # share of the noisy copies that the test must find before its word is taken
COSTS = {  # what a set's models took, beside the measures of its images; by the names in Candidate
    "parameters": Measure(
        "parameters (millions)",
        "Parameters of a set's diffusion models together, in millions; the autoencoder's are not counted.",
        -1,
        "{:.1f}",
    ),
    "minutes": Measure(
        "training (minutes)",
        "Minutes that training a set's diffusion models took together, by the clock of the machine that trained them; "
        "the autoencoder's are not counted.",
        -1,
        "{:.1f}",
    ),
}


@dataclass
class Findings:
    """Everything that the report tells.

    `reference`: the training images that neighbours are counted in; `seen`: of how many held-out images a set's
    model has seen, if that is known.
    """

    candidates: list[Candidate]
    results: dict[str, Result]
    floors: Result
    copies: Result
    augmented: Result
    train: ImageSet
    reference: ImageSet
    held_out: ImageSet
    class_names: list[str]
    settings: list[tuple[str, str]]
    features: str
    notes: list[str] = field(default_factory=list)
    seen: dict[str, int | None] = field(default_factory=dict)
    overlap: bool = False  # held-out images lie in the training folder too
    reconstruction: Result | None = None
    reconstruction_floor: Result | None = None  # of training images
    reconstructed: np.ndarray | None = None
    through_autoencoder: Result | None = None  # the training images, as a control of the search for copies
    cnn_features: bool = False  # KID and FID are not on Inception's

    @property
    def measures(self) -> dict[str, Measure]:
        """With the titles that the features allow, and COSTS."""
        return titled(self.cnn_features) | COSTS

    @property
    def costs(self) -> dict[str, dict[str, Measured]]:
        """For each set those of COSTS that are known, in their units."""
        given = {
            one.name: {"parameters": one.parameters and one.parameters / 1e6, "minutes": one.minutes}
            for one in self.candidates
        }
        return {
            name: {key: Measured(value, value, value) for key, value in values.items() if value is not None}
            for name, values in given.items()
        }


def conclude(found: Findings, seed: int) -> str:
    """The sentences that the figures allow: which set is best by CAS, whether that is sure, what else there is."""
    ranked = sorted(
        (name for name, result in found.results.items() if "cas" in result.figures),
        key=lambda name: -found.results[name].figures["cas"].value,
    )
    if not ranked:
        return _without_cas(found)
    best = found.results[ranked[0]]
    cas, real = best.figures["cas"], found.floors.figures["cas"]
    text = (
        f"A CNN trained only on the images of {ranked[0]} names {cas.value:.0%} of {len(found.held_out)} held-out "
        f"photos right ({cas.low:.0%} to {cas.high:.0%}); trained on real photos, {real.value:.0%}."
    )
    tied = ranked[:1]
    for other in ranked[1:]:
        assert best.right is not None and found.results[other].right is not None
        gap = of_difference(best.right - found.results[other].right, numpy_rng(seed, "gap", other))
        sure = gap.low > 0
        word = f"more than the choice of held-out photos explains; {ANOTHER}" if sure else "too few photos to tell"
        share = found.results[other].figures["cas"].value
        less = f"{100 * gap.value:.0f}"
        text += f" {other} has {share:.0%}, {less} point{'' if less == '1' else 's'} less: {word}."
        tied += [] if sure else [other]
    if len(tied) > 1:
        text += _tie(found, tied)
    gain = best.figures["cas_gain"]
    verdict = "helps" if gain.low > 0 else "harms" if gain.high < 0 else "neither clearly helps nor harms"
    doubt = "" if verdict.startswith("neither") else f" on these photos; {ANOTHER}"
    text += f" Adding the images of {ranked[0]} to the real ones {verdict} ({100 * gain.value:+.1f} points){doubt}."
    return text + _copied(found, ranked[0]) + _caution(found)


def _tie(found: Findings, tied: list[str]) -> str:
    """What is left to choose by between sets that CAS cannot tell apart: KID, then size and time of training."""
    text = ""
    kid = {name: found.results[name].figures["kid"] for name in tied if "kid" in found.results[name].figures}
    if len(kid) == len(tied):
        measure = found.measures["kid"]
        ranked = sorted(kid, key=lambda name: kid[name].value)
        near = [name for name in ranked if kid[name].low <= kid[ranked[0]].high]
        each = ", ".join(f"{name} {measure.text(kid[name])}" for name in (near if len(near) > 1 else ranked))
        if len(near) == 1:
            text = f" By {measure.title}, {ranked[0]} is nearest to the held-out photos ({each})."
        else:
            text = f" By {measure.title}, {' and '.join(near)} cannot be told apart either ({each}; intervals overlap)."
    costs = {name: found.costs[name] for name in tied}
    least = [
        _least("smallest model", "parameters", costs, "{:.1f} M"),
        _least("shortest training", "minutes", costs, "{:.0f} min"),
    ]
    told = " and ".join(filter(None, least))
    return text + (f" Of these, {told}." if told else "")


def _least(what: str, key: str, costs: dict[str, dict[str, Measured]], form: str) -> str:
    """Which set costs the least by `key`, if that is known of all and it is a tenth below the next."""
    known = sorted((cost[key].value, name) for name, cost in costs.items() if key in cost)
    if len(known) < len(costs) or known[0][0] > 0.9 * known[1][0]:
        return ""
    return f"{known[0][1]} has the {what} ({form.format(known[0][0])}, the next {form.format(known[1][0])})"


def _without_cas(found: Findings) -> str:
    """The same where no CAS could be measured: nearest by the first of KID and SWD that there is."""
    text = "CAS could not be measured; see the notes."
    for key in ("kid", "swd"):
        values = {name: result.figures[key] for name, result in found.results.items() if key in result.figures}
        if values:
            measure = found.measures[key]
            floor = measure.text(found.floors.figures[key])
            ranked = sorted(values, key=lambda name: values[name].value)
            each = (f"{name} {measure.with_interval(values[name])}" for name in ranked)
            text += f" {measure.title} to the {len(found.held_out)} held-out photos, lower is nearer: {', '.join(each)}"
            text += f"; real training photos {floor}." + _copied(found, ranked[0])
            break
    return text + _caution(found)


def _copied(found: Findings, name: str) -> str:
    """How many images of a set are copies, in each space, and which sets have more than held-out photos have."""
    spaces = [space for space in SPACES if f"memorized_{space}" in found.copies.figures]
    return "".join(_copied_by(f"the {space} test", f"memorized_{space}", found, name) for space in spaces)


def _copied_by(test: str, key: str, found: Findings, name: str) -> str:
    """`_copied` by one test, if it finds what is known to be copied and not as much in photos that are no copies."""
    control, unseen = found.copies.figures[key].value, found.floors.figures[key]
    if control < SURE_CONTROL:
        return (
            f" Whether images are copies cannot be told here by {test}: of noisy copies of training images it finds "
            f"only {control:.0%}, as where each photo has near twins."
        )
    shares = {one: result.figures[key] for one, result in found.results.items()}
    text = f" {shares[name].value:.1%} of the images of {name} are copies of training images by {test}"
    if unseen.value > 0:
        doubt = ": no sign of copying" if shares[name].low <= unseen.high else ""
        text += f", as {unseen.value:.1%} of the held-out photos are, which are none{doubt}"
    harder = {AUGMENTED: found.augmented} | ({DECODED: found.through_autoencoder} if found.through_autoencoder else {})
    escaped = {name: control.figures[key].value for name, control in harder.items()}
    missed = [f"{share:.0%} of {name}" for name, share in escaped.items() if share < SURE_CONTROL]
    if missed:
        text += f" (copies may escape it: it finds only {' and '.join(missed)})"
    above = [f"{one} ({share.value:.1%})" for one, share in shares.items() if share.low > unseen.high]
    told = f" More of them than held-out photos have: {', '.join(above)}." if above and len(shares) > 1 else ""
    return text + "." + told


def _caution(found: Findings) -> str:
    """What flatters, so that nobody reads the sentence without it."""
    flattered = [name for name in found.results if found.seen.get(name)]
    judged = [one for one in found.candidates if "cas" in found.results[one.name].figures]
    unnamed = [one.name for one in judged if not one.images.labelled]
    reasons = []
    if found.overlap:
        reasons.append("held-out photos lie in the training folder, so no figure above is worth much")
    if flattered:
        reasons.append(f"{' and '.join(flattered)} had seen held-out photos in training, which flatters")
    if unnamed:
        reasons.append(f"the CNN of the real photos named the classes of {' and '.join(unnamed)}, which favours them")
    return f" Caution: {'; '.join(reasons)}; see the notes." if reasons else ""
