"""Motion modules and MotionLoRAs as files and numbers: blended, merged, extracted, looked into, saved."""
