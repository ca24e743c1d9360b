"""Fused operators of the encoder: one signature, an implementation for each kind of device."""
