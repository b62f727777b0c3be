#!/usr/bin/env bash
# A CI job that prepares a model: convert it, then check the result. The first step that fails ends the job.
#
#   examples/ci.sh [SOURCE] [OUTPUT]
#
# Variables: QUANT, the command (default: quant); MAX_BPW, the largest number of bits per weight (default: 6).
# Exit codes: 1 if a threshold is not met, 2 to 6 as in the README.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=${1:-$here/demo-qwen3}
output=${2:-build/ci/qwen3-mixed}
quant=${QUANT:-quant}

mkdir -p "$(dirname "$output")"

# --strict: a rule that matches nothing, or a fallback, is an error. --verify: the output is read back and checked.
"$quant" convert "$source" "$output" --recipe "$here/recipe.toml" --strict --verify --force --json >"$output.convert.json"

# One command does both: it writes the JSON, and exits with 1 if a threshold is not met.
"$quant" inspect "$output" --json \
    --max-bpw "${MAX_BPW:-6}" \
    --max-size 3MB \
    --require '*.down_proj=affine8-g64' \
    --require 'model.embed_tokens=affine6-g64' \
    >"$output.inspect.json"

echo "$output meets every threshold" >&2
