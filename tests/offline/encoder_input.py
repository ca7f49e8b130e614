"""What an encoder is fed."""

from __future__ import annotations

import numpy as np
import torch


def pixels(encoder, *pictures) -> torch.Tensor:
    """PIL pictures of equal size as the encoder's normalised input."""
    x = torch.from_numpy(np.stack([np.asarray(p, np.float32) for p in pictures])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    return (x - mean) / std
