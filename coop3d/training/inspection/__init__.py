"""What the picture scripts show: one sample, the frames of a scenario, or files of one's own."""
