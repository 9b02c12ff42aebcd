"""Motion modules, MotionLoRAs and domain adapters on a MODEL."""
