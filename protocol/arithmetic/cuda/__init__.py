"""Fused kernels for NVIDIA GPUs: docs/design/gpu.md."""
