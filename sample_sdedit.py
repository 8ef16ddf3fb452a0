"""SDEdit: turn a guide image (strokes, a rough edit, a composite) into a realistic one.

The guide is noised part of the way and denoised (Meng et al., ICLR 2022, arXiv:2108.01073).
See docs/SDEdit.md.
"""

import sys

from utils import command
from utils.running import Running
from utils.settings import Edit, Network

BASIC = (
    *("config", "weights", "input_dir", "save_dir", "t0", "class_label", "mask_dir"),
    *("sampler", "respace_steps", "seed", "guidance_scale", "micro_batch"),
)
EXAMPLE = (
    "python sample_sdedit.py --weights demo/fruits64 --input_dir assets/strokes \\\n"
    "    --save_dir out/edits --t0 0.5 --sampler sde-dpm-solver++ --respace_steps 20"
)


def build_parser() -> command.StrictParser:
    """Return the command line."""
    return command.make_parser(__doc__, Edit, BASIC, command.EDIT_MEANINGS, EXAMPLE)


def plan(network: Network, edit: Edit, running: Running) -> command.Plan:
    """Plan the run; raises ValueError where it cannot be done."""
    from utils.assemble import plan_edit  # torch: once the paths are good

    return plan_edit(network, edit, running)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.main(build_parser(), argv, Edit, plan)


if __name__ == "__main__":
    sys.exit(main())
