#!/bin/sh
# The Python of the image `generate` with vLLM (make images VARIANT=-vllm), over this working tree:
#     make vllm VLLM_PYTHON=docker/vllm_python.sh
set -eu
temporary=${TMPDIR:-/tmp}
exec ${DOCKER:-docker} run --rm --network=none --cap-drop=ALL --security-opt=no-new-privileges --shm-size=1g \
    --user="$(id -u):$(id -g)" --volume="$temporary:/tmp" --volume="$temporary:$temporary" \
    --volume="$PWD:$PWD:ro" --workdir="$PWD" --env=PYTHONPATH="$PWD" \
    ratchet/generate:dev-vllm /opt/venv/bin/python "$@"
