"""Train, sample and measure diffusion models on corrupted variants, exactly resumable."""
