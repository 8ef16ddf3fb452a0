"""From a list of items to files that are done once: work, records, locks, results and their page."""

from utils.jobs.allocator import keep_freed_memory
from utils.jobs.job import Item, is_short_memory, stack_together
from utils.jobs.launch import Launch, computes_natively, finish, start
from utils.jobs.noise import ImageNoise, item_noise
from utils.jobs.results import Finish, Part, Result, Writer, make_items
from utils.jobs.run import Method, Run, Sampler, Told, check
from utils.jobs.run_key import content_hash, run_settings

__all__ = [
    "Finish",
    "ImageNoise",
    "Item",
    "Launch",
    "Method",
    "Part",
    "Result",
    "Run",
    "Sampler",
    "Told",
    "Writer",
    "check",
    "computes_natively",
    "content_hash",
    "finish",
    "is_short_memory",
    "item_noise",
    "keep_freed_memory",
    "make_items",
    "run_settings",
    "stack_together",
    "start",
]
