"""How strongly, and between which noise levels, samples are pulled towards their class unless told otherwise.

Guidance that acts at the middle noise levels only can be stronger (Kynkäänniemi et al. 2024). The choice
among four settings: benchmarks/quality.md.
"""

GUIDANCE = 3.0
INTERVAL = (0.3, 5.0)  # of sigma = sqrt((1 - alpha_bar) / alpha_bar)
