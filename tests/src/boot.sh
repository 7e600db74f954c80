# Boots systemd as process 1 over this machine's own files, none of which it can change: it writes to memory.
# Arguments: a folder to mount on. Run in namespaces of its own: mount, pid, uts, ipc, net, cgroup.
set -e
top=$1
mount --make-rprivate /
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
mount -t proc proc proc
# The kernel's settings are the machine's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
	touch "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
: >etc/fstab
# In images for containers it forbids services to start.
rm -f usr/sbin/policy-rc.d
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service systemd-sysctl.service \
	systemd-remount-fs.service systemd-random-seed.service kmod-static-nodes.service timers.target \
	dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
mkdir -p old
pivot_root . old
exec env -i container=marram-test PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c \
	'umount -l /old; exec /lib/systemd/systemd --system --unit=basic.target --show-status=0'
