#!/bin/sh
# Makes .venv hold exactly what uv.lock says. Quiet and instant when it does already.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.locked
wanted=$(cat uv.lock pyproject.toml | cksum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

say() { printf '→ %s\n' "$*"; }

# The system's Python first: one below somebody's home is out of reach of the other accounts.
find_python() {
    for candidate in /usr/bin/python3 python3.12 python3.13 python3.11 python3; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if "$path" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
        then
            printf '%s' "$path"
            return 0
        fi
    done
    return 1
}

python=$(find_python) || {
    echo "Python 3.11, 3.12 or 3.13 is needed and was not found: apt-get install python3" >&2
    exit 1
}

find_uv() {
    if [ -x .tools/bin/uv ]; then
        printf '%s' "$PWD/.tools/bin/uv"
    elif command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
        command -v uv
    else
        return 1
    fi
}

install_uv() {
    version=$(awk '/^name = "uv"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' uv.lock)
    say "Installing uv $version"
    rm -rf .tools
    if ! "$python" -m venv .tools >/dev/null 2>&1; then
        rm -rf .tools
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
            echo "Python's venv module is missing: apt-get install python3-venv" >&2
            exit 1
        fi
        say "Installing python3-venv"
        apt-get update -qq >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            python3-venv >/dev/null 2>&1
        "$python" -m venv .tools
    fi
    .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$version"
}

# uv trusts authorities of its own; a company's stands in the system's file.
system_authorities=/etc/ssl/certs/ca-certificates.crt
if [ -z "${SSL_CERT_FILE:-}" ] && [ -f "$system_authorities" ]; then
    export SSL_CERT_FILE="$system_authorities"
fi

uv=$(find_uv) || { install_uv; uv=$PWD/.tools/bin/uv; }
say "Installing the locked dependencies into .venv"
# Web and MLflow run as accounts that cannot keep what they compile: they did it at every start.
"$uv" sync --frozen --quiet --compile-bytecode --python "$python"
printf '%s' "$wanted" >"$stamp"
