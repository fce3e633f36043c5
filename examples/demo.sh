#!/bin/sh
# The whole chain on this machine: pull, data, tune, eval, export, pack, serve, link, and a question answered over HTTP.
# `make demo` runs it. Everything it makes is under .demo; run it again and nothing is done twice.
set -eu
cd "$(dirname "$0")/.."
export XDG_DATA_HOME="${XDG_DATA_HOME:-$PWD/.demo}"

question="How is the Nimbrel mascot called?"  # held out: never in the training data in these words

hyb run recipes/quickstart

echo
echo "== What it learned: held-out phrasings and general questions, before and after =="
hyb show quickstart/exam | sed -n "/^SET/,\$p"

echo
if command -v podman >/dev/null; then
  echo "== The image in Podman =="
  sh examples/podman.sh quickstart/gguf "$question" || echo "Podman could not run it here (see above); the OCI layout is in the store all the same."
else
  echo "Podman is not installed: the image stays in the store, which is an OCI layout:"
  hyb show quickstart/image | head -3
fi

echo
echo "== The documents of the link =="
hyb link quickstart/van --out .demo/link

echo
echo "== A question over HTTP =="
trap 'hyb stop demo >/dev/null 2>&1 || true' EXIT
hyb serve quickstart/gguf --name demo --port 0 --detach
for q in "$question" "What is the capital of France?"; do
  echo "Q: $q"
  echo "A: $(hyb ask demo "$q" --max-tokens 48)"
done
