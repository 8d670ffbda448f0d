"""The DINO backbone: the network, its training, its locked form."""
