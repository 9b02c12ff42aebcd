"""What a training run is told: a TOML file, `key=value` overrides, and nothing else.

Every setting is a field of a frozen dataclass with its meaning below it. Unknown keys and impossible values
are refused with the allowed ones named, because a typing error in a setting costs a night.
"""

from .data import DIRECTIONS, CacheConfig, CameraConfig, DataConfig, SourceConfig
from .loop import (
    CheckpointConfig,
    ExportConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    ValidationConfig,
)
from .model import BaseConfig, LoraConfig, MotionConfig
from .override import overlay, override
from .read import from_dict, load, to_dict
from .run import RunConfig, Stage

__all__ = [
    "BaseConfig",
    "CacheConfig",
    "CameraConfig",
    "CheckpointConfig",
    "DIRECTIONS",
    "DataConfig",
    "ExportConfig",
    "LoraConfig",
    "MotionConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RunConfig",
    "SampleConfig",
    "SourceConfig",
    "Stage",
    "TrainConfig",
    "ValidationConfig",
    "from_dict",
    "load",
    "overlay",
    "override",
    "to_dict",
]
