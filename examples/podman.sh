#!/bin/sh
# A model of the store in Podman: hand the image over, build the runtime image if it is not there, ask it a question.
# Usage: podman.sh MODEL [QUESTION]      BASE=IMAGE@sha256:… chooses the base image of the runtime.
set -eu
cd "$(dirname "$0")/.."
model=${1:?usage: podman.sh MODEL [QUESTION]}
question=${2:-What is the capital of France?}
runtime=localhost/hyb-serve-cpu:latest

hyb pack "$model" --name hyb-demo-model --to-podman

if ! podman image exists "$runtime"; then
  base=${BASE:-docker.io/library/python:3.12-slim}
  podman image exists "$base" || timeout 300 podman pull -q "$base" || {
    echo "no base image: \`$base\` can't be pulled here; give one with BASE=IMAGE" >&2
    exit 3
  }
  version=$(podman run --rm --network=none "$base" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  wheels=$(mktemp -d)
  python3 -m pip wheel -q --no-deps -w "$wheels" .
  python3 -m pip download -q --only-binary=:all: --python-version "$version" -d "$wheels" pip "$(ls "$wheels"/hyb-*.whl)[serve]"
  podman build -q --network=none --build-arg BASE="$base" -t "$runtime" -f containers/serve-cpu/Containerfile "$wheels"
  rm -rf "$wheels"
fi

key=$(mktemp)
trap 'podman rm -f -t 2 hyb-demo >/dev/null 2>&1 || true; rm -f "$key"' EXIT
python3 -c 'import secrets; print("hyb_sk_" + secrets.token_urlsafe(32))' > "$key"
chmod 0444 "$key"
podman run -d --name hyb-demo --read-only --cap-drop=all --security-opt=no-new-privileges --pids-limit=256 \
  -e HYB_NAME=demo -p 127.0.0.1:8099:8000 --mount type=image,source=localhost/hyb-demo-model,destination=/models \
  -v "$key:/run/secrets/api-key:ro" "$runtime" >/dev/null
for _ in $(seq 60); do
  python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8099/ready", timeout=2)' 2>/dev/null && break
  sleep 1
done
KEY_FILE=$key QUESTION=$question python3 - <<'PY'
import json, os, urllib.request
body = {"model": "demo", "max_tokens": 48, "temperature": 0, "messages": [{"role": "user", "content": os.environ["QUESTION"]}]}
headers = {"Authorization": "Bearer " + open(os.environ["KEY_FILE"]).read().strip(), "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8099/v1/chat/completions", json.dumps(body).encode(), headers)
print("from the container:", json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["message"]["content"])
PY
