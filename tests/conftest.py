"""Settings of every test."""

import torch

# Sums depend in their last bits on the number of threads; tests that compare bits need it fixed, and two test
# processes on two cores are fastest with one thread each.
torch.set_num_threads(1)
