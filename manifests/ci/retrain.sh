#!/bin/sh
# Retrains on a cluster from any CI system: locked installation, tests, images, doctor, compile, submit, wait, verdict.
# Run it in a checkout. Ends as `submit --wait` does: 0 succeeded, 1 failed, 2 time is up or wrong usage, 3 cancelled,
# 4 the API did not answer. A job that ran out of time is run again: it joins the run that goes on.
#
#   RATCHET_STORE          s3://bucket/prefix                                           needed
#   KF_PIPELINES_ENDPOINT  address of Kubeflow Pipelines                                needed
#   RATCHET_NAMESPACE      namespace of the runs                                        ratchet
#   RECIPE                 what is trained, one after the other                         what changed since BEFORE
#   BEFORE                 a commit: recipes that changed since then are trained, and those that name a file below data/
#                          that did                                                     none: recipes/demo.yaml
#   PROFILE                where                                                        cpu
#   TIMEOUT_HOURS          how long it is waited for                                    5
#   REGISTRY               where images are built to; empty: those of docker/images.toml
#   SIGN                   set: images that are pushed, and releases, are signed by cosign (manifests/ci/sign.sh)
#   SUMMARY                file that the verdict is appended to, as Markdown            out/summary.md
#   OUTPUTS                file that run=, promoted=, model= and verdict= are appended to, for the jobs after this one
#                        (of several recipes one after the other; GitHub takes the last) out/outputs.env
#   STAGES                 which of them                                 install tests images doctor compile submit
#
# Rights: KF_PIPELINES_TOKEN, or KF_PIPELINES_SA_TOKEN_PATH with a file that is renewed; AWS_* for the store. Where the
# CI system hands out identity tokens as GitHub does, no key is kept anywhere: KFP_AUDIENCE has a token for Kubeflow
# renewed every four minutes, and AWS_ROLE_ARN one for AWS.
set -eu
umask 077
cd "$(dirname "$0")/../.."

: "${RATCHET_STORE:?set it to s3://bucket/prefix}"
: "${KF_PIPELINES_ENDPOINT:?set it to the address of Kubeflow Pipelines}"
PROFILE=${PROFILE:-cpu}
TIMEOUT_HOURS=${TIMEOUT_HOURS:-5}
STAGES=${STAGES:-install tests images doctor compile submit}
SUMMARY=${SUMMARY:-out/summary.md}
OUTPUTS=${OUTPUTS:-out/outputs.env}
PYTHON=${PYTHON:-.venv/bin/python}
export RATCHET_STORE KF_PIPELINES_ENDPOINT RATCHET_NAMESPACE="${RATCHET_NAMESPACE:-ratchet}"

tokens=$(mktemp -d)
renewing=
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$renewing" ]; then kill "$renewing" 2>/dev/null || true; fi
    rm -rf "$tokens"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# token AUDIENCE FILE: a fresh identity token. The request's own token goes by standard input, not as an argument.
token() {
    printf 'header = "Authorization: bearer %s"\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" |
        curl --silent --show-error --fail --retry 3 --config - \
            "${ACTIONS_ID_TOKEN_REQUEST_URL}&audience=$1" |
        sed -n 's/.*"value" *: *"\([^"]*\)".*/\1/p' >"$2.new"
    [ -s "$2.new" ] && mv "$2.new" "$2"
}
renew() {
    if [ -n "${KFP_AUDIENCE:-}" ]; then token "$KFP_AUDIENCE" "$tokens/kfp"; fi
    if [ -n "${AWS_ROLE_ARN:-}" ]; then token sts.amazonaws.com "$tokens/aws"; fi
}
if [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ]; then
    renew
    if [ -n "${KFP_AUDIENCE:-}" ]; then export KF_PIPELINES_SA_TOKEN_PATH="$tokens/kfp"; fi
    if [ -n "${AWS_ROLE_ARN:-}" ]; then export AWS_WEB_IDENTITY_TOKEN_FILE="$tokens/aws"; fi
    (
        trap 'kill "$nap" 2>/dev/null; exit 0' TERM
        while :; do
            sleep 240 &
            nap=$!
            wait "$nap"
            renew || echo "a token was not renewed" >&2
        done
    ) &
    renewing=$!
fi

# changed: recipes that a push changed, and those that name a file of data/ which it changed.
changed() {
    git -c core.quotePath=false diff --name-only --diff-filter=d "$BEFORE" HEAD -- recipes data | while read -r path; do
        case "$path" in
            recipes/*.yaml) echo "$path" ;;
            data/*) grep -lF "$path" recipes/*.yaml || true ;;
        esac
    done | sort -u
}
# A new branch has no commit before it, and a shallow checkout may lack it.
if [ -z "${RECIPE:-}" ] && [ -n "${BEFORE:-}" ] && git cat-file -e "$BEFORE^{commit}" 2>/dev/null; then
    RECIPE=$(changed)
    if [ -z "$RECIPE" ]; then
        echo "no recipe changed since $BEFORE, and none names data that did: nothing to train" >&2
        exit 0
    fi
fi
RECIPE=${RECIPE:-recipes/demo.yaml}

wanted() { case " $STAGES " in *" $1 "*) echo "== $1" >&2 ;; *) return 1 ;; esac; }

mkdir -p out "$(dirname "$SUMMARY")" "$(dirname "$OUTPUTS")"
if wanted install; then make setup; fi
if wanted tests; then make test; fi
if [ -n "${REGISTRY:-}" ] && wanted images; then
    make images REGISTRY="$REGISTRY"
    if [ -n "${SIGN:-}" ]; then manifests/ci/sign.sh images; fi
fi
if wanted doctor; then
    "$PYTHON" pipeline.py doctor --store "$RATCHET_STORE" --profile "$PROFILE"
fi
# train RECIPE: what comes after a failure is left out, whatever `set -e` is where it is called.
train() {
    if wanted compile; then
        echo "$1" >&2
        "$PYTHON" pipeline.py compile "$1" --profile "$PROFILE" -o out/pipeline.yaml || return
    fi
    if wanted submit; then
        "$PYTHON" pipeline.py submit out/pipeline.yaml --wait --timeout-hours "$TIMEOUT_HOURS" --summary "$SUMMARY" \
            --outputs "$OUTPUTS" || return
        if [ -n "${SIGN:-}" ]; then manifests/ci/sign.sh outputs "$OUTPUTS" || return; fi
    fi
}
first_failure=0
for recipe in $RECIPE; do
    status=0
    # The others are trained all the same.
    train "$recipe" || status=$?
    if [ "$first_failure" = 0 ]; then first_failure=$status; fi
done
exit "$first_failure"
