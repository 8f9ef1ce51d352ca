#!/usr/bin/env bash
# The whole pipeline on built-in sample images (or on --data-dir FOLDER), about 10 minutes on 2 CPU cores.
set -euo pipefail
unset CDPATH
ROOT=$(cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/environment.sh"

usage() {
    cat <<'TEXT'
usage: ./demo.sh [--data-dir FOLDER] [--output-dir FOLDER] [--minutes M]
  --data-dir    your own images: one sub-folder a class, or files XXXX_YYYY.png (default: drawn by 1A)
  --output-dir  where everything is written (default: demo_output, or demo_output_NAME for your own images)
  --minutes     training time in all, split over the VAE and the diffusion model (default: 8)
Safe to run again: what is done is kept, what is half done is resumed.
TEXT
}

data="" output="" minutes=8
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --data-dir | --output-dir | --minutes)
            [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            [ -n "$2" ] || { echo "error: $1 is empty" >&2; exit 2; }
            case $1 in --data-dir) data=$2 ;; --output-dir) output=$2 ;; *) minutes=$2 ;; esac
            shift 2 ;;
        --data-dir=* | --output-dir=* | --minutes=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        *) echo "error: unknown argument $1" >&2; usage >&2; exit 2 ;;
    esac
done
case $minutes in
    *[!0-9.]* | *.*.* | . | "" | 0 | 0.0) echo "error: --minutes takes a number, found '$minutes'" >&2; exit 2 ;;
esac
share() { LC_ALL=C awk -v all="$minutes" -v part="$1" 'BEGIN { printf "%.4f", all * part }'; }
if [ -n "$data" ]; then
    [ -d "$data" ] || { echo "error: the folder $data does not exist" >&2; exit 2; }
    data=$(cd -- "$data" && pwd)
fi
# A folder of its own for each source and duration: a run is only ever continued as it was begun.
default=$ROOT/demo_output
if [ -n "$data" ]; then
    default+="_$(basename "$data")_$(printf %s "$data" | cksum | cut -d " " -f 1)"
fi
if [ "$minutes" != 8 ]; then
    default+="_$minutes-minutes"
fi
output=${output:-$default}
mkdir -p -- "$output"
output=$(cd -- "$output" && pwd)
started="$minutes minutes, images: ${data:-drawn by 1A}"
if [ -f "$output/demo.txt" ] && [ "$(cat "$output/demo.txt")" != "$started" ]; then
    echo "error: $output was begun with $(cat "$output/demo.txt"), not $started." >&2
    echo "Repeat that, or give another --output-dir." >&2
    exit 2
fi
printf '%s\n' "$started" >"$output/demo.txt"

choose_python "$ROOT/requirements.txt"
step() { # step TITLE SCRIPT FLAGS...
    echo
    echo "== $1"
    "$PYTHON" "$ROOT/codes/$2" --base-dir "$output" "${@:3}"
}

if [ -z "$data" ]; then
    data=$output/data/corel
    if [ ! -f "$data/classes.txt" ]; then # written last
        step "1A: draw the sample images" 1A-make-sample-dataset.py
    fi
fi
step "2A: prepare them" 2A-prepare_corel_dataset.py --data-dir "$data"
classes=()
if [ "$(find "$output/training_data/corel" -maxdepth 1 -type d -name 'class_*' | wc -l)" -gt 1 ]; then
    classes=(--class-conditional)
fi
step "3A: train the autoencoder" 3A-train-vae-corel.py --config "$ROOT/codes/configs/demo-vae.yaml" \
    --max-minutes "$(share 0.4)" --resume auto
step "3B: train the diffusion model" 3B-train-diffusion-from-scratch-corel.py \
    --config "$ROOT/codes/configs/demo-diffusion.yaml" ${classes[@]+"${classes[@]}"} \
    --max-minutes "$(share 0.6)" --resume auto
step "3C: generate" 3C-generate-samples-corel.py \
    --vae-checkpoint vae_models/best_model.pt --diffusion-checkpoint diffusion_models/best_model.pt \
    --sampler dpmpp --nrow 8 --seed 1 --output generated_images/
echo
echo "Done. The picture grid: $output/generated_images/generated_images.png"
