"""Hardness weighted sampling on 3D MRI, by nnU-Net: `python -m segmentation.study`."""
