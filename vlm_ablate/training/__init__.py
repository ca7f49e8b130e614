"""Training: one LightningModule, stages in order, resumable to the bit."""
