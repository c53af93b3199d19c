#!/bin/sh
# Install the Debian packages that some tests need: "command package" a line in tests/debian-packages.txt.
# Says loudly what is missing where it cannot install; the tests that need it then fail and say so themselves.
set -eu

list=$(dirname "$0")/../tests/debian-packages.txt
missing=$(grep -v '^#' "$list" | while read -r command package; do
    [ -z "$command" ] || command -v "$command" >/dev/null 2>&1 || echo "$package"
done)
missing=$(echo $missing) # one line

[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing for the tests: $missing"
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi
cat >&2 <<TXT
********************************************************************************
NOT INSTALLED, and some tests need it: $missing
Install it by hand, for instance: sudo apt-get install $missing
********************************************************************************
TXT
