"""The measures of 3D on sets of images: how good, how varied, how much copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepwise.data.augment import Augment
from stepwise.data.folders import load_image, reading_size
from stepwise.data.image_sets import ImageSet
from stepwise.evaluation import classifier, distances, inception, memorization, sliced_wasserstein
from stepwise.evaluation.intervals import Measured, of_difference, of_distance, of_share
from stepwise.evaluation.measures import PUBLISHED
from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.foundation.seeds import numpy_rng
from stepwise.training.decoding import decoded, latents, resized
from stepwise.training.pretrained import FrozenVAE

FEWEST = 8  # images that a distance between two sets needs: its halves must have neighbours to look at
FEWEST_FOR_DENSITY = 2 * (distances.NEIGHBOURS + 1)  # held-out ones: halves of them with all neighbours
PIXEL_SPACE = 32
OFF_CENTRE = (0.25, 0.375, 0.625, 0.75)  # of the longer side's slack, of which 3B's augmentations use the middle half
SPACES = {"pixel": "at 32 px", "latent": "in the VAE's latent space"}


@dataclass
class Settings:
    """How to measure. `features`: auto, inception or cas; `on_step` is called after each training step of the
    CNN, `check` between measures; both may raise to stop."""

    num_classes: int
    seed: int
    device: Device
    cas_steps: int
    cas_seeds: int
    features: str
    inception_weights: Path | None
    vae: FrozenVAE | None
    on_step: Callable[[], None]
    check: Callable[[], None]

    @property
    def has_cas(self) -> bool:
        """One class can only be named right: neither CAS nor its network's features say anything then."""
        return self.num_classes > 1


@dataclass
class Result:
    """The figures of one set, and what could not be measured and why."""

    figures: dict[str, Measured] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    right: np.ndarray | None = None  # CAS: share of the seeds that name each held-out image right, [M]
    neighbours: dict[str, memorization.Neighbours] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {key: asdict(measured) for key, measured in self.figures.items()}


