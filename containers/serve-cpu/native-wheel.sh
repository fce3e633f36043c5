#!/bin/sh
# native-wheel.sh WHEELS: llama.cpp for this machine's own instructions (AVX-512, …) in place of the portable wheel.
#
# WHEELS is the folder that serve-cpu is built from. The wheel of xllamacpp there gives the version; its source package
# comes from PyPI (or lies in WHEELS already), is compiled here, and its wheel takes the portable one's place: the same
# API, the same server. Needs a C++ compiler; takes about ten minutes of two cores. The result runs on CPUs like this one
# only, and wants this machine's glibc or a newer one. For another CPU: CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON".
# BUILD=FOLDER keeps what was compiled there: a build that was cut goes on.
#
# What the portable wheel has and this one has not: BoringSSL and LLGuidance, whose sources CMake would fetch from
# elsewhere. The server speaks to the gateway without TLS; a JSON schema becomes llama.cpp's own grammar.
set -eu
wheels=$(cd "$1" && pwd)
python=${PYTHON:-python3}
portable=$(ls "$wheels"/xllamacpp-*-manylinux*.whl)
version=$(basename "$portable" | cut -d- -f2)
scratch=${BUILD:-$(mktemp -d)}
[ -n "${BUILD:-}" ] || trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"

"$python" -m venv "$scratch/venv"
pip="$scratch/venv/bin/pip --disable-pip-version-check -q"
$pip install 'setuptools>=61' 'cython>=3.1' 'versioneer[toml]' wheel cmake ninja
source=$wheels/xllamacpp-$version.tar.gz
tree=$scratch/xllamacpp-$version
if [ ! -d "$tree" ]; then
  if [ ! -e "$source" ]; then
    $pip download --no-deps --no-build-isolation --no-binary=xllamacpp -d "$scratch" "xllamacpp==$version"
    source=$scratch/xllamacpp-$version.tar.gz
  fi
  tar -xzf "$source" -C "$scratch"
fi
# Nothing is fetched from here on: the switches turn off all that would be.
PATH=$scratch/venv/bin:$PATH \
CMAKE_GENERATOR=Ninja \
CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DLLAMA_LLGUIDANCE=OFF -DLLAMA_BUILD_BORINGSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF ${CMAKE_ARGS:-}" \
  $pip wheel --no-deps --no-build-isolation --no-index -w "$scratch/out" "$tree"
# pip takes a manylinux wheel before any other, so the portable one must go.
rm "$portable"
mv "$scratch"/out/xllamacpp-*.whl "$wheels/"
ls "$wheels"/xllamacpp-*.whl
