"""From a folder of diffusers that makes pictures from text to its parts, and what they say of themselves."""

from utils.pipelines.folder import INDEX, PipelineConfig, find_files, is_pipeline, read_config
from utils.pipelines.parts import load_part
from utils.pipelines.tokens import BytePairs, Tokenizer

__all__ = [
    "INDEX",
    "BytePairs",
    "PipelineConfig",
    "Tokenizer",
    "find_files",
    "is_pipeline",
    "load_part",
    "read_config",
]
