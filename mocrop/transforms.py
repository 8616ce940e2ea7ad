"""Transforms of torchvision v2, with the extra ``train``."""

from training.transforms import MotionCrop as MotionCrop

__all__ = ["MotionCrop"]
