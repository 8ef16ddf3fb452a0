"""DDIB: translate images between two classes, or two models, without paired training.

An image is encoded to noise along the ODE with class A and decoded with class B
(Su et al., ICLR 2023, arXiv:2203.08382). See docs/DDIB.md.
"""

import sys

from utils import command
from utils.running import Running
from utils.settings import Network, Translate

BASIC = (
    *("config", "weights", "input_dir", "save_dir", "class_A", "class_B", "weights_B"),
    *("solver", "respace_steps", "cycle", "guidance_scale", "micro_batch"),
)
EXAMPLE = (
    "python sample_ddib.py --weights demo/fruits64 --class_A lemon --class_B lime \\\n"
    "    --input_dir assets/fruits/lemon --save_dir out/limes --solver heun \\\n"
    "    --respace_steps 25"
)


def build_parser() -> command.StrictParser:
    """Return the command line."""
    return command.make_parser(__doc__, Translate, BASIC, command.TRANSLATE_MEANINGS, EXAMPLE)


def plan(network: Network, translate: Translate, running: Running) -> command.Plan:
    """Plan the run; raises ValueError where it cannot be done."""
    from utils.assemble import plan_translation  # torch: once the paths are good

    return plan_translation(network, translate, running)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return command.main(build_parser(), argv, Translate, plan)


if __name__ == "__main__":
    sys.exit(main())
