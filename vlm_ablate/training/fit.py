"""A Lightning Trainer without anything that costs time per step and that we do not use."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from vlm_ablate.config.stages import Stage
from vlm_ablate.training.checkpoint import AtomicCheckpoints
from vlm_ablate.training.interruption import StopRequested
from vlm_ablate.training.module import TrainingModule


def configure_threads() -> int:
    """One thread on a CPU unless OMP_NUM_THREADS says otherwise: runs that share cores collide at many times the cost.

    Returns:
        The number of threads, which belongs in the record of a run (sums round differently with another number).
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    return torch.get_num_threads()


def training_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def build_trainer(stage: Stage, callbacks: Sequence[Callback], folder: Path, **options: Any) -> pl.Trainer:
    """A Trainer that runs `stage.steps` optimiser steps, by default on one device, and does nothing else.

    Args:
        stage: steps and precision ("bf16" is autocast over fp32 parameters).
        callbacks: ours, called in this order.
        folder: Lightning's default folder; nothing is written there by itself.
        options: further Trainer arguments, e.g. `devices` and `strategy`; `environment`, where ranks meet.
    """
    environment = options.pop("environment", None) or LightningEnvironment()
    settings: dict[str, Any] = {
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
        "devices": 1,
        # Without this Lightning detects a Slurm job and asks for its idea of one; runs are placed by the launcher.
        "plugins": [environment, AtomicCheckpoints()],
    } | options
    return pl.Trainer(
        max_steps=stage.steps,
        max_epochs=-1,
        precision="bf16-mixed" if stage.precision == "bf16" else "32-true",
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_autolog_hparams=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **settings,
    )


def fit(trainer: pl.Trainer, module: TrainingModule, data: pl.LightningDataModule, resume: Path | None) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        StopRequested: SIGTERM came before training began, when Lightning alone heard it.
    """
    try:
        # Our checkpoints hold plain numbers and tensors only, so torch's safe loader reads them.
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except SIGTERMException as stop:
        raise StopRequested("stopped before the first step") from stop


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's notices (devices, tips, data loader workers) would break progress bars and tell nothing here."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
