"""Compare settings of sample_ddib.py on the demo: class reached, error from A to A, error there and back.

Each setting translates the pictures of all classes to all classes, as a user would; a classifier of its own
judges the results. A setting with 200 calls takes about 12 minutes on two cores, mostly for the ways back.
"""

from pathlib import Path

from tools.demo import judge, translations
from tools.parser import make_parser

SETTINGS = [
    "--respace_type uniform --inversion source",
    "--respace_type quad90 --inversion source",
    "--respace_type quad90",
    "--respace_type quad90 --inversion fixed_point",
    "--respace_type quad90 --respace_steps 50 --solver heun",
    "--respace_type quad90 --solver exact",
    "--respace_type quad90 --solver cycle-diffusion",
    "--respace_type quad90 --respace_steps 50 --solver heun --guidance_scale 2",
    "--respace_type quad90 --respace_steps 50 --solver heun --guidance_scale 3",
]


def main() -> None:
    """Train the judge, measure every setting, print the table."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("settings", nargs="*", default=SETTINGS, help="options of sample_ddib.py, a setting in quotes each")
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--input_dir", type=Path, default=Path("assets/fruits"), help="a folder of pictures for each class")
    add("--save_dir", type=Path, default=Path("out/compare_translations"), help="where pictures go")
    args = parser.parse_args()
    judged, names, _ = judge.make_judge(args.data)
    print("| setting | calls | seconds | class B | A to A: mean | largest | there and back: mean | largest |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for setting in args.settings:
        row = translations.measure(
            judged, names, setting.split(), args.input_dir, args.save_dir / setting.replace(" ", "_")
        )
        errors = " | ".join(f"{e.mean():.4f} | {e.max():.4f}" for e in (row.same, row.cycle))
        print(f"| `{setting}` | {row.calls} | {row.seconds:.2f} | {row.share:.1%} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
