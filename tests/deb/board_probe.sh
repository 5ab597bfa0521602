#!/bin/sh
# Looks around on the board of board.sh, as root, and says on the console what it sees: lines that begin with PROBE, which board.py reads.
say() { echo "PROBE $*"; }
told() { # name, command…: its lines
    name=$1
    shift
    "$@" 2>&1 | while read -r line; do say "$name $line"; done
}
soon() { # name, command…: waits ten minutes for it
    name=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ]; then say "missing $name"; return 0; fi
        sleep 2
    done
    say "seen $name"
}
enrolment_says() { millrace bootstrap status | tr -s '\n ' ' ' | grep -q "$1"; }
is_restarted() { [ "$(systemctl show --property NRestarts --value millrace)" = 1 ] && systemctl is-active millrace; }

soon active systemctl is-active millrace
soon enrolled enrolment_says ready
[ -e /boot/firmware/millrace-claim.toml ] || say "seen claim-gone"
told serial ls /dev/serial/port
told latency cat /sys/bus/usb-serial/devices/ttyUSB0/latency_timer
told memory systemctl show --property MemoryCurrent --value millrace
told exposure sh -c 'systemd-analyze security --no-pager millrace | grep Overall'
told status millrace status
say plug
soon stick enrolment_says 'used already'
kill -STOP "$(systemctl show --property MainPID --value millrace)"
soon restarted is_restarted
told journal journalctl --no-pager --unit millrace --unit millrace-claim
told issue cat /run/issue.d/millrace.issue
told failed systemctl --failed --no-legend --plain
told world find / -xdev -type f -perm /o+r -newer /etc/machine-id -size -64k -exec grep -l 'token-of-the-board' {} +
say delivers
sleep 20
say end
systemctl poweroff
