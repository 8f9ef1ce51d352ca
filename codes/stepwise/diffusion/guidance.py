"""How strongly, and between which noise levels, samples are pulled towards their class unless told otherwise.

Guidance at all noise levels pays up to about 2 and then costs variety; acting in the middle only, it can
be stronger (Kynkäänniemi et al. 2024). Figures: benchmarks/quality.md.
"""

GUIDANCE = 3.0
INTERVAL = (0.3, 5.0)  # of sigma = sqrt((1 - alpha_bar) / alpha_bar)
