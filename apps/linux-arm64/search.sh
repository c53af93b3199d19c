#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Starts the program with the C libraries that came with it, so that any arm64 Linux will do.
# On another processor DMEDGE_EMULATOR names an emulator, such as "qemu-aarch64-static -cpu cortex-a76".
here=$(dirname "$(readlink -f "$0")")
exec $DMEDGE_EMULATOR "$here/lib/ld-linux-aarch64.so.1" --library-path "$here/lib" "$here/lib/search" \
    --bundle "$here/bundle" "$@"
