"""Files of motion modules and LoRAs: recognised, read, checked and written."""
