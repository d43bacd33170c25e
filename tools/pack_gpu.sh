#!/usr/bin/env bash
# Packs what `make bench-gpu` needs on a machine without network into .gpu/ (about 40 MB): llama.cpp's sources as
# llama-cpp-python's sdist vendors them, what `make llama-server` built of them (all but ggml runs there as well), wheels
# of what edgespec imports, and the commit's name.
# usage: tools/pack_gpu.sh [PYTHON_VERSION=3.12]     the Python version of the GPU machine, Linux on x86-64
set -euo pipefail
cd "$(dirname "$0")/.."
python_version=${1:-3.12}
version=$(sed -n 's/.*"llama-cpp-python==\([0-9.]*\)".*/\1/p' pyproject.toml)
pip=(.venv/bin/python -m pip)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf .gpu
mkdir .gpu

echo "edgespec: fetching the sources of llama-cpp-python $version" >&2
"${pip[@]}" download -q --no-deps --no-binary llama-cpp-python -d "$work" "llama-cpp-python==$version"
tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
source_folder=$(echo "$work"/llama_cpp_python-*/)
cpp=vendor/llama.cpp
left_out=()
for folder in models docs benches media; do left_out+=(--exclude="$cpp/$folder"); done
for backend in et metal hexagon sycl vulkan opencl cann webgpu musa hip; do
    left_out+=(--exclude="$cpp/ggml/src/ggml-$backend")
done
tar "${left_out[@]}" -C "$source_folder" -c vendor llama_cpp | xz -6 >.gpu/sources.tar.xz

echo "edgespec: fetching wheels for Python $python_version" >&2
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
"${pip[@]}" download -q --only-binary=:all: --python-version "$python_version" --implementation cp \
    "${platforms[@]}" -d .gpu/wheels gguf jinja2 platformdirs psutil rich typer diskcache
if program=$(.venv/bin/python -c 'from tools import llama_server; print(llama_server.find() or "")') && [ -n "$program" ]; then
    tar -C "$(dirname "$program")" -c . | xz -6 >.gpu/host.tar.xz
fi
git rev-parse --short HEAD >.gpu/commit
du -sh .gpu | sed 's/^/edgespec: packed /' >&2
