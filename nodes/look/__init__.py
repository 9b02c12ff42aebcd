"""Looking at clips: measured and side by side."""
