#!/usr/bin/env bash
# Measures half the rows of the attention, and `fit`, on a GPU, on each backend that is installed, in
# eight minutes at most; writes benchmarks/accelerator.md.
#
#     pip install -e ".[examples,jax,torch]" && bash benchmarks/accelerator.sh
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-accelerator.md}

# Else TensorFlow, which reads the batches on every backend, and JAX each take the whole memory.
export TF_FORCE_GPU_ALLOW_GROWTH=true XLA_PYTHON_CLIENT_PREALLOCATE=false
for backend in tensorflow jax torch; do
    if python -c "import $backend" 2> /dev/null; then
        KERAS_BACKEND=$backend timeout 160 python run.py --only attention fit --half --runs 12 --out "$out" ||
            echo "$backend: not finished" >&2
    fi
done
