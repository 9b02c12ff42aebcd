"""What steers a clip beside text: references, poses, sparse key frames. Pure torch."""
