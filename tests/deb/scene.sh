# What the parts of life.sh work with: checks that are counted, copies of a Debian root, programs in it. Sourced.

work=$(mktemp -d)
running=()

# However the run ends: nothing runs on, nothing stays but the root that is kept for the next run.
clean() {
    local pid
    for pid in "${running[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait
    # A stick that an interrupted take-claim has mounted.
    awk -v w="$work/" 'index($2, w) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r place; do umount "$place" || true; done
    if [ -e "$work/stick" ]; then losetup --noheadings --output NAME -j "$work/stick" | xargs -r losetup -d; fi
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

ends() { # process, signal: its exit code
    local ended=0 pid left=()
    kill -"$2" "$1"
    wait "$1" || ended=$?
    for pid in "${running[@]}"; do [ "$pid" = "$1" ] || left+=("$pid"); done
    running=("${left[@]}")
    return $ended
}

passed=0 failed=0
check() { # what, command…
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$work/out" | head -20
    fi
}
not_checked() { echo "skipped $1"; }
not() { ! "$@"; }
same() { [ "$1" = "$2" ] || { echo "expected $2, found $1"; return 1; }; }
# Waits for a state, a minute at most: the machine may be busy.
soon() { local n; for n in $(seq 240); do "$@" >/dev/null 2>&1 && return 0; sleep 0.25; done; "$@"; }

# The copy of the root that a part works on.
root=$work/root
fresh() { rm -rf --one-file-system "$root"; cp -a "$base" "$root"; }
in_root() { chroot "$root" env -u TMPDIR DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# Conffiles that were edited stay, as an unattended upgrade does it.
install_deb() { cp "$1" "$root/p.deb"; local rc=0; in_root dpkg --force-confold -i /p.deb || rc=$?; rm -f "$root/p.deb"; return $rc; }
mode() { [ "$(stat -c '%a %U %G' "$root$1")" = "$2" ] || { stat -c '%a %U %G %n' "$root$1"; return 1; }; }
mode_in() { [ "$(in_root stat -c '%a %U %G' "$1")" = "$2" ] || { in_root stat -c '%a %U %G %n' "$1"; return 1; }; }
mode_as_number() { [ "$(stat -c '%a %u %g' "$root$1")" = "$2" ] || { stat -c '%a %u %g %n' "$root$1"; return 1; }; }
whole() { same "$(in_root dpkg-query -W -f '${db:Status-Status} ${Version}' millrace)" "installed $1"; }

other() { # version, package: the same files as another version of the package
    local tree=$work/tree
    rm -rf "$tree"
    dpkg-deb -R "$2" "$tree"
    sed -i "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
    dpkg-deb -Znone -b "$tree" "$work/millrace_$1.deb" >/dev/null
    echo "$work/millrace_$1.deb"
}

# What systemd does before it starts the service, and what it starts; its output goes to $work/agent.log.
agent=""
start_agent() {
    systemd-tmpfiles --root="$root" --create millrace.conf
    in_root install -d -o millrace -g millrace -m 0750 /run/millrace /var/lib/millrace
    : > "$work/agent.log"
    # The last of a chain of programs that each become the next one: its number is the agent's.
    chroot "$root" setpriv --reuid millrace --regid millrace --clear-groups env -i PATH=/usr/bin:/bin RUNTIME_DIRECTORY=/run/millrace \
        /usr/bin/millrace run >>"$work/agent.log" 2>&1 &
    agent=$!
    running+=("$agent")
}
stop_agent() { ends "$agent" TERM; }

planted='token-8d1f4c-planted'
claim() { printf 'url = "https://core.example/bootstrap"\ntoken = "%s"\n' "$planted" > "$1"; }
