#!/usr/bin/env bash
# The tables of README on a GPU: `edgespec bench` and peers for the 1B and 8B shapes, in under nine minutes once built.
#
# usage: benchmarks/gpu.sh [build|bench|all]     SHAPES="1b:f16 1b:q4_0 8b:q4_0" by default
# With .gpu/ (made by `make pack-gpu` where there is a network) nothing is fetched: the runtime and llama-server are built
# from its sources for the GPU here, and its wheels are used. Without it `make setup-dev llama-server` does both.
# Results go to benchmarks/results/, and to $OUT where that is set.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
shapes=${SHAPES:-1b:f16 1b:q4_0 8b:q4_0}
models=${MODELS:-/tmp/edgespec-models}
place=${GPU_BUILD:-/tmp/edgespec-gpu}
cuda_args=${CUDA_ARGS:--DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native -DGGML_NATIVE=OFF}

packed() { [ -e .gpu/sources.tar.xz ]; }

build() {
    if ! packed; then
        make setup-dev llama-server
        return
    fi
    if [ ! -x "$place/build/bin/llama-server" ]; then
        rm -rf "$place/src" && mkdir -p "$place/src"
        tar xJf .gpu/sources.tar.xz -C "$place/src"
        # shellcheck disable=SC2086
        cmake -S "$place/src/vendor/llama.cpp" -B "$place/build" -DCMAKE_BUILD_TYPE=Release $cuda_args \
            -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
            -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF
        cmake --build "$place/build" -j"$(nproc)" --target llama-server
    fi
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$place/site" .gpu/wheels/*.whl
}

bench() {
    local python=.venv/bin/python server=()
    if packed; then
        python=python3
        # llama-cpp-python is pure ctypes: its Python files serve any build of the library.
        export PYTHONPATH="$PWD:$place/site:$place/src" LLAMA_CPP_LIB_PATH="$place/build/bin"
        server=(--server "$place/build/bin/llama-server")
    fi
    mkdir -p "$models" benchmarks/results
    local shape type name file status=0
    for pair in $shapes; do
        shape=${pair%:*} type=${pair#*:} name=$shape-$type-gpu file=$models/$shape-$type.gguf
        [ -e "$file" ] || "$python" benchmarks/expand.py edgespec/demo/demo.gguf --shape "$shape" --type "$type" -o "$file"
        "$python" benchmarks/bench_record.py "$name" -m "$file" -d demo-draft \
            --methods plain,chain,tree,tree@16,tree@32 --prompts benchmarks/data/prompts_dev.jsonl --limit 14 \
            --max-tokens 64 || status=1 # a prompt that failed is in the result
        "$python" benchmarks/peers.py "$file" --name "$name" "${server[@]}" \
            --screen-prompts 3 --screen-tokens 32 --prompts 8 --tokens 64 || status=1
        [ -z "${OUT:-}" ] || cp "benchmarks/results/bench-$name.json" "benchmarks/results/peers-$name.json" "$OUT"/
    done
    return "$status"
}

case $what in
build) build ;;
bench) bench ;;
all) build && bench ;;
*) echo "gpu.sh: $what is neither build, bench nor all" >&2 && exit 2 ;;
esac
