#!/usr/bin/env bash
# The tables of README on a GPU: peers, `edgespec bench` and what passes cost there, for the 1B and 8B shapes.
#
# usage: benchmarks/gpu.sh [build|bench|all]     PEERS="8b:q4_0 1b:f16 1b:q4_0" by default, the most telling one first;
#                                                PASSES and BENCH likewise, "" for none
#        benchmarks/gpu.sh run COMMAND...        with the variables that make Python use this build
# With .gpu/ (made by `make pack-gpu` where there is a network) nothing is fetched: ggml is built from its sources for the
# GPU here, what else the runtime and llama-server consist of came along or is built too, and its wheels are used.
# Without it `make setup-dev llama-server` does both.
# SLIM=1 builds without kernels that these models never run (tools/slim_cuda.py). END=N ends at that second of the epoch;
# whatever is finished by then stays; with ENOUGH=N nothing is begun in the last N seconds.
# Results go to benchmarks/results/, and packed to $OUT where that is set.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
peers=${PEERS-8b:q4_0 1b:f16 1b:q4_0}
passes=${PASSES-$peers}
benches=${BENCH-$peers}
models=${MODELS:-/tmp/edgespec-models}
place=${GPU_BUILD:-/tmp/edgespec-gpu}
bin=$place/bin
# The fixed settings of each side: as many of ours as of theirs, and the identical chains among them.
ours=${OURS:-auto,chain@4,chain@6,tree@4,tree@6}
theirs=${THEIRS:-draft 2,draft 3,draft 5,draft 8}

packed() { [ -e .gpu/sources.tar.xz ]; }
say() { echo "gpu.sh: ${SECONDS} s: $*" >&2; }
left() { echo $((${END:-9999999999} - $(date +%s))); }
file_of() { echo "$models/${1%:*}-${1#*:}.gguf"; }
name_of() { echo "${1%:*}-${1#*:}-gpu"; }
unpack() { tar xJf "$1" -C "$2" 2>/dev/null || python3 -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='tar')" "$1" "$2"; }

toolkit() { dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")"; }

# Folders with libraries of CUDA: the toolkit's, or those of Python packages.
cuda_libraries() {
    local site
    site=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    for folder in "$(toolkit)"/lib64 "$(toolkit)"/targets/*/lib "$site"/nvidia/cu*/lib "$site"/nvidia/{cublas,cuda_runtime}/lib; do
        [ ! -d "$folder" ] || printf '%s:' "$folder"
    done
}

environment() {
    export PATH="$PATH:/usr/local/cuda/bin"
    # llama-cpp-python is pure ctypes: its Python files serve any build of the library.
    export PYTHONPATH="$PWD:$place/site:$place/src" LLAMA_CPP_LIB_PATH="$bin" PYTHONUNBUFFERED=1
    export EDGESPEC_CACHE_DIR="$place/cache" LD_LIBRARY_PATH="$bin:$(cuda_libraries)${LD_LIBRARY_PATH:-}"
}

# The models that are not there yet, by so many processes.
expand() {
    local python=$1 pair
    mkdir -p "$models"
    for pair in $(printf '%s\n' $passes $peers $benches | awk '!seen[$0]++'); do
        [ -e "$(file_of "$pair")" ] || "$python" benchmarks/expand.py edgespec/demo/demo.gguf --shape "${pair%:*}" \
            --type "${pair#*:}" --alike --jobs "$2" -o "$(file_of "$pair")"
    done
}

build() {
    if ! packed; then
        make setup-dev llama-server
        return
    fi
    mkdir -p "$models" "$bin"
    environment
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$place/site" .gpu/wheels/*.whl
    if [ ! -d "$place/src" ]; then
        mkdir -p "$place/unpacked"
        unpack .gpu/sources.tar.xz "$place/unpacked"
        [ "${SLIM:-0}" = 0 ] || python3 tools/slim_cuda.py "$place/unpacked/vendor/llama.cpp"
        mv "$place/unpacked" "$place/src"
    fi
    expand python3 "${JOBS:-6}" >"$place/expand.log" 2>&1 &
    local expanding=$!
    [ -e "$bin/libggml-cuda.so" ] || compile
    say "built; waiting for models"
    wait "$expanding" || { cat "$place/expand.log" >&2; return 1; }
    say "expanded: $(ls -s --block-size=M "$models" | tr '\n' ' ')"
}