class Judge:
    """Knows the real images; `judge` measures a set against them, `floors` what real images score themselves."""

    def __init__(self, train: ImageSet, held_out: ImageSet, settings: Settings):
        self.train, self.held_out, self.settings = train, held_out, settings
        # An image that is there twice is its own second neighbour: its copies would not stand out.
        self.distinct = train.picked(np.unique(train.images, axis=0, return_index=True)[1])
        if len(self.distinct) < 2:
            raise UserError("All training images are the same.\nGive at least two different ones.")
        inside, self.features_line = _inception(settings)
        self.on_cnn = inside is None  # what KID and FID look at, if there are any
        self.real_nets = self._train_nets(train.images, train.label) if settings.has_cas else []
        self.features = _features(settings, inside, self.real_nets)
        self.held_out_features = self.features(held_out.images) if self.features else None
        self.held_out_patches = sliced_wasserstein.patches(held_out.images, settings.seed)
        self.real_right = self._right(self.real_nets) if settings.has_cas else None
        self.spaces = {"pixel": _pixels}
        if (vae := settings.vae) is not None:
            self.spaces["latent"] = lambda images: latents(images, vae)
        self.references, self.among_training = self._references(), {}
        for name, reference in self.references.items():
            self.among_training[name] = memorization.neighbours(reference[0], reference, leave_out_self=True)
        self.unseen = self._neighbours(held_out.images)

    def _references(self) -> dict[str, list[np.ndarray]]:
        """All that a copy of a training image may look like, in each space V times [M, D]; the first one as it is."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.spaces}
        beside = OFF_CENTRE if self.distinct.oblong else ()  # 3B's augmentations take these squares as well
        off_centre = (memorization.variants(self.distinct.off_centre(share), few=True) for share in beside)
        for variant in chain(memorization.variants(self.distinct.images), *off_centre):
            self.settings.check()
            for name, space in self.spaces.items():
                parts[name].append(space(variant))
        return parts

    def judge(self, generated: ImageSet) -> Result:
        """Every measure of `generated`; what a measure lacks is said in `skipped`, the others are made."""
        result = Result()
        if self.settings.has_cas:
            self._cas(generated, result)
        self._distances(generated, result)
        self._memorization(self._neighbours(generated.images), result)
        return result

    def floors(self) -> Result:
        """The training images in the place of generated ones; for memorization, the held-out images."""
        result = Result(right=self.real_right)
        if self.real_right is not None:
            result.figures["cas"] = of_share(self.real_right, self._rng("cas"))
        self._distances(self.train, result)
        self._memorization(self.unseen, result)
        return result

    def copies(self) -> Result:
        """The control that memorization must find: noisy copies of training images."""
        return self._control([memorization.noisy_copies(self.train.images, self._rng("copies"))])

    def augmented(self) -> Result:
        """The control that tells of a copied crop: the training images as 3B sees them by its default augmentation."""
        size = self.train.images.shape[1]
        augment = Augment("light", size, self.settings.seed, "control-augment")

        def part(start: int) -> np.ndarray:
            paths = enumerate(self.train.paths[start : start + memorization.AT_ONCE], start)
            return np.stack([augment(load_image(path, reading_size(size)), 1, i) for i, path in paths])

        return self._control(part(start) for start in range(0, len(self.train), memorization.AT_ONCE))

    def through_autoencoder(self) -> Result | None:
        """The control nearest to a real copy: what the autoencoder makes of the training images, some at a time."""
        vae, images, step = self.settings.vae, self.train.images, memorization.AT_ONCE
        if vae is None:
            return None
        return self._control(decoded(images[start : start + step], vae) for start in range(0, len(images), step))

    def _control(self, parts: Iterable[np.ndarray]) -> Result:
        """How many of these images count as copies; they are given a part at a time, uint8 [n, S, S, 3]."""
        result, found = Result(), [self._neighbours(part) for part in parts]
        self._memorization({name: memorization.joined([part[name] for part in found]) for name in self.spaces}, result)
        return result

    def _cas(self, generated: ImageSet, result: Result) -> None:
        label = generated.label
        if not generated.labelled:
            label = classifier.predict(self.real_nets[0], generated.images, self.settings.device)
        known = label >= 0
        missing = self.settings.num_classes - len(np.unique(label[known]))
        if missing:
            result.skipped.append(f"CAS sees only the classes that were generated: {missing} have no image.")
        if (~known).any():
            result.skipped.append(f"{int((~known).sum())} images of classes without real ones are left out of CAS.")
        images, label = generated.images[known], label[known]
        result.right = self._right(self._train_nets(images, label))
        result.figures["cas"] = of_share(result.right, self._rng("cas"))
        both = np.concatenate([images, self.train.images]), np.concatenate([label, self.train.label])
        together = self._right(self._train_nets(*both))
        result.figures["cas_both"] = of_share(together, self._rng("cas"))
        result.figures["cas_gain"] = of_difference(together - self.real_right, self._rng("cas"))

    def _train_nets(self, images: np.ndarray, label: np.ndarray) -> list:
        """One network for each of the seeds."""
        settings = self.settings
        return [
            classifier.train_classifier(
                images,
                label,
                settings.num_classes,
                settings.seed + number,
                settings.device,
                steps=settings.cas_steps,
                on_step=settings.on_step,
            )
            for number in range(settings.cas_seeds)
        ]

    def _right(self, nets: list) -> np.ndarray:
        named = [classifier.predict(net, self.held_out.images, self.settings.device) for net in nets]
        return np.mean([names == self.held_out.label for names in named], axis=0)

    def _distances(self, generated: ImageSet, result: Result) -> None:
        sizes = len(generated), len(self.train), len(self.held_out)
        if min(sizes) < FEWEST:
            result.skipped.append(
                f"Distances between sets need {FEWEST} images of each kind; "
                f"there are {sizes[0]}, {sizes[1]} to train and {sizes[2]} held out."
            )
            return
        # These measures depend on the size of a set: none is larger than the training set.
        order = self._rng("picked").permutation(len(generated))[: len(self.train)]
        images = generated.images[np.sort(order)]
        result.figures["swd"] = self._swd(images)
        if self.features is None:
            return
        found, real = self.features(images), self.held_out_features
        measures = {
            "kid": (distances.kid, (-np.inf, np.inf)),
            "fid": (distances.fid, (0, np.inf)),
            "precision": (lambda a, b: distances.precision_recall(a, b)[0], (0, 1)),
            "recall": (lambda a, b: distances.precision_recall(a, b)[1], (0, 1)),
            "density": (lambda a, b: distances.density_coverage(a, b)[0], (0, np.inf)),
            "coverage": (lambda a, b: distances.density_coverage(a, b)[1], (0, 1)),
        }
        if sizes[2] < FEWEST_FOR_DENSITY:
            result.skipped.append(
                f"Density and coverage need {FEWEST_FOR_DENSITY} held-out images, so that one has "
                f"{distances.NEIGHBOURS} neighbours in each half of them; there are {sizes[2]}."
            )
            del measures["density"], measures["coverage"]
        for name, (measure, bounds) in measures.items():
            self.settings.check()
            share = name not in PUBLISHED
            result.figures[name] = of_distance(measure, found, real, self._rng(name), bounds=bounds, share=share)

    def _swd(self, images: np.ndarray) -> Measured:
        patches, real = sliced_wasserstein.patches(images, self.settings.seed), self.held_out_patches

        def measure(first: np.ndarray, second: np.ndarray) -> float:
            self.settings.check()
            return sliced_wasserstein.sliced_wasserstein([level[first] for level in patches], [x[second] for x in real])

        everything = np.arange(len(images)), np.arange(len(self.held_out))
        return of_distance(measure, *everything, self._rng("swd"), rounds=10, bounds=(0, np.inf))

    def _neighbours(self, images: np.ndarray) -> dict[str, memorization.Neighbours]:
        """The nearest training images of each image, in each space."""
        found = {}
        for name, space in self.spaces.items():
            self.settings.check()
            found[name] = memorization.neighbours(space(images), self.references[name])
        return found

    def _memorization(self, neighbours: dict[str, memorization.Neighbours], result: Result) -> None:
        for name, found in neighbours.items():
            result.neighbours[name] = found
            result.figures[f"memorized_{name}"] = of_share(found.memorized, self._rng("memorized"))
            real = memorization.authentic(found, self.among_training[name])
            result.figures[f"authpct_{name}"] = of_share(real, self._rng("authentic"))
            result.figures[f"ct_{name}"] = memorization.data_copying(found, self.unseen[name], self._rng("ct"))

    def _rng(self, name: str) -> np.random.Generator:
        return numpy_rng(self.settings.seed, "quality", name)


def _inception(settings: Settings) -> tuple[torch.nn.Module | None, str]:
    """What KID and FID look at: Inception or, where it cannot be had, None for the CNN of the real images; its name."""
    wanted, reason = settings.features, ""
    if wanted != "cas":
        try:
            inside, source = inception.load(settings.inception_weights)
        except UserError as error:
            if wanted == "inception" or settings.inception_weights is not None:
                raise
            reason = f" ({str(error).splitlines()[0].rstrip('.')})"
        else:
            return inside, f"Inception, weights from {source}"
    if not settings.has_cas:
        return None, f"none, as there is only one class to train a CNN on{reason}"
    return None, f"the CNN trained on the real training images{reason}; not comparable with published figures"


def _features(
    settings: Settings, inside: torch.nn.Module | None, nets: list[classifier.SmallCNN]
) -> Callable[[np.ndarray], np.ndarray] | None:
    if inside is not None:
        return lambda images: inception.features(inside, images, settings.device.device)
    return (lambda images: classifier.features(nets[0], images, settings.device)) if nets else None


def _pixels(images: np.ndarray) -> np.ndarray:
    return resized(images, PIXEL_SPACE).reshape(len(images), -1)
