#!/bin/sh
# Signs what CI publishes, by cosign, and checks such signatures. retrain.sh calls it where SIGN is set.
#
#   sign.sh images                      each image that docker/images.toml names by its digest; signatures go to its registry
#   sign.sh release NAME VERSION        a release: FOLDER/NAME-VERSION.sha256 with the digest of each of its files, and
#                                       FOLDER/NAME-VERSION.sigstore.json, the signature of that list
#   sign.sh outputs FILE                the release that the last lines promoted= and model= of FILE name, if there is one
#   sign.sh verify-images               that each of these images has a signature of IDENTITY
#   sign.sh verify-release NAME VERSION MODEL_FOLDER
#                                       that the list is signed by IDENTITY, and that MODEL_FOLDER holds just these files
#
#   COSIGN_KEY       the key (a file, or a KMS: awskms://…); empty: none, the CI's own identity signs (keyless)
#   COSIGN_PUBLIC_KEY  of that key, to verify; empty: IDENTITY and ISSUER
#   IDENTITY         who must have signed: https://github.com/OWNER/REPO/.github/workflows/retrain.yaml@refs/heads/main
#   ISSUER           who vouches for that                           https://token.actions.githubusercontent.com
#   COSIGN_OPTIONS   further options of each call, as for a private Sigstore
#   SIGNATURES       FOLDER                                         out/signatures
#   RATCHET_STORE    s3://bucket/prefix of the release              needed by `release`
#
# Keyless, the digest and the identity are entered in Sigstore's public log: the name of the repository becomes known. With
# a key it is digest and public key; COSIGN_OPTIONS="--use-signing-config=false --tlog-upload=false" enters nothing, and
# "--insecure-ignore-tlog" verifies such signatures.
set -eu
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-.venv/bin/python}
ISSUER=${ISSUER:-https://token.actions.githubusercontent.com}
SIGNATURES=${SIGNATURES:-out/signatures}

stop() {
    echo "error: $1" >&2
    exit 2
}
command -v cosign >/dev/null || stop "no cosign on PATH: go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3"

# published: image@digest of each family that a registry has.
published() {
    "$PYTHON" -c '
import tomllib
with open("docker/images.toml", "rb") as file:
    families = tomllib.load(file)["families"].values()
print(*("@".join((one["image"], one["digest"])) for one in families if one["digest"]), sep="\n")
'
}
images() {
    references=$(published)
    [ -n "$references" ] || stop "docker/images.toml has no digest: make images REGISTRY=registry.example/team"
    echo "$references"
}
# name NAME VERSION: the files' name; both become parts of a path.
name() {
    case "$1$2" in *[!A-Za-z0-9._-]*) stop "not a name and a version: $1 $2" ;; esac
    echo "$SIGNATURES/$1-$2"
}
# Words of COSIGN_OPTIONS are options each.
# shellcheck disable=SC2086
signed() {
    command=$1
    shift
    cosign "$command" --yes ${COSIGN_KEY:+--key "$COSIGN_KEY"} ${COSIGN_OPTIONS:-} "$@"
}
# shellcheck disable=SC2086
checked() {
    command=$1
    shift
    if [ -n "${COSIGN_PUBLIC_KEY:-}" ]; then
        cosign "$command" --key "$COSIGN_PUBLIC_KEY" ${COSIGN_OPTIONS:-} "$@"
    else
        : "${IDENTITY:?set it to who must have signed, or COSIGN_PUBLIC_KEY}"
        cosign "$command" --certificate-identity "$IDENTITY" --certificate-oidc-issuer "$ISSUER" ${COSIGN_OPTIONS:-} "$@"
    fi
}

# release NAME VERSION
release() {
    list=$(name "$1" "$2")
    mkdir -p "$SIGNATURES"
    "$PYTHON" pipeline.py releases "$1" --checksums "$2" --store "${RATCHET_STORE:?set it to s3://bucket/prefix}" \
        >"$list.sha256"
    signed sign-blob --bundle "$list.sigstore.json" "$list.sha256" >/dev/null
    echo "signed $list.sha256: $list.sigstore.json" >&2
}

case "${1:-} $#" in
    "images 1" | "verify-images 1")
        references=$(images)
        for reference in $references; do
            echo "$1 $reference" >&2
            if [ "$1" = images ]; then signed sign "$reference"; else checked verify "$reference" >/dev/null; fi
        done
        ;;
    "release 3")
        release "$2" "$3"
        ;;
    "outputs 2")
        if [ "$(sed -n 's/^promoted=//p' "$2" | tail -n 1)" = true ]; then
            # STORE/models/NAME/VERSION/
            folder=$(sed -n 's/^model=//p' "$2" | tail -n 1)
            folder=${folder%/}
            named=${folder%/*}
            release "${named##*/}" "${folder##*/}"
        else
            echo "nothing was released: nothing to sign" >&2
        fi
        ;;
    "verify-release 4")
        list=$(name "$2" "$3")
        checked verify-blob --bundle "$list.sigstore.json" "$list.sha256"
        # sha256sum looks at the files of the list alone: one more may be code.
        files=$(cd "$4" && find . -type f | sed 's|^\./||' | LC_ALL=C sort)
        listed=$(sed 's/^[0-9a-f]*  //' "$list.sha256" | LC_ALL=C sort)
        [ "$files" = "$listed" ] || stop "$4 holds other files than $list.sha256 lists"
        list=$(cd "$(dirname "$list")" && pwd)/$(basename "$list")
        (cd "$4" && sha256sum --check --quiet --strict "$list.sha256")
        ;;
    *) stop "usage: sign.sh images | release NAME VERSION | outputs FILE | verify-images | verify-release NAME VERSION MODEL_FOLDER" ;;
esac