compile() {
    local target=llama-server arguments=() cublas
    [ ! -e .gpu/host.tar.xz ] || unpack .gpu/host.tar.xz "$bin"
    if [ -e .gpu/ggml.tar.gz ]; then # libggml*.so*, built for such a GPU before
        tar xzf .gpu/ggml.tar.gz -C "$bin"
        return
    fi
    # What was built elsewhere is taken if it runs here: it meets the GPU through ggml alone.
    if [ -x "$bin/llama-server" ] && "$bin/llama-server" --version >/dev/null 2>&1; then target=ggml; fi
    ! command -v ninja >/dev/null || arguments+=(-G Ninja)
    if ! compgen -G "$(toolkit)/include/cublas_v2.h" >/dev/null && ! compgen -G "$(toolkit)/targets/*/include/cublas_v2.h" >/dev/null; then
        cublas=$(cuda_libraries | tr ':' '\n' | while read -r folder; do compgen -G "$folder/libcublas.so*" || true; done | head -1 || true)
        [ -z "$cublas" ] || arguments+=("-DCUDA_cublas_LIBRARY=$cublas")
        export CPATH="${cublas%/lib/*}/include${CPATH:+:$CPATH}"
    fi
    CUDACXX=$(command -v nvcc)
    export CUDACXX
    say "building $target: $(nvcc --version | tail -1) ${arguments[*]}"
    # The driver's own library need not lie where the linker looks, hence --allow-shlib-undefined.
    # shellcheck disable=SC2086
    cmake -S "$place/src/vendor/llama.cpp" -B "$place/build" "${arguments[@]}" -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=ON -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DGGML_NATIVE=OFF \
        ${CUDA_ARGS:--DCMAKE_CUDA_ARCHITECTURES=native} -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF >"$place/configure.log" 2>&1 || { tail -40 "$place/configure.log" >&2; return 1; }
    timeout "$(left)" cmake --build "$place/build" -j"$(nproc)" --target "$target" >"$place/build.log" 2>&1 || {
        say "the build ended with $?"
        grep -E -m 20 -A 8 'error|FAILED' "$place/build.log" >&2 || true
        tail -5 "$place/build.log" >&2
        return 1
    }
    cp -a "$place/build/bin/." "$bin/"
}

# Whether the first model's plan uses the GPU and it answers; else nothing would be worth measuring.
answers() {
    local file
    file=$(printf '%s\n' $passes $peers $benches | head -1)
    file=$(file_of "$file")
    timeout 120 "$1" -m edgespec.cli probe -m "$file" -d demo-draft --json >"$place/probe.json" || return 1
    if packed && ! grep -Eq '"CUDA[0-9]+": [1-9]' "$place/probe.json"; then
        say "the plan uses no GPU"
        cut -c -6000 "$place/probe.json" >&2
        return 1
    fi
    timeout 120 "$1" -m edgespec.cli run -m "$file" -d demo-draft -p 'Why is the sky blue?' --max-tokens 48 --json >&2
}

# A command, until the end at most; a failure is told and remembered.
step() {
    if [ "$(left)" -lt "${ENOUGH:-15}" ]; then
        say "no time is left for $*"
        failed=1
        return
    fi
    say "$*"
    timeout "$(left)" "$@" || { say "that ended with $?"; failed=1; }
    [ -z "${OUT:-}" ] || tar czf "$OUT/results.tar.gz" benchmarks/results/*-gpu.json "$place"/cache "$place"/*.json "$place"/build/.ninja_log 2>/dev/null || true
}

bench() {
    local python=.venv/bin/python server=() pair
    failed=0
    if packed; then
        python=python3
        environment
        server=(--server "$bin/llama-server")
    fi
    expand "$python" 4
    answers "$python" || { say "edgespec does not answer here"; return 1; }
    for pair in $passes; do
        step "$python" benchmarks/passes.py "$(file_of "$pair")" --name "$(name_of "$pair")" --rounds ${PROFILE:+--profile}
    done
    for pair in $peers; do
        step "$python" benchmarks/peers.py "$(file_of "$pair")" --name "$(name_of "$pair")" "${server[@]}" \
            --ours "$ours" --theirs "$theirs" --prompts "${PROMPTS:-12}" --tokens 64
    done
    for pair in $benches; do
        step "$python" benchmarks/bench_record.py "$(name_of "$pair")" -m "$(file_of "$pair")" -d demo-draft \
            --methods plain,auto,tree,tree@16 --prompts benchmarks/data/prompts_dev.jsonl --limit 14 --max-tokens 64
    done
    say "done"
    return "$failed"
}

case $what in
build) build ;;
bench) bench ;;
run)
    environment
    "${@:2}"
    ;;
all)
    build
    bench
    ;;
*) echo "gpu.sh: $what is neither build, bench, all nor run" >&2 && exit 2 ;;
esac
