"""What a clip shows, measured: optical flow and numbers made of it."""
