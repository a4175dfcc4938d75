# Runs on a node, once: the pod network of a cluster without kindnetd.
#   node-network PODS PLUGINS [RANGE ADDRESS]…
# PODS is the range of all pods, PLUGINS the configuration of this node's CNI
# plugins; then ranges of the other nodes' pods and the nodes' addresses.
pods=$1 plugins=$2
shift 2
while [ $# -gt 0 ]; do
    ip route replace "$1" via "$2"
    shift 2
done

# Beyond the cluster nobody has a route back to a pod. Between pods the source
# is kept, so that they see who speaks to them.
nft -f - <<N
table ip pods {
    chain leaving {
        type nat hook postrouting priority 100;
        ip saddr $pods ip daddr != $pods masquerade
    }
}
N

# Pods and cluster DNS take this over. They have no IPv6, and a search domain
# of the engine's would send every question for a short name out of the cluster.
resolvers=$(grep -E '^nameserver [0-9.]+$' /etc/resolv.conf) &&
    printf '%s\n' "$resolvers" >/etc/resolv.conf

# Last: with it the node says that it is Ready.
printf '%s\n' "$plugins" >/etc/cni/net.d/10-pods.conflist
