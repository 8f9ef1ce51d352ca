"""The measures of the report: their names, directions and one-sentence meanings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwise.evaluation.intervals import Measured


@dataclass(frozen=True)
class Measure:
    """`better`: 1 if higher is better, -1 if lower, 0 if neither. `form` is a format for one number."""

    title: str
    meaning: str
    better: int
    form: str

    @property
    def arrow(self) -> str:
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def text(self, measured: Measured) -> str:
        return self.form.format(measured.value)

    def interval(self, measured: Measured) -> str:
        if measured.low == measured.high == measured.value:
            return ""
        return f"{self.form.format(measured.low)} to {self.form.format(measured.high)}"

    def with_interval(self, measured: Measured) -> str:
        """Value and, where there is one, interval in brackets."""
        interval = self.interval(measured)
        return self.text(measured) + (f" ({interval})" if interval else "")


def _memorization(space: str, where: str) -> dict[str, Measure]:
    return {
        f"memorized_{space}": Measure(
            f"memorized, {space}",
            "Share of generated images that lie less than a third as far from the nearest training image as from "
            f"the second nearest (d1/d2 < 1/3; Yoon et al. 2023), {where}; "
            "mirrored, shifted and cropped copies of training images count as well.",
            -1,
            "{:.1%}",
        ),
        f"authpct_{space}": Measure(
            f"AuthPct, {space}",
            "Share of generated images that are no nearer to their nearest training image than that image is to "
            f"another training image (Alaa et al. 2022), {where}.",
            1,
            "{:.0%}",
        ),
        f"ct_{space}": Measure(
            f"C_T, {space}",
            "z-score of a rank test (Mann-Whitney; Meehan et al. 2020, one cell) of whether generated images lie as "
            f"far from the training images as unseen real ones do, {where}; below -3: nearer, copying; far above 0: "
            "further, unlike the data. It says how certain that is, not how much nearer they are: for the same "
            "difference it grows with the square root of the number of images, so compare sets of one size by it.",
            0,
            "{:+.1f}",
        ),
    }


MEASURES = {  # by the keys of metrics.json and metrics.csv
    "cas": Measure(
        "CAS",
        "Classification accuracy score: share of held-out real photos that a small CNN names right after it was "
        "trained on the generated images only (Ravuri and Vinyals 2019), mean over several trainings.",
        1,
        "{:.1%}",
    ),
    "cas_both": Measure(
        "CAS, real too", "The same with the CNN trained on the real training and the generated images.", 1, "{:.1%}"
    ),
    "cas_gain": Measure(
        "gain",
        "What adding the generated images to the real ones gains over the real ones alone, in percentage points.",
        1,
        "{:+.1%}",
    ),
    "kid": Measure(
        "KID",
        "Kernel distance between the features of generated and held-out images (Bińkowski et al. 2018): unbiased, "
        "so 0 on average for images of the same distribution, whatever their number. Images that lie in both sets push "
        "it below 0: those of a set that copies the held-out ones, or training images that are held out too.",
        -1,
        "{:.4f}",
    ),
    "fid": Measure(
        "FID",
        "Fréchet distance between the same features (Heusel et al. 2017); it grows as the sets shrink.",
        -1,
        "{:.1f}",
    ),
    "precision": Measure(
        "precision",
        "Share of generated images that lie among the held-out real ones (Kynkäänniemi et al. 2019, k = 3).",
        1,
        "{:.2f}",
    ),
    "recall": Measure(
        "recall", "Share of held-out real images that lie among the generated ones (as precision).", 1, "{:.2f}"
    ),
    "density": Measure(
        "density",
        "How many neighbourhoods of held-out images a generated image lies in, over k = 5 (Naeem et al. 2020).",
        1,
        "{:.2f}",
    ),
    "coverage": Measure(
        "coverage",
        "Share of the neighbourhoods of held-out images with a generated image in them (Naeem et al. 2020).",
        1,
        "{:.2f}",
    ),
    "swd": Measure(
        "SWD",
        "Sliced Wasserstein distance between 7 x 7 patches of generated and held-out images, mean over the levels of "
        "a Laplacian pyramid, times 1000 (Karras et al. 2018): texture and colour, whatever the image shows.",
        -1,
        "{:.0f}",
    ),
    **_memorization("pixel", "between images of 32 px"),
    **_memorization("latent", "between the means of the autoencoder's latents"),
    "psnr": Measure("PSNR", "Peak signal-to-noise ratio of reconstructed held-out images, in dB.", 1, "{:.2f}"),
    "ssim": Measure("SSIM", "Structural similarity of reconstructed held-out images (Wang et al. 2004).", 1, "{:.3f}"),
    "lpips": Measure(
        "LPIPS", "Perceptual distance of reconstructed held-out images with VGG16 (Zhang et al. 2018).", -1, "{:.3f}"
    ),
}
ON_FEATURES = ("kid", "fid", "precision", "recall", "density", "coverage")
PUBLISHED = ("kid", "fid")  # known on the features of Inception
IN_TABLE = ("cas", "cas_both", "cas_gain", "kid", "fid", "precision", "recall", "density", "coverage", "swd")
MEMORIZATION = tuple(key for key in MEASURES if key.endswith(("_pixel", "_latent")))


def titled(cnn_features: bool) -> dict[str, Measure]:
    """MEASURES; where the features are not Inception's, KID and FID say so: published figures are others."""
    if not cnn_features:
        return MEASURES
    return MEASURES | {key: replace(MEASURES[key], title=f"{MEASURES[key].title} (CNN features)") for key in PUBLISHED}
