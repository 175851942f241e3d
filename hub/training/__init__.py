"""The parts of `train.py`: arguments, images, sampling, weights, trainer, calibration, report."""
