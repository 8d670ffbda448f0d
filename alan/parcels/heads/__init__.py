"""Token heads: networks that map each token of a locked backbone to parcel logits."""
