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

# Outside the cluster there is no route back to a pod, so the source address is
# replaced. Between pods it is kept, so that a pod sees which pod has connected.
nft -f - <<N
table ip pods {
    chain leaving {
        type nat hook postrouting priority 100;
        ip saddr $pods ip daddr != $pods masquerade
    }
}
N

# Pods and cluster DNS copy these resolvers. They have no IPv6, and with a search
# domain of the engine, queries for short names would leave the cluster.
resolvers=$(grep -E '^nameserver [0-9.]+$' /etc/resolv.conf) &&
    printf '%s\n' "$resolvers" >/etc/resolv.conf

# This file is written last, because with it the node becomes Ready.
printf '%s\n' "$plugins" >/etc/cni/net.d/10-pods.conflist
