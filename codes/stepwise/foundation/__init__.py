"""What every other floor stands on: seeds, files, images, devices, run folders."""
