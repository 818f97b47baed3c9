#!/bin/sh
# How fast our training step is on this machine's GPU, beside a plain eager loop: under eight minutes on one H100, no network.
#     benchmarks/gpu.sh [--out DIR] [--only NAME] [--limit SECONDS]
#     benchmarks/gpu.sh --smoke    # the same script on a CPU with tiny models
# Needs torch, diffusers, accelerate, pyarrow, safetensors, numpy, xxhash and pydantic; PYTHON names the interpreter that has them.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here:$here/train${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
    exec "${PYTHON:-python3}" "$here/benchmarks/gpu.py" "$@"
