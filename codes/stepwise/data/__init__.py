"""Reading image folders: listing, decoding, splits, augmentation, cached latents."""
