#!/bin/bash
# Builds the oracle: real Xen 4.17 and a minimal dom0 (Debian's kernel, BusyBox, xl,
# xenstored, xenconsoled), from Debian packages only, into the cache folder given as $1.
# Nothing is installed on the host. Finishes at once when the cache is up to date.
#   KDEB  an already unpacked linux-image package (optional)
# Needs apt-get, dpkg, cpio, gzip, readelf.
set -euo pipefail
CACHE=$1
HERE=$(cd "$(dirname "$0")" && pwd)
XEN=4.17
KVER=${KVER:-6.1.0-50-amd64}
STAMP=$CACHE/stamp
WANT=$(cat "$0" "$HERE/dom0-init" | sha256sum | cut -c1-16)-$KVER
[ -e "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANT" ] && exit 0

fetch() { # packages with their whole closure, as on an empty system
    mkdir -p "$CACHE/debs/partial" "$CACHE/state"
    : > "$CACHE/state/status"
    apt-get -y -qq --no-install-recommends --download-only -o APT::Sandbox::User= \
        -o Dir::State::status="$CACHE/state/status" -o Dir::Cache::archives="$CACHE/debs" \
        -o Debug::NoLocking=1 install "$@"
}
if [ ! -e "$CACHE/pkg/.complete" ]; then
    fetch xen-utils-$XEN xenstore-utils xen-hypervisor-$XEN-amd64 busybox-static
    mkdir -p "$CACHE/pkg"
    for d in "$CACHE"/debs/*.deb; do
        case $d in */linux-image*) ;; *) dpkg -x "$d" "$CACHE/pkg" ;; esac
    done
    touch "$CACHE/pkg/.complete"
fi
P=$CACHE/pkg
K=${KDEB:-$CACHE/kernel-$KVER}
if [ ! -e "$K/boot/vmlinuz-$KVER" ]; then
    (cd "$CACHE/debs" && apt-get -qq -o APT::Sandbox::User= download "linux-image-$KVER")
    mkdir -p "$K.tmp"
    dpkg -x "$(ls "$CACHE"/debs/linux-image-"${KVER}"_*.deb | tail -1)" "$K.tmp"
    mv "$K.tmp" "$K"
fi

# dom0's root: the programs that are needed and the libraries that they name.
R=$CACHE/root
rm -rf "$R"
mkdir -p "$R"/{bin,sbin,proc,sys,dev,run,tmp,etc/xen/scripts,var/log/xen/console,var/lib/xen,var/lib/xenstored,lib/x86_64-linux-gnu,lib64,usr,mods,guests}
ln -s ../run "$R/var/run"
ln -s ../lib "$R/usr/lib"
ln -s ../bin "$R/usr/bin"
ln -s ../sbin "$R/usr/sbin"
cp "$P/bin/busybox" "$R/bin/"
for a in sh mount mkdir cat echo sleep insmod poweroff grep cut tail head rm date usleep timeout kill sed tr; do
    ln -s busybox "$R/bin/$a"
done
TOOLS=/lib/xen-$XEN/bin
mkdir -p "$R$TOOLS"
for t in xl xenstored xenconsoled xen-init-dom0 libxl-save-helper; do
    cp "$P/usr/lib/xen-$XEN/bin/$t" "$R$TOOLS/" 2> /dev/null || cp "$P/usr/sbin/$t" "$R$TOOLS/"
    ln -sf "$TOOLS/$t" "$R/bin/$t"
done
cp -L "$P/usr/bin/xenstore-read" "$R/bin/"
LIBS="$P/usr/lib/xen-$XEN/lib/x86_64-linux-gnu $P/usr/lib/xen-$XEN/lib $P/usr/lib/x86_64-linux-gnu $P/lib/x86_64-linux-gnu"
need() {
    local f n d found
    for f in "$@"; do
        for n in $(readelf -d "$f" 2> /dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
            [ -e "$R/lib/x86_64-linux-gnu/$n" ] && continue
            found=
            for d in $LIBS; do [ -e "$d/$n" ] && found=$d/$n && break; done
            [ -n "$found" ] || { echo "oracle: no library $n for $f" >&2; exit 1; }
            cp -L "$found" "$R/lib/x86_64-linux-gnu/$n"
            need "$found"
        done
    done
}
need "$R$TOOLS"/* "$R/bin/xenstore-read"
cp -L "$P/lib/x86_64-linux-gnu/libgcc_s.so.1" "$R/lib/x86_64-linux-gnu/" 2> /dev/null || cp -L "$P/usr/lib/x86_64-linux-gnu/libgcc_s.so.1" "$R/lib/x86_64-linux-gnu/"
cp -L "$P/lib64/ld-linux-x86-64.so.2" "$R/lib64/"
echo 'root:x:0:0:root:/:/bin/sh' > "$R/etc/passwd"
echo 'root:x:0:' > "$R/etc/group"
echo 'autoballoon="off"' > "$R/etc/xen/xl.conf"
M=$K/lib/modules/$KVER/kernel/drivers/xen
for m in xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs/xenfs; do cp "$M/$m.ko" "$R/mods/"; done
install -m 755 "$HERE/dom0-init" "$R/init"
(cd "$R" && find . | cpio -o -H newc --quiet | gzip -1) > "$CACHE/dom0.cpio.gz"
gzip -dc "$P/boot/xen-$XEN-amd64.gz" > "$CACHE/xen.elf"
cp "$K/boot/vmlinuz-$KVER" "$CACHE/vmlinuz"
sed -n 's/^Version: //p' <(dpkg -I "$(ls "$CACHE"/debs/xen-hypervisor-*.deb | tail -1)" | sed 's/^ //') > "$CACHE/xen-version"
rm -rf "$R"
echo "$WANT" > "$STAMP"
