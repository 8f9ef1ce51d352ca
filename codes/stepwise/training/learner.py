"""One trained network with its optimizer, precision, clipping, accumulation and EMA."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.models.blocks import Dropout
from stepwise.training.distributed import ALONE, World
from stepwise.training.muon import Muon, matrices_of

MAX_BAD_STEPS = 10
LOOK_EVERY = 10  # steps between two looks at whether a GPU's steps were fine: each look waits for the GPU


class Learner:
    """Owns everything that a gradient step changes, and saves and restores all of it.

    `net` is trained, and called as `train_net`, which may be compiled and shares its gradients with
    the other processes of `world`. `ema_net` is its exponential moving average (or None), the one to
    validate and sample with. With `muon` its matrices are stepped by Muon (without weight decay), all else by AdamW.
    A step whose loss or gradient is not finite changes nothing.
    """

    def __init__(
        self,
        net: nn.Module,
        config: dict[str, Any],
        device: Device,
        *,
        lr: float,
        ema_decay: float | None,
        grad_clip: float = 1.0,
        grad_accum: int = 1,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        muon: bool = False,
        compile: bool = False,
        world: World = ALONE,
    ):
        memory = torch.channels_last if device.channels_last else torch.contiguous_format
        self.net = net.to(device.device, memory_format=memory)
        self.train_net = _trainable(self.net, device, compile, world)
        self.config = config
        self.device = device
        self.ema_decay = ema_decay
        self.ema_net = copy.deepcopy(self.net).eval().requires_grad_(False) if ema_decay else None
        self.grad_clip = grad_clip
        self.grad_accum = grad_accum
        matrices = matrices_of(self.net) if muon else []
        apart = {id(weight) for weight in matrices}
        others = [weight for weight in self.net.parameters() if id(weight) not in apart]
        self.optimizer = torch.optim.AdamW(
            others, lr=lr, betas=betas, weight_decay=weight_decay, fused=device.type != "mps"
        )
        self.muon = Muon(matrices, lr) if matrices else None
        self._optimizers = [self.optimizer, *([self.muon] if matrices else [])]
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.needs_scaler)
        # fused AdamW reads a flag on the device and leaves the weights alone; otherwise the CPU must look and decide
        self.looks_always = device.type != "cuda" or device.needs_scaler
        self.updates = 0
        self._bad = torch.zeros((), device=device.device)  # steps in a row that were not finite
        self._spoiled = torch.zeros((), device=device.device)  # above 0: a loss of this accumulation was not finite
        self._world = world
        self._waiting = 0

    @property
    def best_net(self) -> nn.Module:
        """The network to validate and sample with, in eval mode: the EMA where there is one."""
        return self.net.eval() if self.ema_net is None else self.ema_net

    def set_lr(self, lr: float) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def update(self, loss: Tensor) -> None:
        """Backward, and every `grad_accum` calls a step.

        Raises UserError after MAX_BAD_STEPS bad steps in a row (on a GPU, a few steps later).
        """
        self._spoiled = self._spoiled + (~torch.isfinite(loss.detach())).float()
        self.scaler.scale(loss / self.grad_accum).backward()
        self._waiting += 1
        if self._waiting < self.grad_accum:
            return
        self._step()
        self.net.zero_grad(set_to_none=True)
        self._waiting = 0

    def _step(self) -> None:
        for optimizer in self._optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.grad_clip)
        # both are looked at: an infinite absolute error has a finite gradient, a finite loss may have an infinite one
        bad = ((self._world.mean(self._spoiled) > 0) | ~torch.isfinite(norm)).float()
        self._spoiled = torch.zeros_like(self._spoiled)
        self._bad = (self._bad + 1) * bad
        if self.looks_always:
            fine = not bool(bad)
            if fine:
                for optimizer in self._optimizers:
                    self.scaler.step(optimizer)
            self.scaler.update()
        else:
            fine = True
            for optimizer in self._optimizers:
                optimizer.found_inf = bad
                optimizer.step()
        if fine:
            self.updates += 1
            self._average(1 - bad)
        if self.looks_always or self.updates % LOOK_EVERY == 0:
            self._stop_if_all_bad()

    def _stop_if_all_bad(self) -> None:
        bad_steps = int(self._bad)
        if bad_steps >= MAX_BAD_STEPS:
            raise UserError(
                f"The loss or its gradient was not finite in {bad_steps} steps in a row; no bad step was saved.\n"
                "Lower the learning rate (a tenth of it), try --no-mixed-precision where there is that flag,\n"
                "check the images with 2A, and run again with --resume auto."
            )

    @torch.no_grad()
    def _average(self, fine: Tensor) -> None:
        """EMA with warm-up: the decay grows as (1 + n) / (10 + n) until it reaches `ema_decay`.

        `fine`: 1, or 0 after a step that is not to count.
        """
        if self.ema_net is None:
            return
        decay = min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = list(self.ema_net.parameters()), list(self.net.parameters())
        if self.looks_always:
            torch._foreach_lerp_(averages, weights, 1 - decay)
            return
        changes = torch._foreach_sub(weights, averages)  # a lerp by a tensor would be one kernel a parameter
        torch._foreach_mul_(changes, fine * (1 - decay))
        torch._foreach_add_(averages, changes)

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint, gradients of a half-done accumulation included."""
        gradients = {name: p.grad.clone() for name, p in self.net.named_parameters() if p.grad is not None}
        return {
            "config": self.config,
            "weights": dict(self.net.state_dict()),
            "ema": None if self.ema_net is None else dict(self.ema_net.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "muon": None if self.muon is None else self.muon.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": gradients if self._waiting else {},
            "counters": [self.updates, int(self._bad), self._waiting, int(self._spoiled > 0)],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave. Raises UserError when the architecture differs."""
        if state["config"] != self.config:
            raise UserError(_difference("network", state["config"], self.config))
        if (state["ema"] is None) != (self.ema_net is None):
            raise UserError(
                "The checkpoint and this run differ in whether an EMA is kept.\nResume with the same flags."
            )
        if (state.get("muon") is None) != (self.muon is None):
            raise UserError(
                "The checkpoint and this run differ in their optimizer.\n"
                "Resume with --optimizer adamw, or start a new run in another --output-dir."
            )
        self.net.load_state_dict(state["weights"])
        if self.ema_net is not None:
            self.ema_net.load_state_dict(state["ema"])
        fused = {"fused": self.optimizer.defaults["fused"]}  # of this device, not of the one that saved it
        groups = [{**group, **fused} for group in state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        for parameter, moments in (pair for optimizer in self._optimizers for pair in optimizer.state.items()):
            for name, moment in moments.items():
                if moment.shape == parameter.shape:  # fused steps go through memory as it lies, and so must all
                    moments[name] = torch.empty_like(parameter).copy_(moment)
        if state["scaler"]:  # empty where the checkpoint comes from a device without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        for name, parameter in self.net.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else torch.empty_like(parameter).copy_(gradient)
        self.updates, bad_steps, self._waiting, spoiled = state["counters"]
        self._bad.fill_(bad_steps)
        self._spoiled.fill_(spoiled)

    def best_weights(self, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A copy, on the CPU, of the weights to sample with; `into`: an earlier copy, which is overwritten."""
        net = self.net if self.ema_net is None else self.ema_net  # not best_net: that ends the training mode
        weights = {name: tensor.detach() for name, tensor in net.state_dict().items()}
        if into is None:
            into = {name: torch.empty_like(tensor, device="cpu") for name, tensor in weights.items()}
        for name, tensor in weights.items():
            into[name].copy_(tensor)
        return into


def _trainable(net: nn.Module, device: Device, compile: bool, world: World) -> nn.Module:
    """`net` as training calls it. Wrappers share its parameters and stay out of its state dict."""
    trainable = net
    if world.size > 1:
        for module in net.modules():
            if isinstance(module, Dropout):
                module.part, module.parts = world.rank, world.size
        places = [device.device] if device.type == "cuda" else None
        trainable = nn.parallel.DistributedDataParallel(net, device_ids=places)
    # Dropout draws as it does uncompiled; inductor's own generator would make the run another one.
    return torch.compile(trainable, options={"fallback_random": True}) if compile else trainable


def _difference(what: str, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    differ = ", ".join(f"{key}: {found.get(key)} in the checkpoint, {wanted.get(key)} asked for" for key in keys)
    return (
        f"The checkpoint's {what} differs ({differ}).\nResume with the flags it was made with, or start a new folder "
        "(an earlier version may have built it otherwise)."
    )
