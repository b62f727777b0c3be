#!/usr/bin/env bash
# A CI job that prepares a model artifact: convert, then hold the result to what was agreed. Any step that fails ends it.
#
#   examples/ci.sh [SOURCE] [OUTPUT]      QUANT: the command, `quant` unless said;  MAX_BPW: the bound, 6 unless said
#
# Exit codes: 1 a threshold was not met, 2 to 6 as in the README.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=${1:-$here/demo-qwen3}
output=${2:-build/ci/qwen3-mixed}
quant=${QUANT:-quant}

mkdir -p "$(dirname "$output")"

# --strict: a rule that matches nothing, or a fallback, is an error; --verify: the output is read back.
"$quant" convert "$source" "$output" --recipe "$here/recipe.toml" --strict --verify --force --json >"$output.convert.json"

# One inspection does both: it writes the JSON, and exits with 1 where a demand does not hold.
"$quant" inspect "$output" --json \
    --max-bpw "${MAX_BPW:-6}" \
    --max-size 3MB \
    --require '*.down_proj=affine8-g64' \
    --require 'model.embed_tokens=affine6-g64' \
    >"$output.inspect.json"

echo "$output meets every threshold" >&2
