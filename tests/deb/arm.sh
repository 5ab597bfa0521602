#!/usr/bin/env bash
# Holds the programs for ARM to the one for amd64, under qemu-user: demo, scores of models, buffers that one architecture writes and another
# reads, TLS to mosquitto, a serial line, OPC UA, manual pages, `check`; glibc floor and size.
#
#   tests/deb/arm.sh FILE…       # packages or programs: one for amd64, then one for arm64, armhf or both
#
# Each program for ARM runs in a root of its own that has nothing but it and Debian's C library for that architecture. What it starts as
# /proc/self/exe (the examination of models) runs under the emulator, too, because the kernel knows the format: from a
# handler that the machine has registered (qemu-user-static with systemd-binfmt or binfmt-support) or, from Linux 6.7 on, from one that
# only the user namespace of this run knows. Mounts, handlers and files are those of the namespace and end with it: nothing of the
# machine is changed, no root is needed.
# Needs qemu-user-static, libc6-arm64-cross, libc6-armhf-cross, binutils for both, mosquitto, and `make setup`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
. "$repo/packaging/deb/targets.sh"
[ $# -ge 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
python=${MILLRACE_TEST_PYTHON:-$repo/.venv/bin/python}
[ -x "$python" ] || { echo "$python is missing; hint: make setup" >&2; exit 1; }

if [ -z "${MILLRACE_ARM_WORK:-}" ]; then
    # A socket's path has room for a hundred letters.
    MILLRACE_ARM_WORK=$(mktemp -d /tmp/arm.XXXXXX)
    export MILLRACE_ARM_WORK
    # Nothing is ever in it but in the namespace.
    trap 'rmdir "$MILLRACE_ARM_WORK"' EXIT
    # One of processes, too, so that none outlives this run.
    unshare --user --map-root-user --mount --pid --fork --kill-child --mount-proc "$0" "$@"
    exit
fi
work=$MILLRACE_ARM_WORK
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/site" "$work/bin"

elf_arch() { # program
    case "$(od -An -t u2 -j 18 -N 2 "$1" | tr -d ' ')" in
        62) echo amd64 ;;
        183) echo arm64 ;;
        40) echo armhf ;;
        *) echo "$1 is for none of the three architectures" >&2; return 1 ;;
    esac
}

handler() { # architecture: has the kernel start its programs with the emulator
    local name=aarch64
    [ "$1" = arm64 ] || name=arm
    [ ! -e "/proc/sys/fs/binfmt_misc/qemu-$name" ] || return 0
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || return 0
    # Flag F of that file: the emulator is opened now, so that it need not be in the root that it serves.
    tr -d '\n' < "/usr/lib/binfmt.d/qemu-$name.conf" > /proc/sys/fs/binfmt_misc/register 2>/dev/null || true
}

root_of() { # architecture, program: a root with the C library
    local arch=$1 root=$work/root-$1 libraries directory
    libraries=/usr/$(gnu "$arch")/lib
    mkdir -p "$root/lib" "$root/etc" "$root/usr/bin" "$root/tmp"
    cp "$libraries"/ld-linux-*.so.* "$libraries"/lib{c,m,gcc_s,dl,pthread,rt,resolv}.so.[0-9]* "$root/lib/"
    cp /etc/hosts "$root/etc/"
    cp "$2" "$root/usr/bin/millrace"
    chmod 755 "$root/usr/bin/millrace"
    for directory in /proc /dev /sys "$work/site" "$repo"; do
        mkdir -p "$root$directory"
        mount --rbind "$directory" "$root$directory"
    done
    mount -o remount,bind,ro "$root$repo"
    printf '#!/bin/sh\nexec chroot %q /usr/bin/millrace "$@"\n' "$root" > "$work/bin/$arch"
    chmod 755 "$work/bin/$arch"
}

passed=0 failed=0
verdict() { # holds (0 is yes), what
    if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok      $2"; else failed=$((failed + 1)); echo "FAILED  $2"; fi
}

programs=()
for file in "$@"; do
    [ -e "$file" ] || { echo "$file is missing; hint: make deb, or name a program or a package" >&2; exit 2; }
    mkdir "$work/unpacked"
    if dpkg-deb --field "$file" Architecture >/dev/null 2>&1; then
        dpkg-deb -x "$file" "$work/unpacked"
        mv "$work/unpacked/usr/bin/millrace" "$work/program"
    else
        cp "$file" "$work/program"
    fi
    rm -r "$work/unpacked"
    arch=$(elf_arch "$work/program")
    if [ "$arch" = amd64 ]; then
        mv "$work/program" "$work/bin/amd64"
        programs=("amd64=$work/bin/amd64" "${programs[@]}")
        continue
    fi
    asked=$(glibc_asked "$arch" "$work/program") size=$(stat -c %s "$work/program")
    verdict "$(is_within_floor "$asked"; echo $?)" "$arch: it asks for glibc $asked; at most $(glibc_floor) is meant"
    verdict "$([ "$size" -le $((binary_max_mb * 1000000)) ]; echo $?)" "$arch: it has $((size / 1000)) kB; at most $binary_max_mb MB are meant"
    handler "$arch"
    root_of "$arch" "$work/program"
    if ! "$work/bin/$arch" --version > "$work/said" 2>&1; then
        echo "the program for $arch does not start: $(tail -1 "$work/said")" >&2
        echo "hint: install qemu-user-static, and have its handlers registered: sudo systemctl restart systemd-binfmt" >&2
        exit 1
    fi
    programs+=("$arch=$work/bin/$arch")
done
case "${programs[0]}" in amd64=*) ;; *) echo "a program for amd64 is needed to hold the others against" >&2; exit 2 ;; esac

code=0
"$python" -B "$here/arm.py" "$work/site" "${programs[@]}" || code=1
echo "glibc and size: $passed passed, $failed failed"
[ "$code" = 0 ] && [ "$failed" = 0 ]
