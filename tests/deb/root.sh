# The Debian 12 root that packages are tried in, made by debootstrap where it is not there. Sourced by life.sh and board.sh.

root_of() { # architecture, directory of roots: leaves its place in $base
    base=$2/$1
    if [ ! -x "$base/usr/bin/dpkg" ]; then
        echo "Making a Debian 12 root in $base"
        mkdir -p "$2"
        rm -rf "$base.new"
        debootstrap --arch="$1" --variant=minbase --include=systemd,udev,ca-certificates bookworm "$base.new" >"$work/debootstrap.log" 2>&1 ||
            { tail -5 "$work/debootstrap.log"; rm -rf "$base.new"; exit 1; }
        mv "$base.new" "$base"
    fi
    base=$(readlink -e "$base")
}
