//! The guest: our server on an emulated PCI NIC, under qemu, without KVM.
//!
//! The kernel is Debian's, unpacked and not installed; the root file system is busybox, the
//! server, the libraries and the DPDK drivers it needs. The NIC is virtio-net with two
//! queues and hash reporting on a TAP of two queues, bound to `uio_pci_generic`.

mod cpio;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host;
use crate::interop;
use crate::process::Cmd;
use cpio::Archive;

/// Interface of the host's end of the link.
pub(crate) const TAP: &str = "gtap0";
/// What Debian calls the kernel for cloud machines: small, and all we need is in it.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Kernel modules, in the order they are loaded.
const MODULES: [&str; 2] = ["kernel/drivers/uio/uio.ko", "kernel/drivers/uio/uio_pci_generic.ko"];
/// DPDK drivers that the server opens at run time.
const DRIVERS: [&str; 4] = ["bus_pci", "bus_vdev", "mempool_ring", "net_virtio"];

/// Makes the guest and a program that boots it, with the console on standard output.
///
/// # Errors
/// What is missing, or which step failed.
pub(crate) fn prepare(logs: &Path) -> Result<PathBuf, String> {
    let dir = host::target().join("guest");
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    host::dpdk()?;
    let server = interop::build_server(logs)?;
    let qemu = host::find_program("qemu-system-x86_64").ok_or("no qemu-system-x86_64")?;
    let kernel = kernel(&dir)?;
    let image = dir.join("initramfs.cpio");
    root_file_system(&kernel, &server, &image)?;

    let vmlinuz = first_under(&kernel.join("boot"), "vmlinuz-")?;
    let start = dir.join("start.sh");
    let script = format!(
        "#!/bin/sh\nexec {} -machine q35 -cpu max -accel tcg,thread=multi -smp 2 -m 2048 \\\n\
         \x20   -nographic -nodefaults -serial stdio -no-reboot \\\n\
         \x20   -kernel {} -initrd {} -append 'console=ttyS0 quiet panic=-1' \\\n\
         \x20   -netdev tap,id=n0,ifname={TAP},script=no,downscript=no,vhost=off,queues=2 \\\n\
         \x20   -device virtio-net-pci,netdev=n0,mq=on,rss=on,hash=on,vectors=10,\
         disable-legacy=on,romfile=,mac=52:54:00:77:00:02\n",
        qemu.display(),
        vmlinuz.display(),
        image.display(),
    );
    let explain = |error: std::io::Error| format!("{}: {error}", start.display());
    fs::write(&start, script).map_err(explain)?;
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).map_err(explain)?;
    Ok(start)
}

/// Debian's kernel, unpacked under `dir`.
fn kernel(dir: &Path) -> Result<PathBuf, String> {
    let unpacked = dir.join("kernel");
    if first_under(&unpacked.join("boot"), "vmlinuz-").is_ok() {
        return Ok(unpacked);
    }
    let depends = output(Cmd::new("apt-cache").args(["depends", KERNEL]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .ok_or(format!("apt-cache knows no {KERNEL}; run apt-get update"))?;
    output(Cmd::new("apt-get").args(["download", package]).dir(dir))?;
    let archive = first_under(dir, &format!("{package}_"))?;
    output(Cmd::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
    let _ = fs::remove_file(archive);
    Ok(unpacked)
}

fn root_file_system(kernel: &Path, server: &Path, image: &Path) -> Result<(), String> {
    let busybox = host::find_program("busybox").ok_or("no busybox (Debian: busybox-static)")?;
    let mut archive = Archive::default();
    for dir in
        ["bin", "proc", "sys", "dev", "tmp", "run", "var/run", "modules", "lib", "lib64", "root"]
    {
        archive.directory(dir);
    }
    archive.file("init", INIT.as_bytes(), 0o755);
    add(&mut archive, &busybox, "bin/busybox")?;
    add(&mut archive, server, "bin/server")?;

    let modules = first_under(&kernel.join("lib/modules"), "")?;
    for (order, module) in MODULES.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        add(&mut archive, &modules.join(module), &format!("modules/{order}-{name}"))?;
    }

    let mut programs = vec![server.to_path_buf()];
    let drivers = driver_directory()?;
    for driver in DRIVERS {
        programs.push(first_under(&drivers, &format!("librte_{driver}.so"))?);
    }
    let mut libraries = BTreeSet::new();
    for program in &programs {
        // The dynamic linker itself knows best what it will load, and from where.
        for line in output(Cmd::new("ldd").arg(program))?.lines() {
            if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
                libraries.insert(PathBuf::from(path));
            }
        }
    }
    libraries.extend(programs.into_iter().skip(1));
    // A library that is reached by two names must be one file, or it is loaded twice.
    let mut files = BTreeSet::new();
    for library in libraries {
        let file = library.canonicalize().map_err(|error| format!("{library:?}: {error}"))?;
        if file != library {
            archive.link(inside(&library), &file.to_string_lossy());
        }
        files.insert(file);
    }
    for file in files {
        add(&mut archive, &file, inside(&file))?;
    }
    fs::write(image, archive.finish()).map_err(|error| format!("{}: {error}", image.display()))
}

/// A path of ours, as a path in the archive.
fn inside(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

/// Where the EAL looks for drivers.
fn driver_directory() -> Result<PathBuf, String> {
    let lib = output(Cmd::new("pkg-config").args(["--variable=libdir", "libdpdk"]))?;
    first_under(&Path::new(lib.trim()).join("dpdk"), "pmds-")
}

/// Puts a file into the archive, with the directories above it.
fn add(archive: &mut Archive, from: &Path, to: &str) -> Result<(), String> {
    let bytes = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    archive.file(to, &bytes, 0o755);
    Ok(())
}

/// The entry of `dir` whose name begins with `prefix`, the shortest if there are several.
fn first_under(dir: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .min_by_key(|path| path.as_os_str().len())
        .ok_or(format!("nothing called {prefix}* in {}", dir.display()))
}

fn output(command: Cmd) -> Result<String, String> {
    let done = command
        .clone()
        .limit(Duration::from_secs(120))
        .run()
        .map_err(|error| format!("{}: {error}", command.line()))?;
    if done.ok() {
        Ok(done.output)
    } else {
        Err(format!("{}: {}: {}", command.line(), done.how(), done.tail(5)))
    }
}

/// The first process of the guest.
const INIT: &str = include_str!("init.sh");
