"""Search for an architecture and its training: EDNAS (encoder, decoder, depth, learning rate, batch size)."""
