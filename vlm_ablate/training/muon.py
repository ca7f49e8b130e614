"""Muon for hidden matrices and AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim import AdamW, Optimizer


class MuonAdamW(Optimizer):
    """torch's Muon and AdamW under one roof, so that a step, a schedule and a checkpoint see a single optimiser.

    Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal one, so that the learning rate
    is the spectral norm of a step (times the root of rows over columns where there are more rows).

    Groups with `"muon": True` hold matrices only; the others go to AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], fused: bool) -> None:
        muon = [g for g in groups if g["muon"]]
        rest = [g for g in groups if not g["muon"]]
        self._parts: list[Optimizer] = []
        if muon:
            self._parts.append(torch.optim.Muon(muon, adjust_lr_fn="original"))
        if rest:
            self._parts.append(AdamW(rest, betas=betas, fused=fused))
        super().__init__(groups, {})
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if getattr(self, "_parts", None):
            self._share()

    def _share(self) -> None:
        """Both parts work on the groups and the state of the whole."""
        if not isinstance(self.state, defaultdict):
            self.state = defaultdict(dict, self.state)
        for part in self._parts:
            muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [g for g in self.param_groups if g["muon"] is muon]
            part.state = self.state
