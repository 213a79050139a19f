"""A real pretrained Vision Transformer to measure recipes on: DINOv2 ViT-S/14, with tasks that need no download of data."""
