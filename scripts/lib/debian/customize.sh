#!/bin/sh
# Makes a bootable guest of the packages: mmdebstrap runs this text outside the new system, whose root is $1.
set -eu
root=$1
say() { echo "I: $*" >&2; }

say 'configuring the guest'
echo debian >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n' >"$root/etc/hosts"
printf '/dev/xvda\t/\text4\terrors=remount-ro\t0\t1\n' >"$root/etc/fstab"
echo "root:$GUEST_PASSWORD" | chroot "$root" chpasswd
printf '\\S{PRETTY_NAME} \\n \\l (root, password %s)\n\n' "$GUEST_PASSWORD" >"$root/etc/issue"
# An id of its own, so that the first boot is like every other one.
chroot "$root" systemd-machine-id-setup >/dev/null 2>&1

# There is no network yet: what fetches packages would only wait.
for unit in apt-daily.timer apt-daily-upgrade.timer; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# What update-grub would write, without a disk to look at. vmlinuz and initrd.img are the kernel package's own links.
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<'END'
set default=0
set timeout=1
menuentry 'Debian GNU/Linux' {
	search --no-floppy --set=root --label debian
	echo 'Loading the kernel ...'
	linux /vmlinuz root=/dev/xvda ro console=hvc0 quiet
	echo 'Loading the initial ramdisk ...'
	initrd /initrd.img
}
END
for link in vmlinuz initrd.img; do
	[ -e "$root/$(readlink "$root/$link")" ] || { echo "$link leads nowhere" >&2; exit 1; }
done

# Only for the way from the host to the archive.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
