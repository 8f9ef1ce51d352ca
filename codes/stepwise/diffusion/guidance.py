"""How strongly samples are guided, away from what, and between which noise levels, unless told otherwise.

By the label: away from what the network says without it (classifier-free guidance, Ho and Salimans 2022). By the
guide: away from what a worse network says (autoguidance, Karras et al. 2024), here the same one early in its
training. Both at the middle noise levels only, where it costs the least variety (Kynkäänniemi et al. 2024): above
them, where the composition is drawn, the guide made classes alike in one training of three. benchmarks/quality.md.
"""

GUIDANCE = 3.0
INTERVAL = (0.3, 2.0)  # of sigma = sqrt((1 - alpha_bar) / alpha_bar)
GUIDE_AT = 0.1  # share of a run of 3B after which its weights are kept as the guide
