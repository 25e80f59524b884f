"""The two networks and what they are built from: images, voxels, sparse convolution, text-dot heads."""
