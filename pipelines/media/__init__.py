"""Decoding and encoding video: the only room that meets PyAV and ffmpeg."""
