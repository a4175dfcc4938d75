# Runs inside the root file system of a kind node while its image is made: with
# bash -eu, in namespaces of its own (processes and mounts end with it).
# A node starts the same services as in kind's own images/base/Dockerfile.
mount -t proc proc /proc

rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
    /lib/systemd/system/multi-user.target.wants/* \
    /etc/systemd/system/*.wants/* \
    /lib/systemd/system/local-fs.target.wants/* \
    /lib/systemd/system/basic.target.wants/* \
    /lib/systemd/system/sockets.target.wants/*udev* \
    /lib/systemd/system/sockets.target.wants/*initctl*
echo ReadKMsg=no >>/etc/systemd/journald.conf
ln -sf /lib/systemd/systemd /sbin/init
systemctl --quiet enable kubelet.service containerd.service undo-mount-hacks.service
systemctl --quiet mask systemd-binfmt.service
# Each node gets its own machine id when it boots.
: >/etc/machine-id

# kubeadm finds the images of the control plane in the node's own containerd.
# The CRI plugins would want a network and cgroups; importing needs neither.
cat >/tmp/import.toml <<'T'
version = 3
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
T
containerd --config /tmp/import.toml --log-level warn &
for try in $(seq 150); do
    ctr version >/dev/null 2>&1 && break
    [ "$try" -lt 150 ] || { echo "containerd does not answer" >&2; exit 1; }
    sleep 0.2
done
for archive in /images/*.tar; do
    ctr --namespace k8s.io images import --no-unpack "$archive"
done
kill %1
wait %1 || true
rm -rf /images /tmp/import.toml /run/containerd
umount /proc
