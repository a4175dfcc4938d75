# Runs a program of the node in the network and with the resolver of a pod on
# this node, because images from scratch contain no client.
#   in-pod POD COMMAND…
# The container runtime sets the pod's name in each container's environment.
pod=$1
shift
found=$(grep -lzx "HOSTNAME=$pod" /proc/[0-9]*/environ 2>/dev/null | head -n 1) || true
[ -n "$found" ] || { echo "no process of the pod $pod runs on $(hostname)" >&2; exit 1; }
process=${found#/proc/}
process=${process%/environ}
resolver=$(mktemp)
trap 'rm -f "$resolver"' EXIT
cat "/proc/$process/root/etc/resolv.conf" >"$resolver"
nsenter --target "$process" --net unshare --mount sh -euc '
    mount --bind "$0" /etc/resolv.conf
    exec "$@"
' "$resolver" "$@"
