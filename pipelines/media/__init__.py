"""Decoding and encoding video; only this package uses PyAV and ffmpeg."""
