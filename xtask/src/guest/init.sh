#!/bin/busybox sh
# First process of the guest: binds the NIC to uio_pci_generic and runs the server on it.
/bin/busybox --install -s /bin
# DPDK loads no drivers from below a directory that everyone may write.
/bin/chmod 755 /
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
ip link set lo up 2>/dev/null || ifconfig lo up
for module in /modules/*; do insmod "$module"; done
mkdir -p /dev/hugepages
mount -t hugetlbfs hugetlbfs /dev/hugepages
echo 400 > /proc/sys/vm/nr_hugepages

nic=
for device in /sys/bus/pci/devices/*; do
    # virtio-net, modern
    if [ "$(cat "$device/vendor"):$(cat "$device/device")" = 0x1af4:0x1041 ]; then
        nic=${device##*/}
        echo uio_pci_generic > "$device/driver_override"
        echo "$nic" > /sys/bus/pci/drivers_probe
    fi
done
echo "guest: NIC $nic, driver $(basename "$(readlink "/sys/bus/pci/devices/$nic/driver")"), $(nproc) CPUs"

export THRONG_DEVICE="dpdk:$nic"
export THRONG_ADDRESS=10.77.0.2/24,fd77::2/64
export THRONG_SHARDS=2
export THRONG_IDLE=adaptive
export RUST_LOG=info RUST_BACKTRACE=1 NO_COLOR=1
/bin/server
echo "guest: the server ended with exit code $?"
poweroff -f
