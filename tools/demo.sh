#!/usr/bin/env bash
# Set up a fresh machine and run both commands on the demo weights: strokes to fruit, fruit to fruit.
set -euo pipefail
source "$(dirname "$0")/setup.sh" requirements.txt
launch=(.venv/bin/accelerate-launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no)
model=(-c configs/demo/fruits64.yaml --weights weights/fruits64.safetensors --comparison)

echo "SDEdit: stroke paintings to fruit"
"${launch[@]}" sample_sdedit.py "${model[@]}" --input_dir assets/strokes --save_dir out/sdedit \
    --class_label assets/strokes.csv --guidance_scale 3 --t0 0.6

echo "DDIB: lemons to limes"
"${launch[@]}" sample_ddib.py "${model[@]}" --input_dir assets/fruits/lemon --save_dir out/ddib/lemon-to-lime \
    --class_A lemon --class_B lime

echo "Look at out/sdedit and out/ddib; the folders 'comparison' in them show input, noise and result side by side."
