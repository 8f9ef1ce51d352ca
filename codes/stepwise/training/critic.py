"""A discriminator that trains beside an autoencoder and tells it where its pictures do not look like photos."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwise.foundation.devices import Device
from stepwise.losses import adversarial
from stepwise.models import discriminator, presets
from stepwise.training.distributed import World
from stepwise.training.learner import Learner

PEAK_LR = 2e-4
BETAS = (0.5, 0.9)
GROWS_OVER = 0.05  # share of the run in which the loss comes to its full weight


class Critic:
    """Acts from `start`, a share of the run, on; before that it neither learns nor is heard."""

    def __init__(self, device: Device, world: World, image_size: int, weight: float, start: float, grad_accum: int):
        config = presets.discriminator(image_size)
        net = discriminator.build(config)
        self.learner = Learner(
            net, config, device, lr=PEAK_LR, ema_decay=None, betas=BETAS, grad_accum=grad_accum, world=world
        )
        self.device, self.world, self.weight, self.start = device, world, weight, start

    def acts(self, progress: float) -> bool:
        return progress >= self.start

    def is_heard(self, progress: float) -> bool:
        """Whether it acts and has acted: from then on no distance to an image says which autoencoder is best."""
        return self.acts(progress) and self.learner.updates > 0

    def blame(self, loss: Tensor, x_hat: Tensor, last_layer: Tensor, progress: float) -> Tensor:
        """What to add to `loss` for the pictures x_hat, [B, 3, S, S]; `last_layer`: the weight that drew them."""
        net = self.learner.net.requires_grad_(False)
        with self.device.autocast():
            logits = net(x_hat)
        net.requires_grad_(True)
        looks = adversarial.generator_loss(logits)
        pulls = (self.world.mean(adversarial.pull(part, last_layer)) for part in (loss, looks))
        grown = min(1.0, (progress - self.start) / GROWS_OVER)
        return self.weight * grown * adversarial.adaptive_weight(*pulls) * looks

    def learn(self, x: Tensor, x_hat: Tensor, share: float) -> Tensor:
        """A step of the discriminator at this share of its learning rate; returns its loss."""
        self.learner.set_lr(share * PEAK_LR)
        with self.device.autocast():
            real, fake = self.learner.train_net(torch.cat([x, x_hat.detach().to(x.dtype)])).chunk(2)
        loss = adversarial.discriminator_loss(real, fake)
        self.learner.update(loss)
        return loss
