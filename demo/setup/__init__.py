"""What `run.py` has ready before a command runs: `.venv`, ComfyUI, and a base directory that links the pack.

Standard library only, on any system: nothing is installed yet when this runs.
Why stamps and probes: a step counts as done only if its stamp says with what it finished AND a real look
(imports, files on disk) agrees. Anything else is done again, so an interrupted run needs no cleaning up.
"""
