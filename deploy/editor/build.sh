#!/bin/sh
# Makes mlops_site/static/mlops_site/vendor/codemirror again, from the versions of package-lock.json.
# Needs Node.js and npm, and its registry; nothing of it is kept but the bundles and their licence.
# To update: change the versions in package.json, run this with --update, and look at the console.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
vendor="$here/../../mlops_site/static/mlops_site/vendor/codemirror"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here"/*.json "$here"/*.js "$work/"
cd "$work"
if [ "${1:-}" = "--update" ]; then
    rm -f package-lock.json
    npm install --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved
    cp package-lock.json "$here/"
else
    npm ci --ignore-scripts --no-audit --no-fund
fi
mkdir -p "$vendor"
for name in editor highlight; do
    # Classic scripts, each with one name in the page; letters beyond ASCII are kept as escapes.
    npx esbuild "$name.js" --bundle --minify --format=iife --target=es2022 --charset=ascii \
        --legal-comments=none --global-name="CodeMirror_$name" --outfile="$vendor/$name.min.js"
done
cp node_modules/@codemirror/state/LICENSE "$vendor/LICENSE"
(cd "$vendor" && sha256sum editor.min.js highlight.min.js)
